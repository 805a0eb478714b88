"""Fields of prompts: findings, view, age, sex and race in words, from the columns that tables have for them."""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from sdcxr.io.files import uniform
from sdcxr.io.manifest import LABELS
from sdcxr.text.templates import PERSON_FIELDS

FINDING_FIELDS = ("findings", "finding", "word")
"""All positive findings ("edema and pneumonia"), one of them, and one of them or "normal"."""
NORMAL = "no finding"
MAX_AGE_YEARS = 120  # the first edition of ChestX-ray14's table has ages above 400
_COLUMNS = {
    "age": ("age", "ageyears", "anchorage", "patientage", "ageatstudy", "ageatcxr"),
    "race": ("race", "patientrace", "ethnicity", "primaryrace"),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
}
_SEXES = {"m": "male", "f": "female"}
_UNKNOWN = {"", "nan", "na", "n/a", "none", "null", "unknown", "unk", "<na>", "unable to obtain", "other"}
_VIEWS = {"FRONTAL": "frontal", "LATERAL": "lateral", "LL": "left lateral", "RL": "right lateral"}
_WORDS = {"Pleural Other": "other pleural disease"}


def person_fields(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns of a table that hold age, race and sex under any usual name, in words, "" where unknown."""
    names = {re.sub(r"[^a-z]", "", str(column).lower()): column for column in reversed(table.columns)}
    read = {"age": age_words, "race": race_words, "sex": sex_words}
    found = {field: next((names[name] for name in _COLUMNS[field] if name in names), None) for field in PERSON_FIELDS}
    return {field: table[column].map(read[field]) for field, column in found.items() if column is not None}


def age_words(cell: object) -> str:
    """Age in whole years of 58, 58.0, "058Y", "013M" or "020D"; "" if missing or impossible."""
    match = re.fullmatch(r"\s*(\d{1,4})(?:\.\d*)?\s*([YMWD]?)\s*", str(cell).upper())
    if match is None:
        return ""
    years = int(match[1]) // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return str(years) if years <= MAX_AGE_YEARS else ""


def sex_words(cell: object) -> str:
    """ "male" or "female" of M, F, Male, female; "" for anything else."""
    return _SEXES.get(str(cell).strip().lower()[:1], "") if str(cell).strip().lower() not in _UNKNOWN else ""


def race_words(cell: object) -> str:
    """The cell, "" if it says that nothing is known."""
    text = " ".join(str(cell).split())
    return "" if text.lower() in _UNKNOWN else text


def cell_words(cell: object) -> str:
    """A cell as words: white space normalised, whole numbers without a decimal point, "" if missing."""
    text = " ".join(str(cell).split())
    return "" if text.lower() in ("nan", "<na>", "none") else re.sub(r"^(\d+)\.0+$", r"\1", text)


def view_words(cell: object) -> str:
    """A view position in words: PA, AP, lateral; "" if unknown."""
    text = str(cell).strip()
    return "" if text.lower() in _UNKNOWN else _VIEWS.get(text.upper(), text)


def label_words(label: str) -> str:
    """A label of CheXpert as words of a prompt."""
    return _WORDS.get(label, label.lower())


def positive_findings(labels: pd.DataFrame) -> list[list[str]]:
    """The columns that are 1 in each row; ["no finding"] only where no other is and the table itself says so.

    Args:
        labels: 1, 0, -1 or NaN; columns named in words.
    """
    normal = [name for name in labels if str(name).lower() in (NORMAL, "no findings", "normal")]
    others = [str(name) for name in labels if name not in normal]
    positive, healthy = labels[others].to_numpy() == 1, (labels[normal] == 1).any(axis=1).to_numpy()
    found = ([name for name, is_there in zip(others, row, strict=True) if is_there] for row in positive)
    return [names or ([NORMAL] if is_healthy else []) for names, is_healthy in zip(found, healthy, strict=True)]


def chexpert_findings(rows: pd.DataFrame) -> list[list[str]]:
    """`positive_findings` of those of CheXpert's labels that the rows of a metadata.csv have."""
    return positive_findings(rows[[name for name in LABELS if name in rows]].rename(columns=label_words))


def finding_fields(findings: Sequence[Sequence[str]], ids: pd.Series, seed: int) -> dict[str, pd.Series]:
    """`FINDING_FIELDS` of the findings of each row, "" where there are none; index of `ids`.

    Args:
        findings: words for the findings of each row.
        ids: which finding is the one depends on the id and on `seed` only.
        seed: see `ids`.
    """
    words = [finding_words(names, name, seed) for names, name in zip(findings, ids, strict=True)]
    return {field: pd.Series([row[field] for row in words], index=ids.index, dtype=object) for field in FINDING_FIELDS}


def finding_words(findings: Sequence[str], name: str, seed: int) -> dict[str, str]:
    """`FINDING_FIELDS` of one row, whose id is `name`."""
    one = findings[int(uniform(f"{seed}:finding:{name}") * len(findings))] if findings else ""
    return {"findings": join_words(findings), "finding": one, "word": "normal" if one == NORMAL else one}


def join_words(words: Iterable[str]) -> str:
    """Words as a list in a sentence: "edema, pneumonia and pleural effusion"."""
    *first, last = [*words] or [""]
    return " and ".join(filter(None, (", ".join(first), last)))
