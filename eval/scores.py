"""Score rows: what every module of this room returns, and the file that they are kept in."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sdcxr.io.files import read_json, write_json
from sdcxr.runtime.errors import UserError

COLUMNS = (
    "metric",  # its name, in lower case: "auroc", "kid", …
    "label",  # the finding, or null for all images
    "images",  # "real", "synthetic" or "both": what the value is of
    "value",
    "ci_low",  # 95 % bootstrap interval
    "ci_high",
    "floor",  # the same between two halves of the real images (other patients), at the same number of images
    "n_real",
    "n_synthetic",
    "extractor",
    "preset",
    "note",  # what a reader has to know before believing the value, or null
)


def score_row(metric: str, value: float, **others: Any) -> dict[str, Any]:
    """One row of scores.json with every column of `COLUMNS`; further columns are allowed after them.

    Args:
        metric: name of the metric.
        value: its value; NaN where it is not defined.
        others: further columns by name.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"metric": metric, "images": "both", "value": value} | others
    return row


def write_scores(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows atomically as JSON; what is not finite becomes null, which pandas reads as NaN."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, as_json(rows))


def publish(rows: Sequence[dict[str, Any]], output: str | Path | None, table: Callable[[Any], str]) -> None:
    """Write the rows, where a file is named, and print them as a table: once, however many processes there are."""
    from sdcxr.runtime.processes import processes  # torch is there by now

    if processes().is_main_process:
        if output is not None:
            write_scores(output, rows)
        print(table(rows))


def value_text(row: dict[str, Any] | None) -> str:
    """A row's value with three decimals, and its interval in brackets where it has one; the row may be missing."""
    if row is None:
        return "not defined"
    value, low, high = (math.nan if row[name] is None else row[name] for name in ("value", "ci_low", "ci_high"))
    if not math.isfinite(value):
        return "not defined"
    return f"{value:.3f}" + (f" ({low:.3f}–{high:.3f})" if math.isfinite(low) and math.isfinite(high) else "")


def as_json(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with None for what is not finite, which JSON cannot say."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in rows
    ]


def read_scores(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a scores.json.

    Raises:
        UserError: it is not JSON, or no such rows.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= set(COLUMNS) for row in rows):
        raise UserError(f"{path} is no scores.json: a list of rows with {', '.join(COLUMNS)}")
    return rows
