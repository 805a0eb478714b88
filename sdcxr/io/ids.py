"""Ids of patients, studies and images in tables: one spelling for each, and a count of what two tables have in common.

Spreadsheets and data frames respell ids: 50000000 becomes 50000000.0, 5.00E+07, s50000000, " 50000000" or ="50000000".
"""

import os
import re
import sys
from collections.abc import Collection

import pandas as pd

from sdcxr.runtime.errors import UserError

# Around an id: quotes, the = of a spreadsheet's text formula, and invisible characters that str.strip leaves.
_AROUND = " \t\r\n\"'=\u00a0\u200b\ufeff"
_BLANKS = {"", "na", "n/a", "nan", "none", "null", "<na>"}
_FLOAT = re.compile(r"([0-9]+)\.0*")
# Only with its sign: 12345e07 may be the name of an image in hexadecimal digits.
_EXPONENT = re.compile(r"([0-9])(?:\.([0-9]*))?[eE]\+([0-9]{1,2})")
_ODD = re.compile(r"[^0-9A-Za-z._/-]|[0-9]\.0*$|^(?:na|n/a|nan|none|null)$", re.IGNORECASE)
LEAST_SHARE = 0.5  # of rows that join, below which a warning is printed


def read_ids(cells: pd.Series, prefix: str = "", where: str = "") -> pd.Series:
    """Ids in one spelling, as str, "" where missing; the index of `cells`.

    Leading zeros and everything else that is no trace of a spreadsheet are kept: names of images are ids, too.

    Args:
        cells: text or numbers.
        prefix: letters that may stand before a number and are removed, in either case, such as "s" of s50000000.
        where: file and column, for messages.

    Raises:
        UserError: a number in scientific notation has lost digits, so that it may be several ids; names its row.
    """
    text = cells.astype(object).where(cells.notna(), "").map(str)
    if text.str.fullmatch("[0-9]+").all():
        return text
    spelled = {cell: _read(cell, prefix) for cell in text.unique()}
    if unsure := [cell for cell, value in spelled.items() if value is None]:
        # R writes 50000000 as 5e+07 and 50000001 in full: exact, where another id of that length is in full.
        longest = max((len(value) for value in spelled.values() if value is not None and value.isdecimal()), default=0)
        for cell in unsure:
            spelled[cell] = _round_number(cell, longest)
    ids = text.map(spelled)
    if ids.isna().any():
        row = int(ids.isna().to_numpy().argmax())
        raise UserError(
            f"{where or cells.name}: {text.iloc[row]} in row {row + 1} is a number that has lost digits, as when a "
            "spreadsheet saves a table: use the original table"
        )
    return ids


def read_patients(cells: pd.Series, prefix: str = "", where: str = "") -> pd.Series:
    """`read_ids` of patients: where all are numbers, 7 and 00007 are one patient, in the more frequent spelling.

    Of equally frequent spellings the longest is kept; a line on stderr says how many patients had several. As two
    patients they could be in training and validation.
    """
    ids = read_ids(cells, prefix, where)
    counts = ids[ids != ""].value_counts().rename_axis("id").reset_index(name="n")
    numbers = counts["id"].str.lstrip("0")
    if not numbers.duplicated().any() or not counts["id"].str.fullmatch("[0-9]+").all():
        return ids
    counts = counts.assign(number=numbers, length=counts["id"].str.len()).sort_values(["n", "length"], ascending=False)
    kept = counts.groupby("number")["id"].transform("first")
    others = counts[counts["id"] != kept]
    first = others.index[0]
    print(
        f"warning: {where or cells.name}: {others['number'].nunique():,} patients are written with and without leading "
        f"zeros, such as {counts['id'][first]} and {kept[first]}: taken as the same",
        file=sys.stderr,
    )
    return ids.replace(dict(zip(others["id"], kept[others.index], strict=True)))


def _read(cell: str, prefix: str) -> str | None:
    """One id; None for a number in scientific notation with fewer digits than the id."""
    if not _ODD.search(cell) and not (prefix and cell[:1].isalpha()):
        return cell
    text = cell.strip(_AROUND)
    if text.lower() in _BLANKS:
        return ""
    if prefix and re.fullmatch(rf"{prefix}[0-9]+(?:\.0*)?", text, re.IGNORECASE):
        text = text[len(prefix) :]
    if number := _FLOAT.fullmatch(text):
        return number[1]
    if number := _EXPONENT.fullmatch(text):
        decimals, exponent = number[2] or "", int(number[3])
        if decimals[exponent:].strip("0"):  # not a whole number
            return text
        return number[1] + decimals[:exponent] if len(decimals) >= exponent else None
    return text


def _round_number(cell: str, longest: int) -> str | None:
    """The id in the shortest scientific notation if its table has others of its length in full, else None."""
    number = _EXPONENT.fullmatch(cell.strip(_AROUND))
    if number is None or "E" in number[0] or (number[2] or "1").endswith("0") or int(number[3]) >= longest:
        return None
    return number[1] + (number[2] or "").ljust(int(number[3]), "0")


def print_join(name: str, wanted: pd.Series, known: Collection[str], unit: str, where: str) -> None:
    """Print how many distinct ids of one side the other side has, such as "reports: 1,204 of 1,210 studies".

    Below `LEAST_SHARE` it is a warning on stderr. Of several processes the first prints.

    Args:
        name: what is joined.
        wanted: ids of the one side; nothing is printed where there are none.
        known: ids of the other side.
        unit: plural of what the ids identify.
        where: file or folder of the other side.

    Raises:
        UserError: no id is on both sides; quotes one of each.
    """
    ids = pd.Series(wanted.unique())
    if ids.empty:
        return
    n_found = int(ids.isin(list(known)).sum())
    if n_found == 0:
        other = next(iter(known), None)
        has = "it is empty" if other is None else f"it has {other}"
        raise UserError(f"{name}: none of the {len(ids):,} {unit} is in {where} (looked for {ids.iloc[0]}; {has})")
    line = f"{name}: {n_found:,} of {len(ids):,} {unit}"
    if os.environ.get("RANK", "0") != "0":
        return
    if n_found < LEAST_SHARE * len(ids):
        missing = ids[~ids.isin(list(known))].iloc[0]
        print(f"warning: {line} only; {where} lacks {missing}", file=sys.stderr)
    else:
        print(line)
