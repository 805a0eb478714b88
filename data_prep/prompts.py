"""Prompts of a cohort: texts of reports raw, clean or refocused, templates, and the account of both for prep.json."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from data_prep.cohort import Cohort
from data_prep.filters import length_reasons, reason_where
from data_prep.writer import Settings
from sdcxr.text.refocusing import TextMode, describe_change, use_mode
from sdcxr.text.templates import (
    PERSON_FIELDS,
    as_list,
    as_recorded,
    check_dropout,
    check_templates,
    write_prompts,
)


@dataclass(kw_only=True)
class PromptSettings(Settings):
    """Settings of sources with texts."""

    text: TextMode = "raw"
    """raw reports; clean: without ___ and XXXX; refocused: also without comparison, time, advice and communication"""
    prompt_template: list[str] | str = ""
    """prompt with fields in braces, such as "[{view} view. ]{text}"; of several each image gets one; default: {text}"""
    field_dropout: float = 0.0
    """probability that a field of the template that stands in brackets is left out"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prompt_template = as_recorded(self.prompt_template)
        check_templates(self.templates)
        check_dropout(self.field_dropout)

    @property
    def templates(self) -> list[str]:
        """The templates that are given."""
        return as_list(self.prompt_template)


def use_texts(cohort: Cohort, mode: TextMode) -> None:
    """Bring the column `text` into a mode; rows of which nothing is left are rejected."""
    before = cohort.rows["text"]
    after = texts_in(before, mode)
    account_for(cohort, mode, before, after)
    cohort.rows = cohort.rows.assign(text=after)
    if mode != "raw":
        cohort.apply(f"{mode} text", reason_where(after == "", "empty after cleaning"))


def texts_in(texts: pd.Series, mode: TextMode) -> pd.Series:
    """Texts in a mode; each different text is read once."""
    return texts.map({text: use_mode(text, mode) for text in texts.unique()}).astype(object)


def account_for(cohort: Cohort, mode: TextMode, before: pd.Series, after: pd.Series) -> None:
    """Record and print the share of the texts that a mode changes and of the characters that it drops."""
    cohort.texts = {
        "mode": mode,
        "texts": len(before),
        "changed": int((before != after).sum()),
        "characters": int(before.str.len().sum()),
        "dropped_characters": int((before.str.len() - after.str.len()).sum()),
    }
    if mode != "raw":
        print(describe_change(mode, before, after))


def use_templates(cohort: Cohort, config: PromptSettings, fields: Mapping[str, pd.Series]) -> None:
    """Write the column `text` by templates; rows that lack a field outside brackets are rejected.

    Age, race and sex become columns, for templates in training and generation.

    Args:
        cohort: with dicom_id.
        config: the settings.
        fields: words of each row by field.

    Raises:
        UserError: a template has a field that there is not.
    """
    templates = config.templates
    check_dropout(config.field_dropout, templates)
    keep_persons(cohort, fields)
    if not templates:
        return
    prompts = write_prompts(templates, fields, cohort.rows["dicom_id"], config.seed, config.field_dropout)
    cohort.rows = cohort.rows.assign(text=pd.Series(prompts, cohort.rows.index, dtype=object))
    cohort.apply("prompt template", reason_where(cohort.rows["text"] == "", "no prompt by the template"))


def keep_persons(cohort: Cohort, fields: Mapping[str, pd.Series]) -> None:
    """Add age, race and sex to the rows, as far as they are known."""
    cohort.rows = cohort.rows.assign(**{name: fields[name] for name in PERSON_FIELDS if name in fields})


def filter_lengths(cohort: Cohort, min_chars: int, max_chars: int | None, what: str) -> None:
    """Drop prompts shorter or longer than the limits; `what` they are, for the reasons."""
    text = cohort.rows["text"]
    reasons = length_reasons(text, min_chars, sys.maxsize if max_chars is None else max_chars)
    detail = text.str.len().astype(str) + " characters"
    limits = f"{min_chars} to {'any' if max_chars is None else max_chars} characters"
    cohort.apply(limits, reasons.str.replace("impression", what), detail)
