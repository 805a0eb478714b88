"""Score rows, the Result of an evaluation, and scores.json."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.metrics.bootstrap import Interval
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
    "note",  # caveats about the value, joined by "; ", or null; a row in memory has them as the list `notes`
)
ROWS_VERSION = 1  # of the rows of all evaluations: raise it when kept rows lack something that readers need
ALL_EQUAL = "no interval: all resamples equal"
DRAWS = ("draws", "draws_kind")  # of a row in memory: the values behind its interval, to compare models by
Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True)
class Result:
    """What an evaluation returns."""

    rows: Rows
    """Where all resamples of a value were equal, without an interval and with the note ALL_EQUAL."""
    omitted: list[str] = field(default_factory=list)
    """What was not measured, each with its reason in brackets."""
    warnings: list[str] = field(default_factory=list)
    """What may be wrong with the inputs, whatever the scores are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [_without_equal_ends(row) for row in self.rows])


def _without_equal_ends(row: Row) -> Row:
    """The row without an interval of no width: resamples in which nothing varies do not show how sure a value is."""
    drawn = {value for value in row.get("draws") or () if value is not None and not math.isnan(value)}
    low = row.get("ci_low")
    if low is None or low != row["ci_high"] or len(drawn) > 1:
        return row
    return row | {"ci_low": None, "ci_high": None, "notes": [*row["notes"], ALL_EQUAL]}


def score_row(
    metric: str,
    value: float | None,
    interval: tuple[float | None, float | None] = (None, None),
    *,
    note: str | None = None,
    **others: Any,
) -> Row:
    """One score with every column of `COLUMNS`; further columns are allowed after them.

    Args:
        metric: name of the metric.
        value: its value; NaN or None where it is not defined.
        interval: both ends of the 95 % interval.
        note: the only caveat; several are given as the list `notes`.
        others: further columns by name.

    The draws of an `Interval` become the columns `draws` and `draws_kind` of `DRAWS`, which no file of scores has.
    """
    row: Row = dict.fromkeys(COLUMNS[:-1])
    row |= {"metric": metric, "images": "both", "value": value, "ci_low": interval[0], "ci_high": interval[1]}
    if isinstance(interval, Interval) and len(interval.draws):
        row |= {"draws": interval.draws.tolist(), "draws_kind": interval.kind}
    return row | {"notes": [note] if note else []} | others


def write_scores(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows atomically as JSON; what is not finite becomes null, which pandas reads as NaN."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [_with_note(row) for row in finite_or_none(rows)])


def _with_note(row: Row) -> Row:
    others = {name: value for name, value in row.items() if name not in (*COLUMNS, *DRAWS, "notes")}
    return {name: row.get(name) for name in COLUMNS} | {"note": note_text(row) or None} | others


def publish(result: Result, output: str | Path | None, table: Callable[[Rows], str]) -> None:
    """Write the rows, where a file is named; print omissions, warnings and the table. On the main process only."""
    from sdcxr.runtime.processes import processes  # torch is loaded by now

    if processes().is_main_process:
        if output is not None:
            write_scores(output, result.rows)
        print_remarks(result.omitted, result.warnings)
        print(table(result.rows))


def print_remarks(omitted: Sequence[str], warnings: Sequence[str]) -> None:
    """Print what was left out and what may be wrong, a line each."""
    for line in [*(f"left out: {one}" for one in omitted), *(f"warning: {one}" for one in warnings)]:
        print(line, flush=True)


def note_text(row: Row) -> str:
    """The caveats of a row as one text."""
    return "; ".join(row["notes"])


def with_note(rows: Rows, note: str | None) -> Rows:
    """The rows with one caveat more, where there is one."""
    return [row | {"notes": [*row["notes"], note]} for row in rows] if note else rows


def note_lines(rows: Rows, name: Callable[[Row], str] = lambda row: str(row["metric"])) -> list[str]:
    """Each different caveat once, after the names of the rows that have it."""
    by_note: dict[str, dict[str, None]] = {}
    for row in rows:
        by_note.setdefault(note_text(row), {})[name(row)] = None
    return [f"{', '.join(names)}: {note}" for note, names in by_note.items() if note]


def value_text(row: Row | None) -> str:
    """A row's value with three decimals, and its interval in brackets where it has one; the row may be missing."""
    if row is None:
        return "not defined"
    value, low, high = (math.nan if row[name] is None else row[name] for name in ("value", "ci_low", "ci_high"))
    if not math.isfinite(value):
        return "not defined"
    return f"{value:.3f}" + (f" ({low:.3f}–{high:.3f})" if math.isfinite(low) and math.isfinite(high) else "")


def finite_or_none(rows: Sequence[Row]) -> Rows:
    """The rows with None for what is not finite, which JSON has no value for."""

    def known(value: Any) -> Any:
        if isinstance(value, list):
            return [known(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{key: known(value) for key, value in row.items()} for row in rows]


def read_scores(path: str | Path) -> Rows:
    """The rows of a scores.json.

    Raises:
        UserError: the file is not JSON, or its content is not a list of score rows.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= set(COLUMNS) for row in rows):
        raise UserError(f"{path} is no scores.json: a list of rows with {', '.join(COLUMNS)}")
    return [
        {name: value for name, value in row.items() if name != "note"} | {"notes": [row["note"]] if row["note"] else []}
        for row in rows
    ]
