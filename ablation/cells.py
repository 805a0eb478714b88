"""From a grid to its cells, and from cells to tasks: each command once, named by a hash of its resolved flags.

Cells that agree in the flags of a stage, and of all stages that it builds on, share its task.
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ablation.grid import SEED, Flag, Grid, known
from ablation.programs import OUTPUTS, Program, check_values, find_program, settled
from sdcxr.runtime.errors import UserError

REFERENCE = re.compile(r"\$\{(\w+)\}")  # ${stage} in a flag: the output of that stage
EMBEDDED = "embedded"  # ${embedded}: the folder of the embedded base model
KEY_DIGITS = 12  # 48 bits: a collision among 10,000 tasks has a probability of 2e-7
LONGEST_NAME = 80

Assignment = dict[str, str]
"""The label of each axis."""


@dataclass(frozen=True)
class Task:
    """A command with resolved flags; `${stage:key}` in a flag is the output of another task."""

    stage: str
    command: str
    flags: Mapping[str, Any]
    key: str
    needs: tuple[str, ...]
    """Keys of the tasks that come first."""
    name: str
    """The axis values that it depends on, in the first cell that has it."""
    warm_up: tuple[str, str] | None = None
    """A file of its output, and what tasks share that wait for it (`ablation.grid.Stage`)."""

    @property
    def program(self) -> Program:
        """Its command."""
        return find_program(self.command)


@dataclass(frozen=True)
class Cell:
    """A point of the grid."""

    assignment: Mapping[str, str]
    tasks: Mapping[str, str]
    """The key of the task of each stage that it has."""
    name: str

    @property
    def arm(self) -> Assignment:
        """Its axis values without the seed."""
        return {axis: label for axis, label in self.assignment.items() if axis != SEED}


@dataclass(frozen=True)
class Plan:
    """All cells, and all tasks by their keys, in an order in which they can run."""

    grid: Grid
    cells: Sequence[Cell]
    tasks: Mapping[str, Task] = field(default_factory=dict)

    @cached_property
    def short(self) -> dict[str, str]:
        """A name of each axis for file names and tables."""
        return short_names(self.grid)

    @cached_property
    def baseline(self) -> str | None:
        """The arm that the grid names as its baseline.

        Raises:
            UserError: no cell is it, or several are.
        """
        if not self.grid.baseline:
            return None
        wanted = dict(self.grid.baseline)
        arms = {self.arm_name(cell): cell.arm for cell in self.cells}
        fitting = [name for name, arm in arms.items() if wanted.items() <= arm.items()]
        found = [name for name in fitting if arms[name] == wanted] or fitting
        if len(found) != 1:
            count = f"{len(found)} cells are" if found else "no cell is"
            raise UserError(f"baseline: {count} {_text(wanted)}: name the value of each axis")
        return found[0]

    def arm_name(self, cell: Cell) -> str:
        """A cell's values of the axes that vary, without the seed."""
        labels = [(axis, label) for axis, label in cell.arm.items() if axis in self.varying]
        if len(self.varying) < 2:
            return ", ".join(label for _, label in labels) or "all"
        return ", ".join(f"{self.short[axis]} {label}" for axis, label in labels)

    def task_name(self, task: Task) -> str:
        """The stage of a task, with its axis values where the stage has other tasks too."""
        return f"{task.stage} {task.name}".strip() if self._tasks_by_stage[task.stage] > 1 else task.stage

    @cached_property
    def _tasks_by_stage(self) -> Counter[str]:
        return Counter(task.stage for task in self.tasks.values())

    @cached_property
    def varying(self) -> list[str]:
        """The axes of more than one value, without the seed."""
        return [name for name, axis in self.grid.axes.items() if name != SEED and len(axis.choices) > 1]


