"""Scores of all cells: tidy rows, means over seeds, and paired differences with intervals."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ablation.cells import Cell, Plan, task_output, with_folders
from ablation.grid import SEED
from ablation.runner import DONE, read_state
from eval.inputs.folders import ImageFolder, read_samples
from eval.metrics.bootstrap import holm, standard_error
from eval.scores import Row, Rows, read_scores
from eval.summary.comparison import row_key
from eval.summary.measures import better, depends_on_n
from eval.summary.steps import rows_with_draws
from sdcxr.io.files import write_text
from sdcxr.runtime.errors import UserError

RESULTS, DIFFERENCES = "results.csv", "differences.csv"
LEVEL = 0.95
SMALLEST_P = 1e-15  # below it a p-value is 0
ONE_SEED = "one seed: the interval is of the prompts only, another training could give another value"
NO_DRAWS = "the interval is of the seeds only"
OF_ALL = (None, "macro")  # labels of a value of all images, or of the mean of the findings
COLUMNS = (
    "metric", "label", "images", "value", "ci_low", "ci_high", "floor", "n_real", "n_synthetic", "step", "variant",
    "extractor", "preset",
)  # fmt: skip

Key = tuple[Any, ...]
"""What rows of different cells have in common if they compare (`eval.summary.comparison.row_key`)."""


@dataclass(frozen=True)
class Measured:
    """A cell with its scores."""

    cell: Cell
    rows: Rows
    samples: Path | None
    """Folder of its images, where its measuring stage names one."""

    @cached_property
    def images(self) -> ImageFolder | None:
        """Its images."""
        return read_samples(str(self.samples)) if self.samples is not None else None

    @cached_property
    def groups(self) -> list[str]:
        """The prompts behind the draws, in order."""
        return list(dict.fromkeys(self.images.groups)) if self.images is not None else []

    @cached_property
    def by_key(self) -> dict[Key, Row]:
        """The rows of its own images by what they measure."""
        return {row_key(row): row for row in self.rows if row["images"] != "real" and row["value"] is not None}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    value: float
    sd: float | None
    """Over seeds; None of one."""
    low: float | None
    high: float | None
    """95 % interval."""
    p: float | None
    """Of the value 0, two-sided."""
    n_seeds: int
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline."""

    arm: str
    key: Key
    estimate: Estimate
    p_holm: float | None
    """Adjusted for all comparisons of the grid's table."""


@dataclass(frozen=True)
class Arms:
    """The cells of a grid by their axis values without the seed, with the metrics of the table."""

    cells: Mapping[str, Mapping[str, Measured]]
    """By the name of the arm and the seed."""
    columns: Mapping[Key, str]
    """The metrics of the table, each by its metric's name."""
    baseline: str | None

    def estimate(self, arm: str, key: Key) -> Estimate | None:
        """The value of an arm; None where it was not measured."""
        found = [one for one in self.cells[arm].values() if key in one.by_key]
        if not found:
            return None
        rows = [one.by_key[key] for one in found]
        return estimate([row["value"] for row in rows], [_draws(row) for row in rows], rows[0].get("draws_kind"))

    def difference(self, arm: str, other: str, key: Key) -> Estimate | None:
        """An arm minus another one, over the seeds that both have; None where there are none or they do not compare.

        Values that depend on the number of images are not compared between different numbers.
        """
        pairs = [
            (one, self.cells[other][seed])
            for seed, one in self.cells[arm].items()
            if seed in self.cells[other] and key in one.by_key and key in self.cells[other][seed].by_key
        ]
        rows = [(a.by_key[key], b.by_key[key]) for a, b in pairs]
        of_n = [a for a, b in rows if depends_on_n(a["metric"]) and a["n_synthetic"] != b["n_synthetic"]]
        if not rows or of_n:
            return None
        same = all(a.groups and a.groups == b.groups for a, b in pairs)
        drawn = [_difference_of_draws(a, b, same) for a, b in rows]
        return estimate([a["value"] - b["value"] for a, b in rows], drawn, rows[0][0].get("draws_kind"))

    def differences(self) -> list[Difference]:
        """Of all arms to the baseline, with Holm's correction over all of them."""
        if self.baseline is None:
            return []
        found = [
            (arm, key, one)
            for key in self.columns
            for arm in self.cells
            if arm != self.baseline and (one := self.difference(arm, self.baseline, key)) is not None
        ]
        adjusted = holm([float("nan") if one.p is None else one.p for _, _, one in found])
        return [
            Difference(arm, key, one, p if np.isfinite(p) else None)
            for (arm, key, one), p in zip(found, adjusted, strict=True)
        ]

    def best(self, key: Key) -> str | None:
        """The arm that is better than every other one by its interval; None where no arm is."""
        direction = better(self.columns[key])
        known = {arm: one.value for arm in self.cells if (one := self.estimate(arm, key)) is not None}
        if direction is None or len(known) < 2:
            return None
        first = (max if direction == "higher" else min)(known, key=lambda arm: known[arm])
        against = [self.difference(first, arm, key) for arm in known if arm != first]
        return first if all(one is not None and one.excludes_zero for one in against) else None


