"""Scores of all cells: tidy rows, means over seeds, paired differences with intervals, and ranks."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ablation.cells import Cell, Plan, Task, task_folder, task_output, with_folders
from ablation.estimates import Estimate, Rank, Spread, estimates_of, ranks, spread
from ablation.grid import SEED, Grid
from ablation.progress import DONE
from ablation.runner import read_state
from eval.inputs.folders import read_samples
from eval.metrics.bootstrap import holm
from eval.scores import Row, Rows, read_scores
from eval.summary.comparison import row_key
from eval.summary.measures import better, depends_on_n
from eval.summary.steps import rows_with_draws
from sdcxr.io.files import write_text
from sdcxr.runtime.errors import UserError

RESULTS, DIFFERENCES = "results.csv", "differences.csv"
PROMPTS = "prompts.sha256"
OF_ALL = (None, "macro")  # labels of a value of all images, or of the mean of the findings
COLUMNS = (
    "metric", "label", "images", "value", "ci_low", "ci_high", "floor", "n_real", "n_synthetic", "step", "variant",
    "extractor", "preset",
)  # fmt: skip
NETWORK_COLUMNS = ("part", "variant", "extractor")  # of a row: they name networks
RANKS = ("rank", "rank_low", "rank_high")  # over the seeds of a cell

Key = tuple[Any, ...]
"""What rows of different cells have in common if they compare (`eval.summary.comparison.row_key`)."""


@dataclass(frozen=True)
class Measured:
    """A cell with its scores."""

    cell: Cell
    rows: Rows
    samples: Path | None
    """Folder of its images, where its measuring stage names one."""
    groups: str = ""
    """Hash of the prompts behind the draws, in order; empty where they are not known."""

    @cached_property
    def by_key(self) -> dict[Key, Row]:
        """The rows of its own images by what they measure."""
        return {row_key(row): row for row in self.rows if row["images"] != "real" and row["value"] is not None}


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
    missing: Sequence[str] = ()
    """What the grid names and is not measured, in words: metrics that no cell has, a baseline without scores."""

    def estimate(self, arm: str, key: Key) -> Estimate | None:
        """The value of an arm; None where it was not measured."""
        return self._estimates[key].get(arm)

    @cached_property
    def _estimates(self) -> dict[Key, dict[str, Estimate]]:
        found: dict[Key, dict[str, Estimate]] = {}
        for key in self.columns:
            spreads = {}
            for arm, cells in self.cells.items():
                rows = [one.by_key[key] for one in cells.values() if key in one.by_key]
                if rows:
                    draws = [_draws(row) for row in rows]
                    spreads[arm] = spread([row["value"] for row in rows], draws, rows[0].get("draws_kind"))
            found[key] = dict(zip(spreads, estimates_of(list(spreads.values())), strict=True))
        return found

    def difference(self, arm: str, other: str, key: Key) -> Estimate | None:
        """An arm minus another one, over the seeds that both have; None where there are none or they do not compare.

        Values that depend on the number of images are not compared between different numbers.
        """
        found = self._spread_of_difference(arm, other, key)
        return None if found is None else estimates_of([found])[0]

    def _spread_of_difference(self, arm: str, other: str, key: Key) -> Spread | None:
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
        return spread([a["value"] - b["value"] for a, b in rows], drawn, rows[0][0].get("draws_kind"))

    def differences(self) -> list[Difference]:
        """Of all arms to the baseline, with Holm's correction over all of them."""
        if self.baseline is None:
            return []
        pairs = [(arm, key) for key in self.columns for arm in self.cells if arm != self.baseline]
        spreads = {pair: one for pair in pairs if (one := self._spread_of_difference(pair[0], self.baseline, pair[1]))}
        found = estimates_of(list(spreads.values()))
        adjusted = holm([float("nan") if one.p is None else one.p for one in found])
        return [
            Difference(arm, key, one, p if np.isfinite(p) else None)
            for (arm, key), one, p in zip(spreads, found, adjusted, strict=True)
        ]

    @cached_property
    def ranks(self) -> dict[Key, dict[str, Rank]]:
        """Of each metric with a direction the ranks of its arms, where there are at least two."""
        found = {}
        for key, metric in self.columns.items():
            values = {arm: one.value for arm, one in self._estimates[key].items()}
            if better(metric) is not None and len(values) > 1:
                found[key] = dict(zip(values, self._ranks(key, values, better(metric) == "higher"), strict=True))
        return found

    def _ranks(self, key: Key, values: Mapping[str, float], higher: bool) -> list[Rank]:
        arms = list(values)
        pairs = [(i, j) for i in range(len(arms)) for j in range(i)]
        spreads = {pair: self._spread_of_difference(arms[pair[0]], arms[pair[1]], key) for pair in pairs}
        compared = {pair: one for pair, one in spreads.items() if one is not None}
        found: list[list[Estimate | None]] = [[None] * len(arms) for _ in arms]
        for (i, j), one in zip(compared, estimates_of(list(compared.values())), strict=True):
            found[i][j], found[j][i] = one, replace(one, value=-one.value)
        return ranks(list(values.values()), found, higher)

    def best(self, key: Key) -> str | None:
        """The arm whose rank is 1 with its whole interval; None where there is none."""
        return next((arm for arm, rank in self.ranks.get(key, {}).items() if rank.high == 1), None)


