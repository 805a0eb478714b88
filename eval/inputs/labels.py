"""Findings by name: the truth about images from their tables, whatever their source calls a finding."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from eval.inputs.folders import ImageFolder
from sdcxr.io.labels import UncertainPolicy, chexpert_name, fill_labels, read_labels
from sdcxr.runtime.errors import UserError


def truth_of(images: ImageFolder, labels: str | None, uncertain: UncertainPolicy, flag: str) -> pd.DataFrame:
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
    table = read_labels(images.rows, labels, complete=True)
    names = {column: chexpert_name(str(column)) for column in table.columns}
    table = table.rename(columns={column: name for column, name in names.items() if name not in table})
    return fill_labels(table, uncertain).dropna(axis="columns", how="all")


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