def estimate(values: Sequence[float], draws: Sequence[np.ndarray], kind: str | None) -> Estimate:
    """The mean of values of several seeds, with an interval over seeds and prompts.

    Seeds and prompts are crossed: the same prompts are drawn with each seed. The variance of the mean is that of its
    draws (averaged over seeds, which keeps what the seeds have in common) plus that of the values over the seeds. Each
    has its own quantile, normal and Student's of n - 1 degrees of freedom, and the squares of both halves add up:
    degrees of freedom of the sum (Satterthwaite) gave 92 % in a simulation with three seeds. The second variance has
    the noise of prompts in it that is not common, so that the interval is wide rather than narrow.

    Args:
        values: of each seed.
        draws: of each seed, shape (draws,); empty where unknown.
        kind: of the draws, see `eval.metrics.bootstrap.Interval`.
    """
    n, value = len(values), float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if n > 1 else None
    known = bool(kind) and all(len(one) and len(one) == len(draws[0]) for one in draws)
    of_prompts = standard_error(np.mean(draws, axis=0), str(kind)) ** 2 if known else float("nan")
    of_seeds = sd**2 / n if sd is not None else 0.0
    known = bool(np.isfinite(of_prompts))
    variance = of_seeds + (of_prompts if known else 0.0)
    if not variance > 0 or (not known and n < 2):
        return Estimate(value, sd, None, None, None, n, "no interval")

    from scipy import stats
    from scipy.optimize import brentq

    def reach_at(p: float) -> float:
        of_seed = stats.t.isf(p / 2, n - 1) ** 2 * of_seeds if of_seeds else 0.0
        return float((of_seed + (stats.norm.isf(p / 2) ** 2 * of_prompts if known else 0.0)) ** 0.5)

    reach = reach_at(1 - LEVEL)
    p = 0.0 if reach_at(SMALLEST_P) < abs(value) else brentq(lambda p: reach_at(p) - abs(value), SMALLEST_P, 1.0)
    note = ONE_SEED if n == 1 else "" if known else NO_DRAWS
    return Estimate(value, sd, value - reach, value + reach, p, n, note)


def _draws(row: Row) -> np.ndarray:
    return np.array([np.nan if x is None else x for x in row.get("draws") or []], float)


def _difference_of_draws(first: Row, second: Row, same: bool) -> np.ndarray:
    """Differences of draws; of images of other prompts they are independent, and a permutation pairs them at random."""
    draws = _draws(first), _draws(second)
    if len(draws[0]) != len(draws[1]) or first.get("draws_kind") != second.get("draws_kind"):
        return np.zeros(0)
    return draws[0] - (draws[1] if same else np.random.default_rng(0).permutation(draws[1]))


def measured_cells(root: Path, plan: Plan) -> list[Measured]:
    """The cells whose measuring stage is done."""
    found, kept = [], {}
    for cell in plan.cells:
        task = plan.tasks[cell.tasks[plan.grid.measure]]
        if read_state(root, task).get("state") != DONE:
            continue
        if task.key not in kept:
            output = task_output(root, task)
            flags = with_folders(task.flags, lambda key: task_output(root, plan.tasks[key]))
            samples = flags.get("synthetic")
            rows = rows_with_draws(output) or read_scores(output / "scores.json")
            kept[task.key] = rows, Path(samples) if isinstance(samples, str) else None
        found.append(Measured(cell, *kept[task.key]))
    return found