def _draws(row: Row) -> np.ndarray:
    """Shape (draws,), NaN where a draw has no value; empty where unknown."""
    draws = row.get("draws")
    return np.zeros(0) if draws is None else np.asarray(draws, float)


def _difference_of_draws(first: Row, second: Row, same: bool) -> np.ndarray:
    """Differences of draws; of images of other prompts they are independent, and a permutation pairs them at random."""
    draws = _draws(first), _draws(second)
    if len(draws[0]) != len(draws[1]) or first.get("draws_kind") != second.get("draws_kind"):
        return np.zeros(0)
    return draws[0] - (draws[1] if same else np.random.default_rng(0).permutation(draws[1]))


def measured_cells(root: Path, plan: Plan) -> tuple[list[Measured], list[str]]:
    """The cells whose measuring stage is done, and a line for each whose scores cannot be read."""
    found: list[Measured] = []
    problems: list[str] = []
    for cell in plan.cells:
        task = plan.tasks[cell.tasks[plan.grid.measure]]
        if read_state(root, task).get("state") != DONE:
            continue
        flags = with_folders(task.flags, lambda key: task_output(root, plan.tasks[key]))
        samples, real = (Path(f) if isinstance(f := flags.get(name), str) else None for name in ("synthetic", "real"))
        try:
            rows = [with_stages(root, plan, task, row) for row in _read_rows(plan.grid, root, task)]
            found.append(Measured(cell, rows, samples, prompts_of(task_folder(root, task), samples or real)))
        except UserError as error:
            problems.append(f"cell {cell.name}: {error}")
    return found, problems


def _read_rows(grid: Grid, root: Path, task: Task) -> Rows:
    """The rows of a measuring task; draws as arrays, and only of rows in the table, to save memory."""
    output = task_output(root, task)
    try:
        rows = rows_with_draws(output) or read_scores(output / "scores.json")
    except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
        what = error if isinstance(error, UserError) else f"{output} has no scores that can be read"
        raise UserError(f"{what}: delete {task_folder(root, task)} and run the same command again") from None
    return [row | {"draws": _draws(row) if in_table(grid, row) else None} for row in rows]


def with_stages(root: Path, plan: Plan, task: Task, row: Row) -> Row:
    """A row with the names of stages in place of the folders of networks that the grid trained."""
    renamed = {}
    for name in NETWORK_COLUMNS:
        if isinstance(text := row.get(name), str):
            for other in (plan.tasks[key] for key in task.needs):
                text = text.replace(str(task_output(root, other)), plan.task_name(other))
            renamed[name] = text
    return row | renamed


def prompts_of(folder: Path, samples: Path | None) -> str:
    """Hash of the prompts of samples, or of the patients of the real images that a classifier was scored on.

    It is kept in the folder of the measuring task: the samples may be deleted.
    """
    kept = folder / PROMPTS
    if kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    if samples is None:
        return ""
    names = list(dict.fromkeys(read_samples(str(samples), files=False).groups))
    found = hashlib.sha256("\n".join(names).encode()).hexdigest()
    write_text(kept, found + "\n")
    return found


def in_table(grid: Grid, row: Row) -> bool:
    """Whether the grid names the metric of a row; else, whether it is of all images and has a direction."""
    if grid.metrics:
        return any(all(row.get(name) == value for name, value in wanted.items()) for wanted in grid.metrics)
    return row["label"] in OF_ALL and better(row["metric"]) is not None


def arms_of(plan: Plan, measured: Sequence[Measured]) -> Arms:
    """The measured cells by arm; the columns are those that the grid names, else all values of all images."""
    cells: dict[str, dict[str, Measured]] = {}
    for one in measured:
        cells.setdefault(plan.arm_name(one.cell), {})[one.cell.assignment.get(SEED, "")] = one
    rows = {key: row for one in measured for key, row in one.by_key.items() if in_table(plan.grid, row)}
    columns: dict[Key, str] = {}
    missing: list[str] = []
    for wanted in plan.grid.metrics:
        fitting = {key: row["metric"] for key, row in rows.items() if wanted.items() <= row.items()}
        columns |= fitting
        about = ", ".join(f"{name}: {value}" for name, value in wanted.items())
        missing += [f"no score is {about}"] if rows and not fitting else []
    if not plan.grid.metrics:
        columns = {key: row["metric"] for key, row in rows.items()}
    if plan.baseline is not None and plan.baseline not in cells:
        return Arms(cells, columns, None, [*missing, f"no differences: the baseline {plan.baseline} is not measured"])
    return Arms(cells, columns, plan.baseline, missing)


def write_results(root: Path, plan: Plan, measured: Sequence[Measured], arms: Arms) -> None:
    """results.csv: a row for each cell, metric, label and seed; of the table's metrics with the rank of the cell."""
    axes = [axis for axis in plan.grid.axes if axis != SEED]
    header = ["cell", *(plan.short[axis] for axis in axes), "seed", *COLUMNS, *RANKS, "task"]
    lines = []
    for one in measured:
        cell, name = one.cell, plan.arm_name(one.cell)
        about = [name, *(cell.assignment.get(axis, "") for axis in axes), cell.assignment.get(SEED, "")]
        for row in one.rows:
            rank = arms.ranks.get(row_key(row), {}).get(name)
            ranked = ["", "", ""] if rank is None else [rank.value, rank.low, rank.high]
            lines.append([*about, *(row.get(column) for column in COLUMNS), *ranked, cell.tasks[plan.grid.measure]])
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
