"""Differences between models that were measured on the same real images, with intervals from paired draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.metrics.bootstrap import NORMAL_95, percentiles, standard_error
from eval.scores import Row, Rows, score_row
from eval.summary.measures import FEWEST_JUDGED, aim_of, better, depends_on_n, has_aim, smallest_n
from eval.summary.models import Model

TOO_FEW = f"no verdict: fewer than {FEWEST_JUDGED} images, positives, negatives or searches"
KEY = ("step", "variant", "metric", "label", "images", "extractor", "preset")  # what makes rows comparable
HALVES = "{n} random halves of real patients and of prompts, the same for both models"
HALVES_OF_REAL = "{n} random halves: of real patients the same for both models, of prompts independent ones"
BOOTSTRAP = "{n:,} bootstrap samples of prompts (with their patients), the same for both models"
INDEPENDENT = "{n:,} bootstrap samples, independent ones for either model"
JACKKNIFE = "jackknife over {n} blocks of prompts, the same for both models"


def shared_rows(rows: Rows) -> Rows:
    """The rows with one for all models, its `model` None, where they have the same row of real images."""
    models = {row.get("model") for row in rows} - {None}
    counts: dict[str, int] = {}
    for row in rows:
        counts[_content(row)] = counts.get(_content(row), 0) + 1
    found: dict[str, Row] = {}
    for i, row in enumerate(rows):
        shared = row["images"] == "real" and counts[_content(row)] == len(models)
        found.setdefault(_content(row) if shared else str(i), row | {"model": None} if shared else row)
    return list(found.values())


def _content(row: Row) -> str:
    return repr({name: value for name, value in row.items() if name != "model"})


def compare_models(rows: Rows, models: Sequence[Model]) -> Rows:
    """Rows of differences: each model's value minus that of the first model.

    Beside the columns of all rows: `model`, `baseline`, `step`, `variant`; `paired`, how the draws of both models
    belong together, in words; `result`, "better", "worse", "higher", "lower", of a measure with an aim "nearer" or
    "farther", or None where the interval has 0, there is none, or too few images are behind it (a note says so).
    """
    baseline, found = models[0], []
    of_baseline = {row_key(row): row for row in rows if row["model"] == baseline.name}
    for model in models[1:]:
        same = unique(baseline.images.groups) == unique(model.images.groups)
        for row in rows:
            other = of_baseline.get(row_key(row))
            if row["model"] == model.name and other is not None and row["images"] != "real":
                found.append(difference(other, row, same) | {"model": model.name, "baseline": baseline.name})
    return found


def unique(names: Sequence[str]) -> list[str]:
    """Each name once, in order: what the draws of half-samples number."""
    return list(dict.fromkeys(names))


def difference(first: Row, second: Row, same_groups: bool) -> Row:
    """The row of the second model's value minus the first one's.

    Args:
        first: row of the baseline.
        second: row of the other model with the same metric.
        same_groups: whether their images are of the same prompts in the same order, so that their draws are paired.
    """
    value: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    paired, note = None, None
    if first["value"] is None or second["value"] is None:
        note = "not defined for both"
    elif depends_on_n(second["metric"]) and first["n_synthetic"] != second["n_synthetic"]:
        note = (
            f"not compared: {first['n_synthetic']} against {second['n_synthetic']} images, and the value depends on it"
        )
        beside = [row.get("value_at_floor_n") for row in (first, second)]
        if beside[0] is not None and beside[1] is not None and first["floor_n"] == second["floor_n"]:
            value = beside[1] - beside[0]
            note = f"values at {first['floor_n']} images on either side, because the models have different numbers"
    else:
        value = second["value"] - first["value"]
        interval, paired = _interval(first, second, value, same_groups)
    names = (*KEY, "part", "n_real", "n_synthetic", "n_positive")
    row = score_row(second["metric"], value, interval, note=note)
    row |= {name: second[name] for name in names if name in second}
    result = _result(row, first, second)
    if row["ci_low"] is not None and smallest_n(row) < FEWEST_JUDGED:
        result = None
        row["notes"] = [*row["notes"], TOO_FEW]
    return row | {"paired": paired, "result": result}


def _interval(
    first: Row, second: Row, value: float, same_groups: bool
) -> tuple[tuple[float | None, float | None], str | None]:
    """Interval of a difference from the draws of both, and how they were paired; none where a side has no draws."""
    draws = [np.array([np.nan if x is None else x for x in row.get("draws") or []]) for row in (first, second)]
    kind = second.get("draws_kind")
    none: tuple[tuple[float | None, float | None], None] = (None, None), None
    if kind != first.get("draws_kind") or len(draws[0]) != len(draws[1]) or not len(draws[0]):
        return none
    paired = same_groups or (kind == "half" and second["label"] is None)  # halves of the real images come first
    if not paired:
        draws[1] = np.random.default_rng(0).permutation(draws[1])
    drawn, n = draws[1] - draws[0], len(draws[0])
    known = drawn[np.isfinite(drawn)]
    if len(known) < 2 or not known.std():
        return none
    if kind == "bootstrap":
        low, high = percentiles(drawn)
        return ((low, high), (BOOTSTRAP if paired else INDEPENDENT).format(n=n)) if np.isfinite(low) else none
    if kind == "jackknife" and not same_groups:
        return none
    error = standard_error(drawn, str(kind))
    way = JACKKNIFE if kind == "jackknife" else HALVES if same_groups else HALVES_OF_REAL if paired else INDEPENDENT
    return (value - NORMAL_95 * error, value + NORMAL_95 * error), way.format(n=n)


def _result(row: Row, first: Row, second: Row) -> str | None:
    """What the interval says: None where it has 0 or there is none.

    Of two values on either side of an aim it is not said which is nearer: the difference's interval does not show it.
    """
    if row["ci_low"] is None or row["ci_low"] <= 0 <= row["ci_high"]:
        return None
    risen = row["value"] > 0
    direction, aim = better(row["metric"]), aim_of(second)
    if has_aim(row["metric"]) and aim is not None and aim == aim_of(first):
        offsets = first["value"] - aim, second["value"] - aim
        if offsets[0] * offsets[1] >= 0:
            return "nearer" if abs(offsets[1]) < abs(offsets[0]) else "farther"
    if direction is None:
        return "higher" if risen else "lower"
    return "better" if risen == (direction == "higher") else "worse"


def row_key(row: Row) -> tuple[Any, ...]:
    """What rows of different models have in common if they compare."""
    return tuple(row.get(name) for name in KEY)


def side_key(row: Row) -> tuple[Any, ...]:
    """The same for rows of real and of synthetic images."""
    return tuple(row.get(name) for name in KEY if name != "images")
