"""Text embeddings by extractors with a text tower (CLIP), in the space of their image features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from eval import extractors
from eval.inputs.folders import ImageFolder
from sdcxr.io.manifest import text_key
from sdcxr.runtime.errors import UserError


def has_texts(extractor: str, weights_dir: Path | None = None) -> bool:
    """Whether an extractor embeds texts, too.

    Raises:
        UserError: nobody knows the extractor, or its weights are absent.
    """
    return extractors.find_extractor(extractor, weights_dir).load_texts is not None


def extract_texts(texts: Sequence[str], extractor: str, *, weights_dir: Path | None = None) -> np.ndarray:
    """Embeddings of texts, shape (n, dimension), float32; what passes the tower's length is cut off.

    Raises:
        UserError: the extractor has no text tower; nobody knows it; its weights are absent.
    """
    tower = extractors.find_extractor(extractor, weights_dir).load_texts
    if tower is None:
        raise UserError(f"--extractor {extractor} has no text tower: give one that has, e.g. a run of --tune clip")
    from sdcxr.runtime.processes import processes

    distinct, rows = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    return np.asarray(tower(processes().device)(distinct.tolist()), dtype=np.float32)[rows]


def with_text(folder: ImageFolder) -> np.ndarray:
    """Row numbers of images with a text; none if all texts are equal, since then every text matches every image."""
    texts = folder.rows["text"] if "text" in folder.rows else pd.Series("", folder.rows.index)
    keys = texts.map(text_key).to_numpy()
    rows = np.flatnonzero(keys != "")
    return rows if len(set(keys[rows])) > 1 else rows[:0]
