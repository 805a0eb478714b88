"""Findings in tables: label columns, lists and dictionaries in one cell, several rows per image."""

import ast
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from data_prep.table_mapping import UNION, Repeats, TableMapping, quoted
from sdcxr.io.labels import chexpert_name
from sdcxr.io.manifest import LABELS, LONGEST_SHOWN
from sdcxr.runtime.errors import UserError
from sdcxr.text.fields import label_words

NO_FINDING = "No Finding"
_MEANING = {"": math.nan, "nan": math.nan, "na": math.nan, "none": math.nan, "1": 1.0, "0": 0.0, "-1": -1.0}
_MEANING |= {"true": 1.0, "false": 0.0}
_STRENGTH = {1.0: 3, -1.0: 2, 0.0: 1}
_NORMAL_NAMES = {"no finding", "no findings", "normal"}
LONGEST_NAME = 40  # characters of a finding that messages quote
MOST_NAMES = 1000  # in lists of findings; more are texts


def read_findings(mapping: TableMapping, table: pd.DataFrame, where: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """CheXpert labels of each row, and the findings that {findings} in a prompt names.

    Args:
        mapping: resolved for the table.
        table: the table.
        where: its name, for messages.

    Returns:
        Two tables of 1, 0, -1 and NaN with the index of `table`: columns named after labels, columns named in words.

    Raises:
        UserError: a cell is no label; says which values the column has.
    """
    meanings = _MEANING | {_key(cell): _meaning(cell, value) for cell, value in mapping.label_values.items()}
    labels, words = pd.DataFrame(index=table.index), pd.DataFrame(index=table.index)
    if "labels" in mapping.columns:
        labels, words = _listed(table[mapping.columns["labels"]], mapping.label_names, meanings, where)
    columns = {ours: theirs for ours, theirs in mapping.columns.items() if ours in LABELS}
    for ours, theirs in columns.items():
        names = [theirs] if theirs in table else theirs.split(UNION)
        labels[ours] = _any([_read_column(table[name], meanings, where) for name in names])
    for column, name in mapping.findings.items():
        words[name] = _read_column(table[column], meanings, where)
    if words.empty:
        words = labels.rename(columns=label_words)
    return labels[[label for label in LABELS if label in labels]], words


def _key(cell: Any) -> str:
    """One spelling for a cell: 1.0 and "1" are the same, and so are YES and yes."""
    text = str(cell).strip().lower()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def _meaning(cell: str, value: str) -> float:
    meaning = _MEANING.get(_key(value))
    if meaning is None:
        raise UserError(f"--label_values {cell}={value}: labels are 1, 0, -1 or nothing")
    return meaning


def _read_column(cells: pd.Series, meanings: Mapping[str, float], where: str) -> pd.Series:
    read = {cell: meanings.get(_key(cell)) for cell in cells.map(str).unique()}
    if odd := [cell for cell, meaning in read.items() if meaning is None]:
        # It may be a column of reports, which are nobody's business.
        shown = [repr(cell) for cell in odd if len(cell) <= LONGEST_SHOWN][:6]
        has = f"the column {cells.name!r} has {', '.join(shown)}" if shown else f"the column {cells.name!r} holds texts"
        example = (
            f"say what {'they mean' if len(shown) > 1 else 'it means'} with --label_values {odd[0]}=1" if shown else ""
        )
        raise UserError(f"--table {where}: {has}: labels are 1, 0, -1 or empty" + (f"; {example}" if example else ""))
    return cells.map(str).map(read).astype(float)


def _any(columns: list[pd.Series]) -> pd.Series:
    """1 where one is 1, else -1 where one is -1, else 0 where one is 0, else NaN."""
    values = np.stack([column.to_numpy() for column in columns])
    result = np.select([(values == value).any(axis=0) for value in (1, -1, 0)], [1.0, -1.0, 0.0], np.nan)
    return pd.Series(result, index=columns[0].index)


# ---------------------------------------------------------------------------------------------------------------------
# Lists and dictionaries in one cell


def parse_list(cell: Any) -> list[str] | dict[str, Any] | None:
    """The names in a cell such as "['edema', 'mass']", "edema|mass", "edema; mass" or "edema, mass"; None if damaged.

    A dictionary of values stays one.
    """
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{"):
        text = cell.strip().replace(": nan", ": None").replace(": null", ": None")
        try:
            cell = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if isinstance(cell, dict):
        return {str(name).strip(): "" if value is None else value for name, value in cell.items()}
    if isinstance(cell, str):
        separator = next((mark for mark in ("|", ";") if mark in cell), ",")
        cell = cell.split(separator)
    if not isinstance(cell, list | tuple):
        return None
    return [name for name in (str(item).strip() for item in cell) if name and name.lower() != "nan"]


def _listed(
    cells: pd.Series, label_names: Mapping[str, str], meanings: Mapping[str, float], where: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels and words of lists; what a list does not name is not mentioned, not absent."""
    known = {_key(name): label for name, label in label_names.items()}
    labels: list[dict[str, float]] = []
    words: list[dict[str, float]] = []
    names: set[str] = set()
    for row, cell in enumerate(cells):
        found = parse_list(cell)
        values = found if isinstance(found, dict) else dict.fromkeys(found or [], 1)
        meant = {name: meanings[_key(value)] for name, value in values.items() if _key(value) in meanings}
        if found is None or len(meant) < len(values):
            raise UserError(f"--table {where}: the column {cells.name!r} has no list of findings in row {row + 1}")
        names.update(meant)
        if len(names) > MOST_NAMES:
            raise UserError(f"--table {where}: the column {cells.name!r} holds texts, not lists of findings")
        of_row = {name: _label_of(name, known) for name in meant}
        words.append({_in_a_sentence(name): value for name, value in meant.items() if of_row[name] != ""})
        # Of several names of one label the strongest value counts, as in `_any`.
        ordered = sorted(meant, key=lambda name: _STRENGTH.get(meant[name], 0))
        labels.append({of_row[name]: meant[name] for name in ordered if of_row[name] in LABELS})
    others = sorted(name for name in names if _label_of(name, known) not in LABELS)
    n_known = len(names) - len(others)
    line = f"labels: {n_known:,} of {len(names):,} findings in the column {cells.name!r} are labels of CheXpert"
    if others and n_known >= len(others):  # or else it may be a column of reports
        shown = ", ".join(repr(name[:LONGEST_NAME]) for name in others[:3])
        line += f" (not {shown}{f' and {len(others) - 3:,} more' if len(others) > 3 else ''})"
    print(line if n_known else f"warning: {line}", file=sys.stdout if n_known else sys.stderr)
    tables = [pd.DataFrame(rows, index=cells.index, dtype=float) for rows in (labels, words)]
    return tables[0], tables[1]


def _in_a_sentence(name: str) -> str:
    """A name without capitals, but for abbreviations such as COPD."""
    words = name.replace("_", " ").split()
    return " ".join(word if sum(map(str.isupper, word)) > 1 else word.lower() for word in words)


def _label_of(name: str, known: Mapping[str, str]) -> str:
    """The CheXpert label of a name in a list, or another name; "" if it is no finding."""
    key = _key(name)
    return known.get(key, NO_FINDING if key in _NORMAL_NAMES else chexpert_name(name))


# ---------------------------------------------------------------------------------------------------------------------
# Several rows per image


def check_repeats(cells: pd.Series, image: pd.Series, ours: str, where: str) -> None:
    """Raise a `UserError` if the rows of an image differ in what no vote is taken of: patient, split or class.

    Args:
        cells: of the column, "" where empty.
        image: the image of each row.
        ours: our name of the column.
        where: the table's name, for messages.
    """
    pairs = pd.DataFrame({"image": image, "cell": cells})[cells != ""].drop_duplicates()
    if (repeated := pairs["image"][pairs["image"].duplicated()]).size:
        name = repeated.iloc[0]
        values = ", ".join(quoted(value) for value in pairs["cell"][pairs["image"] == name][:3])
        raise UserError(
            f"--table {where}: rows of {quoted(name)} contradict each other ({ours}: {values}): correct them, or take "
            "the first with --repeats first"
        )


def merge_rows(findings: pd.DataFrame, image: pd.Series, repeats: Repeats, where: str) -> pd.DataFrame:
    """Findings of each image, with the index of its first row.

    Args:
        findings: 1, 0, -1 and NaN per row.
        image: the image of each row.
        repeats: "first" row; "any" (1 if one row has 1); "majority" of the rows that are not empty, -1 if undecided;
            "refuse".
        where: the table's name, for messages.

    Raises:
        UserError: an image has several rows and `repeats` is "refuse".
    """
    repeated = image.duplicated()
    if not repeated.any():
        return findings
    if repeats == "refuse":
        name, n_rows = image[repeated].iloc[0], int((image == image[repeated].iloc[0]).sum())
        raise UserError(
            f"--table {where}: {int(repeated.sum()):,} rows are of an image with more ({quoted(name)} has {n_rows}): "
            "say which counts with --repeats first, any or majority"
        )
    if repeats == "first" or findings.columns.empty:
        return findings[~repeated]
    votes = {value: (findings == value).groupby(image.to_numpy(), sort=False).sum() for value in (1, 0, -1)}
    if repeats == "any":
        chosen = [votes[value] > 0 for value in (1, -1, 0)]
        merged = np.select(chosen, [1.0, -1.0, 0.0], np.nan)
    else:
        most = np.maximum.reduce([table.to_numpy() for table in votes.values()])
        n_most = sum((table.to_numpy() == most).astype(int) for table in votes.values())
        winners = [(most == 0), (n_most > 1), *(table.to_numpy() == most for table in votes.values())]
        merged = np.select(winners, [np.nan, -1.0, 1.0, 0.0, -1.0], np.nan)
    return pd.DataFrame(merged, index=findings.index[~repeated], columns=findings.columns)
