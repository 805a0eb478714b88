"""Findings by name: the truth about images from their tables, whatever their source calls a finding."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from eval.inputs.folders import ImageFolder
from sdcxr.io.manifest import LABELS, image_ids
from sdcxr.runtime.errors import UserError

Uncertain = Literal["ignore", "zeros", "ones"]
"""What becomes of the label -1: unknown, negative or positive (U-Ignore, U-Zeros, U-Ones; Irvin et al. 2019,
arXiv 1901.07031)."""
FILLED = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}

# Names of NIH14 and torchxrayvision that mean the same as one of CheXpert's. Nothing else does: Pleural Thickening is
# a part of Pleural Other, Mass and Nodule are parts of Lung Lesion.
SYNONYMS = {"effusion": "Pleural Effusion"}


def chexpert_name(name: str) -> str:
    """A finding under CheXpert's name where it has one, else its own with spaces."""
    plain = name.replace("_", " ").strip()
    return (SYNONYMS | {label.lower(): label for label in LABELS}).get(plain.lower(), plain)


def truth_of(images: ImageFolder, labels: str | None, uncertain: Uncertain, flag: str) -> pd.DataFrame:
    """What is known of each image: a column a finding, 1, 0 or NaN, in the order of the folder.

    Blank is unknown, not negative: a report that does not mention a finding says nothing.

    Args:
        images: a folder with a table.
        labels: CSV joined by the id of the prompt or of the image; None for the labels in the folder's table.
        uncertain: what -1 becomes.
        flag: the folder's command-line flag, for messages.

    Raises:
        UserError: the folder has no table, images have no row in the CSV, or a column of the table is no label.
    """
    if images.prompt_ids is None:
        raise UserError(f"{flag} {images.folder}: has no metadata.csv, so its images have no labels")
    if labels is None:
        table = images.rows[[label for label in LABELS if label in images.rows]].astype(float)
        source = str(images.folder / "metadata.csv")
    else:
        table, source = by_id(labels, images), f"--labels {labels}"
    names = {column: chexpert_name(str(column)) for column in table.columns}
    taken = set(table.columns)
    table = table.rename(columns={column: name for column, name in names.items() if name not in taken})
    known = table.isin([1.0, 0.0, -1.0]) | table.isna()
    for name in table.columns[~known.all()]:
        if name in LABELS:
            odd = table[name][~known[name]].iloc[0]
            raise UserError(f"{source}: the column {name} holds {odd:g}: labels are 1, 0, -1 or empty")
    # What else holds other numbers is a measurement beside the labels, such as the heart's width.
    return table.loc[:, known.all()].replace(-1.0, FILLED[uncertain]).dropna(axis="columns", how="all")


def by_id(file: str, images: ImageFolder) -> pd.DataFrame:
    """The numeric columns of `--labels` for each image, by the id of its prompt, or its own.

    Raises:
        UserError: images have no row there.
    """
    from sdcxr.tasks.classifier import read_labels

    table = read_labels(file)
    keys = images.rows["id"] if "id" in images.rows else image_ids(images.rows)
    missing = keys[~keys.isin(table.index)]
    if len(missing):
        raise UserError(f"--labels {file}: {len(missing)} of {len(keys)} images have no row (first: {missing.iloc[0]})")
    return table.select_dtypes("number").astype(float).reindex(keys).reset_index(drop=True)


def choose(wanted: str | None, sources: Mapping[str, Iterable[str]]) -> tuple[list[str], dict[str, str]]:
    """The findings that all sources have, and of the others what they lack.

    Args:
        wanted: `--findings`, names separated by commas; None for all.
        sources: finding names by what they are ("the classifier", "--real"); the first decides the order.

    Returns:
        The findings, and for each other finding of any source where it is absent.

    Raises:
        UserError: a wanted finding is absent somewhere, or nothing is common to all.
    """
    have = {source: set(names) for source, names in sources.items()}
    known = list(dict.fromkeys(name for names in sources.values() for name in names))
    absent = {name: " and ".join(s for s, names in have.items() if name not in names) for name in known}
    common = [name for name in known if not absent[name]]
    if wanted is None:
        if not common:
            raise UserError(f"no finding is common to {_listed(list(sources))}")
        return common, {name: where for name, where in absent.items() if where}
    names = [chexpert_name(name) for name in wanted.split(",") if name.strip()]
    for name in names:
        if absent.get(name, "nowhere"):
            lacking = absent.get(name) or "any of them"
            raise UserError(f"--findings: {name!r} (not in {lacking}) is not among: {', '.join(common) or 'none'}")
    if not names:
        raise UserError("--findings: names no finding")
    return list(dict.fromkeys(names)), {}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