def expand(grid: Grid) -> list[Assignment]:
    """The labels of each cell: the product of the axes (zipped ones together) without `exclude`, then `include`.

    Included cells have all seeds where they name none, and no value of other axes that they leave out.

    Raises:
        UserError: no cells, zipped axes of different length, or a cell twice.
    """
    groups: list[list[Assignment]] = []
    zipped = [name for names in grid.zipped for name in names]
    if twice := next((name for name in zipped if zipped.count(name) > 1), None):
        raise UserError(f"zip: {twice} is named twice")
    done: set[str] = set()
    for name, axis in grid.axes.items():
        if name in done:
            continue
        names = next((list(names) for names in grid.zipped if name in names), [name])
        columns = [list(grid.axes[one].choices) for one in names]
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(f"{one} has {len(column)}" for one, column in zip(names, columns, strict=True))
            raise UserError(f"zip: the axes need as many values each ({lengths})")
        groups.append([dict(zip(names, labels, strict=True)) for labels in zip(*columns, strict=True)])
        done |= {axis.name, *names}
    cells = [_merged(parts) for parts in itertools.product(*groups)] if groups else []
    cells = [cell for cell in cells if not any(_matches(cell, pattern) for pattern in grid.exclude)]
    seeds = list(grid.axes[SEED].choices) if SEED in grid.axes else []
    for one in grid.include:
        cells += [{**one, SEED: seed} for seed in seeds] if seeds and SEED not in one else [dict(one)]
    if not cells:
        raise UserError("the grid has no cells" if not grid.exclude else "exclude: leaves no cells")
    order = {name: i for i, name in enumerate(grid.axes)}
    cells = [dict(sorted(cell.items(), key=lambda item: order[item[0]])) for cell in cells]
    seen: set[str] = set()
    for cell in cells:
        if (text := json.dumps(cell)) in seen:
            raise UserError(f"the cell {_text(cell)} is there twice")
        seen.add(text)
    return cells


def _merged(parts: Sequence[Assignment]) -> Assignment:
    return {name: label for part in parts for name, label in part.items()}


def _matches(cell: Assignment, pattern: Mapping[str, Sequence[str]]) -> bool:
    return all(cell.get(name) in labels for name, labels in pattern.items())


def plan_grid(grid: Grid) -> Plan:
    """The cells with their tasks.

    Raises:
        UserError: a flag that its command refuses, two axes that set one flag, a circle, or two cells that are the same
            commands.
    """
    short, varying = short_names(grid), [name for name, axis in grid.axes.items() if len(axis.choices) > 1]
    tasks: dict[str, Task] = {}
    cells: list[Cell] = []
    owners: dict[str, str] = {}
    for assignment in expand(grid):
        name = _text({short[axis]: label for axis, label in assignment.items() if axis in varying}) or "all"
        try:
            found = _tasks_of(grid, assignment, short, varying, tasks)
        except UserError as error:
            raise UserError(f"cell {name}: {error}") from None
        if (other := owners.setdefault(found[grid.measure], name)) != name:
            raise UserError(f"the cells {other} and {name} are the same commands: leave one out")
        cells.append(Cell(assignment, found, name))
    plan = Plan(grid, cells, tasks)
    check_metrics(grid)
    _ = plan.baseline  # refused here and not after all has run
    return plan


def check_metrics(grid: Grid) -> None:
    """Refuse a metric of the grid that `eval` does not know, and a column that its scores do not have.

    Raises:
        UserError: names the nearest ones.
    """
    from eval.scores import COLUMNS
    from eval.summary.comparison import KEY
    from eval.summary.measures import MEASURES

    for wanted in grid.metrics:
        known(wanted, {*COLUMNS, *KEY}, "column in metrics:")
        if grid.stages[grid.measure].command == "eval" and "metric" in wanted:
            known([wanted["metric"]], MEASURES, "metric in metrics:")


def _tasks_of(
    grid: Grid, assignment: Assignment, short: Mapping[str, str], varying: Sequence[str], tasks: dict[str, Task]
) -> dict[str, str]:
    """Adds the tasks of a cell to `tasks`; returns their keys by stage."""
    values = _axis_flags(grid, assignment)
    found: dict[str, str] = {}
    names: dict[str, list[str]] = {}

    def visit(stage: str, trail: tuple[str, ...]) -> str:
        if stage in trail:
            raise UserError(f"stages build on each other in a circle: {' → '.join((*trail, stage))}")
        if stage in found:
            return found[stage]
        about = grid.stages[stage]
        own = values.get(stage, {})
        flags = settled(find_program(about.command), stage, {**about.flags, **{f: v for f, (v, _) in own.items()}})
        before = dict.fromkeys(name for v in flags.values() for name in references(v) if name != EMBEDDED)
        if unknown := next((name for name in before if name not in grid.stages), None):
            raise UserError(f"${{{unknown}}} in a flag of {stage} is no stage")
        keys = {name: visit(name, (*trail, stage)) for name in (*before, *about.after)}
        flags = {name: _with_keys(value, keys) for name, value in sorted(flags.items())}
        key = task_key(about.command, flags)
        axes = {axis for _, axis in own.values()} | {axis for name in before for axis in names[name]}
        names[stage] = [axis for axis in varying if axis in axes]
        if key not in tasks:
            label = _text({short[axis]: assignment[axis] for axis in names[stage] if axis in assignment})
            warm_up = about.warm_up and (about.warm_up[0], f"{stage} {flags.get(about.warm_up[1])}")
            tasks[key] = Task(stage, about.command, flags, key, tuple(keys.values()), label, warm_up)
            _check(tasks[key])
        found[stage] = key
        return key

    visit(grid.measure, ())
    return found


