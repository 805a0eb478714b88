"""CheXpert labels of images: read them from metadata.csv or a CSV of labels; policies for uncertain and blank ones."""

import math
import os
import sys
from typing import Literal, cast

import pandas as pd

from sdcxr.io.ids import print_join, read_ids
from sdcxr.io.manifest import LABELS, image_ids, with_labels
from sdcxr.io.tables import read_csv
from sdcxr.runtime.errors import UserError

UncertainPolicy = Literal["ignore", "zeros", "ones"]
"""What the label -1 becomes: unknown, negative or positive (U-Ignore, U-Zeros, U-Ones; Irvin et al. 2019,
arXiv 1901.07031)."""
FILLED = {"ignore": math.nan, "zeros": 0.0, "ones": 1.0}
DEPRECATED = {"ignored": "ignore", "absent": "zeros", "negative": "zeros", "present": "ones"}

# Names of NIH14 and torchxrayvision that mean the same as one of CheXpert's. Nothing else does: Pleural Thickening is
# a part of Pleural Other, Mass and Nodule are parts of Lung Lesion.
SYNONYMS = {"effusion": "Pleural Effusion"}


def uncertain_policy(value: str, flag: str) -> UncertainPolicy:
    """Parse the value of a flag; its names of version 0.1 still work, with a warning on stderr.

    Raises:
        UserError: there is no such policy.
    """
    policy = DEPRECATED.get(value, value)
    if policy not in FILLED:
        raise UserError(f"{flag} {value}: choose from {', '.join(FILLED)}")
    if policy != value and os.environ.get("RANK", "0") == "0":
        print(f"{flag} {value} is deprecated: use {flag} {policy}", file=sys.stderr)
    return cast(UncertainPolicy, policy)


def chexpert_name(name: str) -> str:
    """The name that CheXpert has for a finding; for other findings `name` with spaces for underscores."""
    plain = name.replace("_", " ").strip()
    return (SYNONYMS | {label.lower(): label for label in LABELS}).get(plain.lower(), plain)


def read_labels(rows: pd.DataFrame, file: str | None = None, complete: bool = False) -> pd.DataFrame:
    """Labels of each image: 1, 0, -1 or NaN (blank), one column per finding, in the order of `rows`.

    Args:
        rows: the images' rows of metadata.csv.
        file: CSV of labels, joined by the id of the prompt (samples) or of the image; None: the columns of `rows`.
        complete: whether every image needs a row in `file`.

    Raises:
        UserError: see `read_label_csv`; or no image has a row, or one has none where `complete`.
    """
    if file is None:
        return rows[[label for label in LABELS if label in rows]].astype(float)
    table = read_label_csv(file)
    ids = rows["id"] if "id" in rows else image_ids(rows)
    missing = ids[~ids.isin(table.index)]
    if complete and 0 < len(missing) < len(ids):
        raise UserError(f"--labels {file}: {len(missing)} of {len(ids)} images have no row (first: {missing.iloc[0]})")
    if len(missing):
        print_join("labels", ids, table.index, "images", f"--labels {file}")
    return table.reindex(ids).reset_index(drop=True)


def read_label_csv(file: str) -> pd.DataFrame:
    """The columns of a CSV that hold labels (1, 0, -1, NaN), as float, indexed by dicom_id.

    Columns that hold anything else are texts or measurements and are dropped. Repeated rows count once.

    Raises:
        UserError: the file is missing, is not a CSV table, has no column dicom_id, contradicts itself, or holds
            something else than labels in a column named after a finding of CheXpert.
    """
    table = read_csv(file, "--labels", dtype={"dicom_id": str}, keep_default_na=True)
    if "dicom_id" not in table:
        raise UserError(f"--labels {file}: no column dicom_id (it has: {', '.join(table.columns)})")
    table["dicom_id"] = read_ids(table["dicom_id"], where=f"--labels {file}, dicom_id")
    table = with_labels(table, table["dicom_id"], f"--labels {file}").set_index("dicom_id")
    table = table.select_dtypes(["number", "bool"]).astype(float)
    known = table.isin([1.0, 0.0, -1.0]) | table.isna()
    for name in table.columns[~known.all()]:
        if chexpert_name(name) in LABELS:
            odd = table[name][~known[name]].iloc[0]
            raise UserError(f"--labels {file}: the column {name} holds {odd:g}: labels are 1, 0, -1 or empty")
    table = table.loc[:, known.all()]
    ids = table.reset_index().drop_duplicates()["dicom_id"]
    if ids.duplicated().any():
        raise UserError(f"--labels {file}: rows of {ids[ids.duplicated()].iloc[0]} contradict each other")
    return table[~table.index.duplicated()]


def read_classes(rows: pd.DataFrame, column: str, file: str | None = None) -> pd.Series:
    """Name of the class of each image, "" where it is unknown, in the order of `rows`.

    Args:
        rows: the images' rows of metadata.csv.
        column: with the classes.
        file: CSV with the column, joined by the id of the image; None: the column is one of `rows`.

    Raises:
        UserError: the file or the column is missing, or rows of one image contradict each other; no image has a row.
    """
    if file is None:
        if column not in rows:
            there = [str(name) for name in rows if name not in ("path", "id")]  # of which we make those
            raise UserError(f"--class_column {column}: metadata.csv has no such column (it has: {', '.join(there)})")
        return rows[column].fillna("").astype(str).str.strip()
    table = read_csv(file, "--labels", dtype=str)
    if missing := [name for name in ("dicom_id", column) if name not in table]:
        raise UserError(f"--labels {file}: no column {missing[0]} (it has: {', '.join(table.columns)})")
    table["dicom_id"] = read_ids(table["dicom_id"], where=f"--labels {file}, dicom_id")
    classes = table[["dicom_id", column]].drop_duplicates().set_index("dicom_id")[column]
    if classes.index.duplicated().any():
        odd = classes.index[classes.index.duplicated()][0]
        raise UserError(f"--labels {file}: rows of {odd} contradict each other")
    ids = rows["id"] if "id" in rows else image_ids(rows)
    if not ids.isin(classes.index).all():
        print_join("labels", ids, classes.index, "images", f"--labels {file}")
    return classes.reindex(ids).fillna("").str.strip().reset_index(drop=True)


def fill_labels(
    labels: pd.DataFrame, uncertain: UncertainPolicy = "ignore", blanks: UncertainPolicy = "ignore"
) -> pd.DataFrame:
    """Labels as 1, 0 or NaN (unknown).

    Args:
        labels: 1, 0, -1 (uncertain) or NaN (blank: the report does not mention the finding).
        uncertain: what -1 becomes.
        blanks: what NaN becomes.
    """
    return labels.fillna(FILLED[blanks]).replace(-1.0, FILLED[uncertain])
