"""Feature extractors: the Extractor and Family interfaces, and the request that a family builds an extractor from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from sdcxr.io.content_hash import file_digests
from sdcxr.runtime.errors import UserError


@dataclass(frozen=True)
class Request:
    """An extractor as the user named it: `name@variant`, and the folder of `--weights_dir`."""

    name: str
    variant: str | None
    weights_dir: Path | None

    def choose(self, variants: tuple[str, ...]) -> str:
        """The requested variant; by default the first.

        Raises:
            UserError: there is no such variant; lists those there are.
        """
        if self.variant is None:
            return variants[0]
        if self.variant not in variants:
            raise UserError(f"{self.name}@{self.variant}: no such variant (it has: {', '.join(variants)})")
        return self.variant


class TextFeatures(NamedTuple):
    """Texts through a text tower."""

    values: np.ndarray
    """Shape (n, dimension), in the space of the images."""
    cut: np.ndarray
    """Which texts are longer than the tower reads, bool, shape (n,): what differs behind the cut is not seen."""

    @property
    def note(self) -> str | None:
        """A caveat for scores of these texts."""
        n_cut = int(self.cut.sum())
        return f"{n_cut} of {len(self.cut)} texts are longer than the text tower reads: they are cut" if n_cut else None


@dataclass(frozen=True)
class Extractor:
    """A network with its preprocessing of an image; everything but `load` is known without loading the network."""

    name: str
    """In full, with the variant: `xrv-all@roentgen`."""
    preprocessing: str
    """The filters and sizes in their order, in words."""
    prepare: Callable[[Image.Image], np.ndarray]
    """A grey image (mode L, see `in_colour`) of any size to one input (channels, height, width); picklable."""
    load: Callable[[Any], Callable[[Any], Any]]
    """The network on a torch device: inputs (batch, channels, height, width) to features (batch, dimension)."""
    dimension: int | None = None
    """Width of the features where it is known without the network."""
    weights: tuple[Path, ...] = ()
    """Files that determine the network; empty where it needs no weights."""
    libraries: tuple[str, ...] = ()
    """Distributions whose versions matter, beside torch and pillow."""
    load_texts: Callable[[Any], Callable[[list[str]], "TextFeatures"]] | None = None
    """The text tower on a torch device: texts to features in the images' space; None where there is none."""
    in_colour: bool = False
    """Whether `prepare` takes an image in colour (mode RGB)."""
    given_name: str = ""
    """The name as the user gave it, for score rows and messages; set by `find_extractor`."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the features depend on beside the images: name, preprocessing, checksums of weights, versions."""
        digests = file_digests(self.weights)
        return {
            "extractor": self.name,
            "resize": self.preprocessing,
            "sha256": {file.name: digest.tobytes().hex() for file, digest in zip(self.weights, digests, strict=True)},
            "versions": {name: installed_version(name) or "unknown" for name in ("torch", "pillow", *self.libraries)},
        }


def installed_version(distribution: str) -> str | None:
    """The version of a distribution; None if it is not installed, or a source checkout without metadata."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


class Family(Protocol):
    """A kind of extractors: a module, or an object, with these members. Importing it must not import torch."""

    NAMES: dict[str, str]
    """Names (`…` for what follows) with a description each, for `python -m eval.features --list`."""

    def matches(self, name: str) -> bool:
        """Whether a name, without its variant, or a folder is of this family."""

    def build(self, request: Request) -> Extractor:
        """The extractor, whose network is not loaded yet.

        Raises:
            UserError: there is no such name or variant, or its weights are absent.
        """
