"""metadata.csv of dataset splits and samples folders: columns, CheXpert labels, reading and writing."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.io.files import atomic, existing_folder, inside
from sdcxr.io.tables import read_csv
from sdcxr.runtime.errors import UserError

# CheXpert's names and order (mimic-cxr-2.0.0-chexpert.csv). 1 positive, 0 negated, -1 uncertain, empty not mentioned.
# fmt: off
LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)
# fmt: on
LONGEST_SHOWN = 12  # characters of an invalid label that messages quote
SPLITS = ("train", "validation", "test")
IDS = ("subject_id", "study_id", "dicom_id")
COLUMNS = ("file_name", "text", *IDS, "view", *LABELS)
CLASS_COLUMN = "class"
"""Of datasets whose images have one of several classes: its name."""
MASK_COLUMN = "mask"
"""Of datasets with masks: path of the mask relative to the split's folder, empty without one; `mask_STRUCTURE` where
masks show several structures."""
SAMPLES_RECORD = "generate.json"
UNFINISHED = "generate.py has not finished this folder: run the same command again"
"""Of a folder with `SAMPLES_RECORD` and without metadata.csv, which is written last."""
SAMPLE_COLUMNS = ("file_name", "text", "id", "seed", "guidance_scale", "num_inference_steps", "scheduler", "model")


def write_metadata(folder: Path, rows: pd.DataFrame) -> None:
    """Write `rows` atomically as `folder/metadata.csv`: labels as 1.0, 0.0 or -1.0, missing ones empty.

    The decimal point, as in CheXpert's tables, makes every label column float: without it, a column with no missing
    values in one split would be int there, and `datasets.load_dataset` refuses splits of different types.
    """
    rows = rows.copy()
    # The csv module does not quote a bare carriage return, which ends the row for every reader.
    rows["text"] = rows["text"].str.replace("\r\n?", "\n", regex=True)
    for label in LABELS:
        if label in rows:
            rows[label] = rows[label].astype("Float64")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "metadata.csv") as temporary:
        rows.to_csv(temporary, index=False)


def read_metadata(folder: str | Path) -> pd.DataFrame:
    """Read `folder/metadata.csv`: text and ids as str (empty if missing), labels as float (NaN if missing).

    Raises:
        UserError: no table, a column missing, a file name repeated or outside the folder, or an invalid label.
    """
    folder = Path(folder)
    path = folder / "metadata.csv"
    if not path.is_file():
        begun = (folder / SAMPLES_RECORD).is_file()
        why = UNFINISHED if begun else "it is not a split of a dataset folder or a samples folder"
        raise UserError(f"{folder} has no metadata.csv: {why}")
    return validate_rows(read_csv(path), path)


def validate_rows(rows: pd.DataFrame, path: Path, needed: Sequence[str] = ("file_name", "text")) -> pd.DataFrame:
    """Rows of the table `path` of an image folder, cells as text, with labels as in `with_labels`.

    Raises:
        UserError: a `needed` column is missing, a file name repeated or outside the folder, or a label invalid.
    """
    if missing := [column for column in needed if column not in rows]:
        raise UserError(f"{path} has no column {missing[0]!r} (it has: {', '.join(rows.columns)})")
    repeated = rows["file_name"][rows["file_name"].duplicated()]
    if len(repeated):
        raise UserError(f"{path} names {repeated.iloc[0]} more than once")
    for name in rows["file_name"]:
        inside(path.parent, name)
    return with_labels(rows, rows["file_name"], str(path))


def with_labels(rows: pd.DataFrame, names: pd.Series, source: str) -> pd.DataFrame:
    """`rows` with the columns named in `LABELS` as float: 1, 0, -1, or NaN for an empty cell (or NA, as R writes).

    Args:
        rows: cells as text or numbers.
        names: a name per row, for messages.
        source: file or flag that the rows come from, for messages.

    Raises:
        UserError: a cell has another value; names the first.
    """
    values = {}
    for label in (name for name in LABELS if name in rows):
        meanings = {cell: _label(cell) for cell in rows[label].unique()}  # few, however many rows there are
        if odd := [cell for cell, meaning in meanings.items() if meaning is None]:
            first = rows[label].isin(odd).to_numpy().argmax()
            cell = str(rows[label].iloc[first])
            shown = repr(cell) if len(cell) <= LONGEST_SHOWN else "a text"  # it may be from a patient's report
            holds = f"the column {label} holds {shown} in the row of {names.iloc[first]}"
            raise UserError(f"{source}: {holds}: labels are 1, 0, -1 or empty")
        values[label] = rows[label].map(meanings).astype(float)
    return rows.assign(**values)


def _label(cell: Any) -> float | None:
    """Value of a label's cell: NaN if empty, None if it is not a label."""
    text = str(cell).strip()
    if text in ("", "NA"):
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value in (1, 0, -1) or math.isnan(value) else None


def image_ids(rows: pd.DataFrame) -> pd.Series:
    """Id of each row of a dataset folder: its dicom_id, or the stem of its file name if it has none."""
    stems = rows["file_name"].map(lambda name: Path(name).stem)
    return rows["dicom_id"].where(rows["dicom_id"] != "", stems) if "dicom_id" in rows else stems


def read_masks(rows: pd.DataFrame, folder: Path | pd.Series, structures: Sequence[str] | None = None) -> pd.DataFrame:
    """Path of each image's mask by structure, None where it has none; the structure of the column `mask` is "mask".

    Args:
        rows: rows of metadata.csv.
        folder: that of the split, one for all rows or for each.
        structures: those wanted, in this order; default: all.

    Raises:
        UserError: the table has no masks, or not those.
    """
    named = [name for name in map(str, rows.columns) if re.match(rf"{MASK_COLUMN}(_|$)", name)]
    columns = {name.removeprefix(f"{MASK_COLUMN}_"): name for name in named}
    if not columns:
        raise UserError("metadata.csv has no masks (columns mask, mask_lungs, …): prepare the dataset with --masks")
    if missing := [name for name in structures or () if name not in columns]:
        raise UserError(f"metadata.csv has no masks of {missing[0]} (it has: {', '.join(columns)})")
    folders = [folder] * len(rows) if isinstance(folder, Path) else folder
    paths = {
        name: [inside(place, cell) if cell else None for place, cell in zip(folders, rows[columns[name]], strict=True)]
        for name in structures or columns
    }
    return pd.DataFrame(paths, index=rows.index, dtype=object)


def text_key(text: str) -> str:
    """Normalised text for comparing prompts: equal for texts of the same words.

    Ignores case, white space, punctuation except question marks, and a list number at the beginning.
    """
    return " ".join(re.findall(r"[^\W_]+|\?", re.sub(r"^\s*\d{1,2}[.)]\s", "", text.lower())))


def split_folder(dataset: str | Path, split: str) -> Path:
    """The folder of one split of a dataset folder.

    Raises:
        UserError: the dataset folder or the split does not exist; the message lists the splits that do.
    """
    dataset = existing_folder(dataset, "dataset folder")
    folder = dataset / split
    if not (folder / "metadata.csv").is_file():
        there = [name for name in SPLITS if (dataset / name / "metadata.csv").is_file()]
        found = f"it has: {', '.join(there)}" if there else "no split at all: was it written by data_prep?"
        raise UserError(f"{dataset} has no split {split!r} ({found})")
    return folder
