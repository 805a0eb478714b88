"""Prompts of the rows of a table by templates: once for each row, or anew whenever its image is seen."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sdcxr.io.files import read_json
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError
from sdcxr.text.fields import (
    FINDING_FIELDS,
    cell_words,
    chexpert_findings,
    finding_words,
    person_fields,
    view_words,
)
from sdcxr.text.templates import DEMOGRAPHICS, FLAG, PERSON_FIELDS, check_fields, places, prompt_of


class PromptWriter:
    """The prompts that templates make of rows.

    Args:
        rows: of a metadata.csv or another table. Fields are its columns; labels give `FINDING_FIELDS`, persons
            `DEMOGRAPHICS`.
        templates: see `sdcxr.text.templates`; the choice among several is drawn.
        seed: seed of all draws.
        dropout: probability that a field that stands in brackets only is left out.

    Raises:
        UserError: a template has a field that there is not.
    """

    def __init__(self, rows: pd.DataFrame, templates: Sequence[str], seed: int, dropout: float = 0.0):
        self.templates, self.seed, self.dropout = list(templates), seed, dropout
        self.findings = chexpert_findings(rows) if {*rows} & {*LABELS} else None
        people = person_fields(rows)
        columns = [str(name) for name in rows if name not in LABELS]
        of_labels, of_people = FINDING_FIELDS if self.findings else (), (*people, DEMOGRAPHICS) if people else ()
        check_fields(self.templates, dict.fromkeys((*of_labels, *columns, *of_people)))
        named = {*places(self.templates)}
        wanted = named | ({*PERSON_FIELDS} if DEMOGRAPHICS in named else set())
        fields = {name: rows[name].map(cell_words) for name in columns if name in wanted}
        fields |= {name: words for name, words in people.items() if name in wanted}
        fields |= {name: rows[name].map(view_words) for name in ("view",) if name in fields}
        fields |= {name: rows[name] for name in ("text",) if name in fields}
        self.rows = [dict(zip(fields, words, strict=True)) for words in zip(*fields.values(), strict=True)]
        self.rows = self.rows or [{} for _ in range(len(rows))]

    def prompt(self, index: int, name: str) -> str:
        """The prompt of a row, "" where a field outside brackets is empty; its draws depend on `name` and the seed."""
        row = self.rows[index]
        if self.findings is not None:
            row = finding_words(self.findings[index], name, self.seed) | row  # a column comes first
        return prompt_of(row, self.templates, name, self.seed, self.dropout)


def prompts_of(rows: pd.DataFrame, templates: Sequence[str], seed: int) -> list[str]:
    """The prompt of each row, all fields in it; its draws depend on the column `id`.

    Raises:
        UserError: a template has a field that there is not, or a field outside brackets is empty.
    """
    writer = PromptWriter(rows, templates, seed)
    prompts = [writer.prompt(index, name) for index, name in enumerate(rows["id"])]
    if empty := [name for name, prompt in zip(rows["id"], prompts, strict=True) if not prompt]:
        shown = " ".join(map(repr, templates))
        raise UserError(
            f"{FLAG} {shown}: a field outside brackets is empty for {empty[0]} ({len(empty)} of {len(prompts)}): "
            "put it in brackets, or leave such rows out (data_prep with this template does)"
        )
    return prompts


def note_on_text(split: Path, templates: Sequence[str]) -> str:
    """A line where the field {text} of a dataset's split is itself written by a template; else empty."""
    prep = split.parent / "prep.json"
    if "text" not in places(templates) or not prep.is_file():
        return ""
    used = read_json(prep).get("settings", {}).get("prompt_template")
    return f"{FLAG}: {{text}} is the prompt that the preparation of {split.parent} wrote by {used!r}" if used else ""