def _axis_flags(grid: Grid, assignment: Assignment) -> dict[str, dict[str, tuple[Any, str]]]:
    """Flags by stage with their value and the axis that sets it."""
    found: dict[str, dict[str, tuple[Any, str]]] = {}
    for axis, label in assignment.items():
        flag: Flag
        for flag, value in grid.axes[axis].choices[label].flags.items():
            own = found.setdefault(flag[0], {})
            if flag[1] in own:
                raise UserError(f"{'.'.join(flag)} is set by two axes, {own[flag[1]][1]} and {axis}")
            own[flag[1]] = value, axis
    return found


def references(value: Any) -> Iterator[str]:
    """The stages that a flag's value names."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            yield from REFERENCE.findall(text)


def _with_keys(value: Any, keys: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_with_keys(one, keys) for one in value]
    if not isinstance(value, str):
        return value
    return REFERENCE.sub(lambda match: f"${{{match[1]}:{keys[match[1]]}}}" if match[1] in keys else match[0], value)


def task_key(command: str, flags: Mapping[str, Any]) -> str:
    """Hash of a command with its flags; those it builds on are in it by their keys."""
    content = json.dumps([command, flags], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:KEY_DIGITS]


def _check(task: Task) -> None:
    try:
        check_values(task.program, with_folders(task.flags, lambda key: "output"))
    except UserError as error:
        raise UserError(f"{task.stage}: {error}") from None
    except TypeError as error:
        raise UserError(f"{task.stage}: {error}") from None


def with_folders(flags: Mapping[str, Any], folder: Any) -> dict[str, Any]:
    """The flags with paths in place of tasks; `folder` gives that of a key."""

    def replaced(value: Any) -> Any:
        if isinstance(value, list):
            return [replaced(one) for one in value]
        if not isinstance(value, str):
            return value
        return re.sub(r"\$\{\w+:(\w+)\}", lambda match: str(folder(match[1])), value)

    return {name: replaced(value) for name, value in flags.items()}


def short_names(grid: Grid) -> dict[str, str]:
    """Of each axis the name of its (first) flag, or the whole where two would be the same."""
    first = {name: name.split("+")[0].rpartition(".")[2] for name in grid.axes}
    return {name: short if list(first.values()).count(short) == 1 else name for name, short in first.items()}


def _text(assignment: Mapping[str, str]) -> str:
    return ",".join(f"{name}={label}" for name, label in assignment.items())


def folder_name(task: Task) -> str:
    """Name of a task's folder: what differs, and its key."""
    plain = re.sub(r"[^\w.,=+-]+", "_", task.name)[:LONGEST_NAME].strip("_.")
    return f"{plain}-{task.key}" if plain else task.key


def task_folder(root: Path, task: Task) -> Path:
    """Where a task works: the folder with its key, else a new one.

    A name is that of the first call: with another value on an axis that had one, more axes differ, but nothing is done
    again.
    """
    folder, name = root / task.stage, folder_name(task)
    try:
        names = _names_by_key(folder, folder.stat().st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        names = {}
    return folder / names.get(task.key, name)


@lru_cache(maxsize=64)
def _names_by_key(folder: Path, _changed: int) -> dict[str, str]:
    names = sorted((path.name for path in folder.iterdir()), reverse=True)
    return {name.rpartition("-")[2]: name for name in names}


def task_output(root: Path, task: Task) -> Path:
    """Where its command writes: a folder."""
    return task_folder(root, task) / "output"


def output_value(root: Path, task: Task) -> Path:
    """The value of the command's flag for its output: that folder, or a file in it."""
    return task_output(root, task) / OUTPUTS[task.program.output_flag]
