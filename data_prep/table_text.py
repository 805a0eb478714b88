"""Prompts from a table's columns by a template, views in one spelling, splits by name."""

import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from data_prep.report_sections import normalise
from data_prep.table_labels import join_words, parse_list
from data_prep.table_mapping import quoted
from sdcxr.runtime.errors import UserError

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
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
# {column}, {column|other}, and [a part that is left out where one of its columns is empty].
_PLACE = re.compile(r"\{([^{}]+)\}")
_OPTIONAL = re.compile(r"\[((?:[^\[\]{}]|\{[^{}]*\})*)\]")
_SENTENCE_END = re.compile(r"(?:^\s*|[.!?]\s+)$")


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
    if odd := [value for value in keys.unique() if value and value != "nan" and value not in _SPLITS]:
        shown = ", ".join(dict.fromkeys(map(quoted, odd[:5])))
        raise UserError(
            f"--table {where}: the split column holds {shown}: expected train, validation (val, valid, dev) "
            "and test; --columns split= leaves it out, for a random split by patient"
        )
    return keys.map(lambda key: _SPLITS.get(key, "")).astype(object)


def places(template: str) -> list[str]:
    """What stands in braces in a template."""
    return [name.strip() for name in _PLACE.findall(template)]


def check_template(template: str) -> None:
    """Raise a `UserError` if braces or brackets of a template do not match, or if nothing stands in braces."""
    rest = _OPTIONAL.sub("", template)
    if (
        "[" in _PLACE.sub("", rest)
        or "]" in _PLACE.sub("", rest)
        or "{" in _PLACE.sub("", rest)
        or not places(template)
    ):
        raise UserError(
            f"--prompt_template {template!r}: expected columns in braces, such as '[{{age}} year old. ]{{findings}}.'; "
            "a part in brackets is left out where one of its columns is empty"
        )


def render(template: str, cells: Callable[[str], str]) -> str:
    """The prompt of one row; "" where a column outside brackets is empty.

    Args:
        template: see `check_template`.
        cells: the text of what stands in braces.
    """
    chosen = _OPTIONAL.sub(lambda part: part[1] if all(map(cells, places(part[1]))) else "", template)
    if not all(map(cells, places(chosen))):
        return ""
    prompt, end = "", 0
    for place in _PLACE.finditer(chosen):
        prompt += chosen[end : place.start()]
        value = cells(place[1].strip())
        # The columns' words begin sentences of the template; what reports say is not touched further in.
        prompt += value[0].upper() + value[1:] if _SENTENCE_END.search(prompt) else value
        end = place.end()
    return re.sub(r"\.\s*\.(?!\.)", ".", normalise(prompt + chosen[end:]))


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
