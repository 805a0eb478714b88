"""Text embeddings by extractors with a text tower (CLIP), in the space of their image features."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from eval.extractors.base import Extractor
from eval.inputs.folders import ImageFolder
from sdcxr.io.manifest import text_key
from sdcxr.runtime.errors import UserError


def extract_texts(texts: Sequence[str], extractor: Extractor) -> np.ndarray:
    """Embeddings of texts, shape (n, dimension), float32; what passes the tower's length is cut off.

    Raises:
        UserError: the extractor has no text tower.
    """
    tower = extractor.load_texts
    if tower is None:
        name = extractor.given_name
        raise UserError(f"--extractor {name} has no text tower: give one that has, e.g. a run of --tune clip")
    from sdcxr.runtime.processes import processes

    distinct, rows = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    return np.asarray(tower(processes().device)(distinct.tolist()), dtype=np.float32)[rows]


def with_text(folder: ImageFolder) -> np.ndarray:
    """Row numbers of images with a text; none if all texts are equal, since then every text matches every image."""
    texts = folder.rows["text"] if "text" in folder.rows else pd.Series("", folder.rows.index)
    keys = texts.map(text_key).to_numpy()
    rows = np.flatnonzero(keys != "")
    return rows if len(set(keys[rows])) > 1 else rows[:0]
