"""Which real image a synthetic one belongs to: by the id of its prompt, by the name of its file, else by equal text."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from sdcxr.io.manifest import LABELS, image_ids, text_key
from sdcxr.runtime.errors import UserError

COUNTS = 2  # numbers behind the id in a file's name: of the image, and a seed
COUNTER = re.compile(r"[A-Za-z]*[-_ ]?\d{1,6}")


class Pairing(NamedTuple):
    """The real image of each synthetic one."""

    rows: np.ndarray
    """Row numbers of real images, -1 where there is none, shape (n_synthetic,)."""
    by: str
    """What is equal: "id" or "text"; "" where nothing is."""

    @property
    def note(self) -> str | None:
        """A caveat for scores of pairs."""
        return "paired by equal text: the samples have no ids of --real" if self.by == "text" else None


def prompt_ids(real: pd.DataFrame, samples: pd.DataFrame) -> pd.Series:
    """The id of each sample's prompt: the column id, else the id of a real image that its file is named after; or "".

    RoentGen, as generate.py, names the k-th image of a prompt `<dicom_id>_<k>.jpg`. Where real images are known by the
    names of their files only, and these just count (12.png), equal names say nothing.
    """
    if "id" in samples:
        return samples["id"]
    known = {name for name in image_ids(real) if "dicom_id" in real or not COUNTER.fullmatch(name)}
    stems = samples["file_name"].map(lambda name: Path(name).stem)
    for _ in range(COUNTS):
        stems = stems.where(stems.isin(known), stems.str.replace(r"[_-]\d+$", "", regex=True))
    return stems.where(stems.isin(known), "")


def pair_rows(real: pd.DataFrame, samples: pd.DataFrame, where: str) -> Pairing:
    """Pair samples with real images, all by id or, where no id is known, all by equal text (`text_key`).

    Images of a text that several real images have are paired with them in turn. `where` is the real folder.

    Raises:
        UserError: two real images have the id of one prompt.
    """
    ids = image_ids(real)
    wanted = prompt_ids(real, samples)
    twice = ids[ids.duplicated() & ids.isin(wanted)]
    if len(twice):
        raise UserError(f"{where}: two images have the id {twice.iloc[0]}: make ids in metadata.csv unique")
    place = {name: i for i, name in enumerate(ids)}
    rows = wanted.map(lambda name: place.get(name, -1)).to_numpy(int)
    if (rows >= 0).any():
        return Pairing(rows, "id")
    rows = _equal_texts(real, samples)
    return Pairing(rows, "text" if (rows >= 0).any() else "")


def _equal_texts(real: pd.DataFrame, samples: pd.DataFrame) -> np.ndarray:
    if "text" not in real or "text" not in samples:
        return np.full(len(samples), -1)
    having: dict[str, list[int]] = {}
    for i, text in enumerate(real["text"]):
        having.setdefault(text_key(text), []).append(i)
    having.pop("", None)
    keys = samples["text"].map(text_key)
    turn = keys.groupby(keys).cumcount()
    places = [having.get(key, [-1]) for key in keys]
    return np.array([rows[k % len(rows)] for rows, k in zip(places, turn, strict=True)], dtype=int)


def with_prompt_rows(real: pd.DataFrame, samples: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The samples with the ids, texts and labels that their table lacks and the rows of their prompts have.

    Returns:
        The rows, and a remark for each column or group of columns that was added.
    """
    known, n = image_ids(real), len(samples)
    remarks = []
    if "id" not in samples:
        ids = prompt_ids(real, samples)
        if not (ids != "").any():
            if "text" not in samples:
                return samples, ["no prompts: there is no table, and no file is named after an image of --real"]
            return _with_labels_of_texts(real, samples)
        samples = samples.assign(id=ids)
        remarks.append(
            f"no ids: {(ids != '').sum()} of {n} files are named after an image of --real, taken as their id"
        )
    row_of = real.assign(known=known).drop_duplicates("known").set_index("known")
    found = samples["id"].isin(row_of.index)
    if not found.any():
        filled, more = _with_labels_of_texts(real, samples)
        return filled, remarks + more
    if "text" not in samples and "text" in real:
        samples = samples.assign(text=samples["id"].map(row_of["text"]).fillna(""))
        remarks.append(f"no texts: those of their prompts' rows in --real are taken for {found.sum()} of {n} images")
    labels = [] if set(LABELS) & set(samples) else [label for label in LABELS if label in real]
    if labels:
        samples = samples.assign(**{label: samples["id"].map(row_of[label]) for label in labels})
        remarks.append(f"no labels: those of their prompts' rows in --real are taken for {found.sum()} of {n} images")
    return samples, remarks


def _with_labels_of_texts(real: pd.DataFrame, samples: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The samples with the labels on which all real images of their text agree."""
    labels = [] if set(LABELS) & set(samples) else [label for label in LABELS if label in real]
    if not labels or "text" not in samples or "text" not in real:
        return samples, []
    keys, by_text = samples["text"].map(text_key), real.groupby(real["text"].map(text_key))
    same = by_text[labels].nunique(dropna=False) == 1  # noqa: PD101 (of groups)
    agreed = by_text[labels].first().where(same).drop("", errors="ignore")
    found = int(keys.isin(agreed.index).sum())
    if not found:
        return samples, []
    filled = samples.assign(**{label: keys.map(agreed[label]) for label in labels})
    return filled, [f"no labels: those of real images of the same text are taken for {found} of {len(samples)} images"]