def arms_of(plan: Plan, measured: Sequence[Measured]) -> Arms:
    """The measured cells by arm; the columns are those that the grid names, else all values of all images.

    Raises:
        UserError: the grid names a metric that no cell has, or a baseline that is no cell.
    """
    cells: dict[str, dict[str, Measured]] = {}
    for one in measured:
        cells.setdefault(arm_name(plan, one.cell), {})[one.cell.assignment.get(SEED, "")] = one
    baseline = None
    if plan.grid.baseline:
        wanted = plan.grid.baseline.items()
        names = {arm_name(plan, cell): cell.arm for cell in plan.cells}
        fitting = [name for name, arm in names.items() if wanted <= arm.items()]
        exact = [name for name in fitting if names[name] == dict(wanted)]
        if len(exact or fitting) != 1:
            raise UserError(f"baseline: {len(fitting)} cells are {plan.grid.baseline}: name the value of each axis")
        baseline = (exact or fitting)[0]
        baseline = baseline if baseline in cells else None
    return Arms(cells, _columns(plan, measured), baseline)


def arm_name(plan: Plan, cell: Cell) -> str:
    """An arm's values of the axes that vary."""
    varying = [axis for axis in cell.arm if len(plan.grid.axes[axis].choices) > 1]
    labels = [cell.arm[axis] for axis in varying]
    if len({axis for axis in plan.grid.axes if axis != SEED and len(plan.grid.axes[axis].choices) > 1}) < 2:
        return ", ".join(labels) or "all"
    return ", ".join(f"{plan.short[axis]} {label}" for axis, label in zip(varying, labels, strict=True))


def _columns(plan: Plan, measured: Sequence[Measured]) -> dict[Key, str]:
    rows = {key: row for one in measured for key, row in one.by_key.items()}
    if not plan.grid.metrics:
        return {k: r["metric"] for k, r in rows.items() if r["label"] in OF_ALL and better(r["metric"]) is not None}
    found: dict[Key, str] = {}
    for wanted in plan.grid.metrics:
        fitting = {k: r["metric"] for k, r in rows.items() if all(r.get(n) == value for n, value in wanted.items())}
        if rows and not fitting:
            raise UserError(f"metrics: no score is {wanted} (known: {', '.join(sorted({k[2] for k in rows}))})")
        found |= fitting
    return found


def write_results(root: Path, plan: Plan, measured: Sequence[Measured]) -> None:
    """results.csv: a row for each cell, metric, label and seed."""
    axes = [axis for axis in plan.grid.axes if axis != SEED]
    header = ["cell", *(plan.short[axis] for axis in axes), "seed", *COLUMNS, "task"]
    lines = []
    for one in measured:
        cell = one.cell
        about = [arm_name(plan, cell), *(cell.assignment.get(axis, "") for axis in axes), cell.assignment.get(SEED, "")]
        lines += [[*about, *(row.get(name) for name in COLUMNS), cell.tasks[plan.grid.measure]] for row in one.rows]
    write_text(root / RESULTS, _csv([header, *lines]))


def write_differences(root: Path, arms: Arms, differences: Sequence[Difference]) -> None:
    """differences.csv: a row for each arm and metric of the table, against the baseline."""
    rows: list[Sequence[Any]] = [
        ["cell", "baseline", "metric", "label", "variant", "difference", "sd", "ci_low", "ci_high", "p"]
    ]
    rows[0] = [*rows[0], "p_holm", "seeds", "note"]
    for one in differences:
        e = one.estimate
        about = [one.arm, arms.baseline, one.key[2], one.key[3], one.key[1]]
        rows.append([*about, e.value, e.sd, e.low, e.high, e.p, one.p_holm, e.n_seeds, e.note])
    write_text(root / DIFFERENCES, _csv(rows))


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
