"""Text embeddings by extractors with a text tower (CLIP), in the space of their image features."""

from collections.abc import Sequence

import numpy as np

from eval.extractors.base import Extractor, TextFeatures
from eval.inputs.folders import ImageFolder
from sdcxr.io.manifest import text_key
from sdcxr.runtime.errors import UserError


def extract_texts(texts: Sequence[str], extractor: Extractor) -> TextFeatures:
    """Embeddings of texts, float32; what passes the tower's length is cut off, and counted.

    Raises:
        UserError: the extractor has no text tower.
    """
    tower = extractor.load_texts
    if tower is None:
        name = extractor.given_name
        raise UserError(f"--extractor {name} has no text tower: give one that has, e.g. a run of --tune clip")
    from sdcxr.runtime.processes import processes

    distinct, rows = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    found = tower(processes().device)(distinct.tolist())
    return TextFeatures(np.asarray(found.values, dtype=np.float32)[rows], found.cut[rows])


def why_no_texts(folder: ImageFolder, flag: str) -> str:
    """The message about a folder whose images have no two different texts."""
    about = f"{flag} {folder.folder}"
    if "text" in folder.rows:
        return f"{about}: its images have no two different texts (column text of {folder.table and folder.table.name})"
    if folder.table is not None:
        return f"{about}: {folder.table.name} has no column text, so its images have no prompts"
    return f"{about} has no metadata.csv, so its images have no prompts: write one with file_name and text"


def with_text(folder: ImageFolder) -> np.ndarray:
    """Row numbers of images with a text; none if all texts are equal, since then every text matches every image."""
    keys = folder.texts.map(text_key).to_numpy()
    rows = np.flatnonzero(keys != "")
    return rows if len(set(keys[rows])) > 1 else rows[:0]
