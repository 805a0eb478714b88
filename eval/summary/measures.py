"""The metrics in words: names, direction, and what their values are compared with."""

import json
from importlib.resources import files
from typing import Any

from eval.scores import ALL_EQUAL, Row

MEASURES: dict[str, dict[str, Any]] = json.loads(
    files("eval.summary").joinpath("metrics.json").read_text(encoding="utf-8")
)
"""Of each metric its name, "lower" or "higher" (what is better, or null), its definition in a line, whether its value
depends on the number of images, and its aim where neither side is better: a number, or what has the value."""
FEWEST_JUDGED = 20  # images, positives, negatives or searches behind a verdict
REFERENCES = ("floor", "chance", "shuffled")  # columns of what a value is compared with
ARROWS = {"lower": "↓", "higher": "↑", None: ""}


def metric_name(metric: str) -> str:
    """A metric in words."""
    return str(MEASURES.get(metric, {}).get("name") or metric.replace("_", " "))


def better(metric: str) -> str | None:
    """Whether a "higher" or a "lower" value is better; None where neither is, or it is not known."""
    direction: str | None = MEASURES.get(metric, {}).get("better")
    return direction


def has_aim(metric: str) -> bool:
    """Whether the best value is one that can be missed on either side."""
    return "aim" in MEASURES.get(metric, {})


def aim_of(row: Row) -> float | None:
    """The value to aim at: of the metric, or that of real images (the row's floor); None where there is none."""
    aim = MEASURES.get(row["metric"], {}).get("aim")
    return row.get("floor") if isinstance(aim, str) else aim


def reads(metric: str) -> str:
    """The definition in a line, and how to read a value; empty for an unknown metric."""
    return str(MEASURES.get(metric, {}).get("reads", ""))


def depends_on_n(metric: str) -> bool:
    """Whether the value changes with the number of images by itself."""
    return bool(MEASURES.get(metric, {}).get("depends_on_n"))


def with_arrow(metric: str, where_clear: bool = False) -> str:
    """A metric in words, with an arrow where a higher or lower value is better; shorter `where_clear` what it is of."""
    name = str(MEASURES.get(metric, {}).get("short") or metric_name(metric)) if where_clear else metric_name(metric)
    return f"{name} {ARROWS[better(metric)]}".strip()


def display_name(row: Row) -> str:
    """A row's metric in words, with its label."""
    name = with_arrow(row["metric"])
    return f"{name}, {label_name(row['label'])}" if row.get("label") else name


def label_name(label: str | None) -> str:
    """A label in words."""
    if label and (label == "macro" or label.startswith("macro-")):
        return "mean of the findings" + label.removeprefix("macro").replace("-", " ")
    return label or "all images"


def reference(row: Row) -> float | None:
    """What a value is compared with: floor, chance, or shuffled baseline; None where there is none."""
    return next((row[name] for name in REFERENCES if row.get(name) is not None), None)


def caveats(row: Row) -> list[str]:
    """The notes of a row, without that on the floor's number of images, which has a column of its own."""
    notes = [note for note in row["notes"] if not (row.get("floor_n") and note.startswith("floor at "))]
    return [f"{note} (n = {smallest_n(row):,})" if note == ALL_EQUAL else note for note in notes]


def smallest_n(row: Row) -> int:
    """The smallest number of positives, negatives, searches or images behind a value; 0 where none is known."""
    names = ("n_positive", "n_negative", "n_queries", "n_real", "n_synthetic")
    return min((row[name] for name in names if row.get(name)), default=0)


def capital(text: str) -> str:
    """A text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def short(name: str | None) -> str:
    """A name without the folders before its last two."""
    parts = (name or "").split("/")
    return "/".join(parts[-2:]) if len(parts) > 2 else name or ""
