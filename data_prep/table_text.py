"""Texts and fields of templates from a table's columns, views in one spelling, splits by name."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from data_prep.report_sections import impression, normalise
from data_prep.splits import SPLIT_NAMES
from data_prep.table_labels import parse_list
from data_prep.table_mapping import ALTERNATIVE, TableMapping, column_cells, missing_column, names_in, quoted
from sdcxr.runtime.errors import UserError
from sdcxr.text.fields import (
    FINDING_FIELDS,
    finding_fields,
    join_words,
    person_fields,
    positive_findings,
    view_words,
)
from sdcxr.text.templates import DEMOGRAPHICS, FLAG, PERSON_FIELDS, check_fields, places

FRONTAL = ("PA", "AP", "FRONTAL")
_VIEWS = {
    "PA": ("PA", "POSTEROANTERIOR", "POSTERIORANTERIOR", "PAERECT"),
    "AP": ("AP", "ANTEROPOSTERIOR", "ANTERIORPOSTERIOR", "APHORIZONTAL", "APSUPINE", "APPORTABLE", "APERECT"),
    "LATERAL": ("LATERAL", "LAT", "L"),
    "LL": ("LL", "LEFTLATERAL"),
    "RL": ("RL", "RIGHTLATERAL"),
    "FRONTAL": ("FRONTAL",),
}
_VIEW_OF = {name: view for view, names in _VIEWS.items() for name in names}
_UNKNOWN = {"", "NAN", "NA", "N/A", "NONE", "NULL", "UNKNOWN", "UNK", "<NA>", "-"}


def view_of(cell: str) -> str:
    """A view as MIMIC-CXR spells it (PA, AP, LATERAL, LL, RL), FRONTAL, or the cell in capitals; "" if unknown."""
    text = str(cell).strip().upper()
    if text in _UNKNOWN:
        return ""
    return _VIEW_OF.get(re.sub(r"VIEW|PROJECTION|[^A-Z]", "", text), text)


def split_names(cells: pd.Series, where: str) -> pd.Series:
    """The split of each row in our names, "" for empty cells.

    Raises:
        UserError: a cell names no split; lists the values.
    """
    keys = cells.map(lambda cell: str(cell).strip().lower())
    if odd := [value for value in keys.unique() if value and value != "nan" and value not in SPLIT_NAMES]:
        shown = ", ".join(dict.fromkeys(map(quoted, odd[:5])))
        raise UserError(
            f"--table {where}: the split column holds {shown}: expected train, validation (val, valid, dev) "
            "and test; --columns split= leaves it out, for a random split by patient"
        )
    return keys.map(lambda key: SPLIT_NAMES.get(key, "")).astype(object)


def text_of(cell: Any) -> str:
    """A cell as text, white space normalised; "" for what data frames write where a text is missing."""
    text = normalise(str(cell))
    return "" if text.lower() in ("nan", "<na>", "none") else text


def words_of(cell: Any) -> str:
    """A cell as words: lists joined, whole numbers without a decimal point, ages such as 058Y as 58; "" if missing."""
    if isinstance(cell, list) or (isinstance(cell, str) and cell.lstrip()[:1] == "["):
        names = parse_list(cell)
        return join_words(names) if isinstance(names, list) else normalise(str(cell))
    text = text_of(cell)
    number = re.fullmatch(r"(\d+)\.0*|0*(\d+)Y", text)
    return (number[1] or number[2]) if number else text


# ---------------------------------------------------------------------------------------------------------------------
# Fields of a template

MADE = ("text", "view", *FINDING_FIELDS, *PERSON_FIELDS, DEMOGRAPHICS)
"""Fields that are not columns."""


def text_cells(mapping: TableMapping, table: pd.DataFrame, where: str) -> pd.Series:
    """The cells of the column of texts, or the impressions in them, white space normalised.

    Raises:
        UserError: there is no such column, or it holds something else.
    """
    if "text" not in mapping.columns:
        flags = f"which column is the prompt? --columns text=… or {FLAG}"
        raise UserError(missing_column("text", table.columns, flags, where))
    cells = column_cells(mapping, table, mapping.columns["text"])
    if cells.map(lambda cell: isinstance(cell, list | dict)).any():
        raise UserError(f"--table {where}: the column {mapping.columns['text']!r} holds lists or objects, not texts")
    return cells.map(lambda cell: (impression(cell) or "") if mapping.impression else text_of(cell))


def template_fields(
    templates: Sequence[str],
    mapping: TableMapping,
    table: pd.DataFrame,
    findings: pd.DataFrame,
    ids: pd.Series,
    seed: int,
    where: str,
) -> tuple[dict[str, pd.Series], list[str]]:
    """The words of each row for the fields of templates; a column of the table comes before a field that is made.

    Args:
        templates: the templates.
        mapping: resolved for the table.
        table: the table.
        findings: 1, 0, -1 and NaN in columns named in words.
        ids: see `finding_fields`.
        seed: see `finding_fields`.
        where: name of the table, for messages.

    Returns:
        Words by field, and the fields that hold what somebody wrote, not labels, views or persons.

    Raises:
        UserError: the table has no such column.
    """
    people = person_fields(table)
    made = {name: words for name, words in people.items() if name not in table}
    written: dict[str, pd.Series] = {}
    for place in places(templates):
        if place in people:
            made[place] = people[place]
        elif there := names_in(place, table, ALTERNATIVE):
            written[place] = column_cells(mapping, table, there).map(words_of)
        elif place in FINDING_FIELDS:
            if findings.empty or not len(findings.columns):
                raise UserError(f"{FLAG}: {{{place}}} needs labels: name them with --columns (table {where})")
            made |= finding_fields(positive_findings(findings), ids, seed)
        elif place == "view" and "view" in mapping.columns:
            made[place] = column_cells(mapping, table, mapping.columns["view"]).map(view_of).map(view_words)
        elif place == "text" and "text" in mapping.columns:
            written[place] = text_cells(mapping, table, where)
        elif place == DEMOGRAPHICS and people:
            made |= people
        else:
            raise UserError(missing_column(place, table.columns, f"{FLAG}; also {', '.join(MADE)}", where))
    check_fields(templates, [*written, *made, *map(str, table.columns), *MADE])
    return made | written, list(written)
