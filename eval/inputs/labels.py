"""Ground-truth labels of images by finding, and the findings that all sources have in common."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from eval.inputs.folders import ImageFolder
from sdcxr.io.labels import UncertainPolicy, chexpert_name, fill_labels, read_labels
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError


def truth_of(images: ImageFolder, labels: str | None, uncertain: UncertainPolicy, flag: str) -> pd.DataFrame:
    """Ground truth of each image (rows, in the order of the folder) for each finding (columns): 1, 0 or NaN (unknown).

    Blank is unknown, not negative: a report that does not mention a finding says nothing about it.

    Args:
        images: a folder with metadata.csv.
        labels: CSV of labels, joined by the id of the prompt or of the image; None: the labels in metadata.csv.
        uncertain: what -1 becomes.
        flag: the folder's command-line flag, for messages.

    Raises:
        UserError: the folder has no metadata.csv, images have no row in the CSV, or the CSV is unusable.
    """
    if images.table is None and labels is None and not set(LABELS) & set(images.rows):
        raise UserError(
            f"{flag} {images.folder} has no metadata.csv, so its images have no labels: write one with file_name, text "
            f"and labels, or name a CSV with --labels"
        )
    table = read_labels(images.rows, labels, complete=True)
    names = {column: chexpert_name(str(column)) for column in table.columns}
    table = table.rename(columns={column: name for column, name in names.items() if name not in table})
    return fill_labels(table, uncertain).dropna(axis="columns", how="all")


def choose_findings(wanted: str | None, sources: Mapping[str, Iterable[str]]) -> tuple[list[str], dict[str, str]]:
    """The findings that all sources have.

    Args:
        wanted: `--findings`, names separated by commas; None: all.
        sources: names of findings by source ("the classifier", "--real"); the first source gives the order.

    Returns:
        The findings; and for each finding that is left out the sources that lack it.

    Raises:
        UserError: a source lacks a wanted finding, or no finding is common to all.
    """
    have = {source: set(names) for source, names in sources.items()}
    known = list(dict.fromkeys(name for names in sources.values() for name in names))
    absent = {name: " and ".join(s for s, names in have.items() if name not in names) for name in known}
    common = [name for name in known if not absent[name]]
    if wanted is None:
        if not common:
            without = [source for source, names in have.items() if not names]
            why = f": {_listed(without)} {'has' if len(without) == 1 else 'have'} no labels" if without else ""
            raise UserError(f"no finding is common to {_listed(list(sources))}{why}")
        return common, {name: where for name, where in absent.items() if where}
    names = [chexpert_name(name) for name in wanted.split(",") if name.strip()]
    for name in names:
        if absent.get(name, "nowhere"):
            lacking = absent.get(name) or "any of them"
            raise UserError(f"--findings: {name!r} (not in {lacking}) is not among: {', '.join(common) or 'none'}")
    if not names:
        raise UserError("--findings: no finding is given")
    return list(dict.fromkeys(names)), {}


def left_out(absent: Mapping[str, str], why: str) -> list[str]:
    """A text for each place where findings are absent, such as "Edema, Fracture (not in --real)"."""
    return [
        f"{', '.join(name for name, at in absent.items() if at == where)} ({why} {where})"
        for where in dict.fromkeys(absent.values())
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
