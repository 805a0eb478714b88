"""Features of image folders: arrays with names and provenance, extracted once and cached. Scores never see pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.folders import ImageFolder


@dataclass(frozen=True)
class Features:
    """What an extractor sees in a folder of images."""

    values: np.ndarray
    """Shape (images, dimension), float32."""
    ids: list[str]
    """`ImageFolder.ids` of the rows, in the order of the folder."""
    provenance: dict[str, Any]
    """extractor, sha256 of its weights, resize path, library versions, number of images."""


def extract(
    images: ImageFolder, extractor: str, *, weights_dir: Path | None = None, cache_dir: Path | None = None
) -> Features:
    """Features of all images, from the cache where it holds them.

    Args:
        images: the folder.
        extractor: a name of `extractors()`, or a folder with a model.
        weights_dir: where the weights of named extractors lie.
        cache_dir: where arrays are kept; default: `.features` below the user's cache.

    Raises:
        UserError: the weights are absent (file, size, origin are named), or images are unreadable (they are listed).
    """
    raise NotImplementedError
