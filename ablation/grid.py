"""Grid files: stages with fixed flags, axes over flags of any stage, seeds, scales."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ablation.programs import check_flag, find_program
from sdcxr.io.run_folder import read_config
from sdcxr.runtime.errors import UserError

KEYS = {
    "title", "source", "stages", "axes", "zip", "include", "exclude", "seeds", "baseline", "measure", "metrics",
    "scales", "slurm",
}  # fmt: skip
SCALE_KEYS = KEYS - {"scales", "title"} | {"flags"}
STAGE_KEYS = {"command", "flags", "after", "warm_up", "slurm"}
SEED = "seed"  # name of the axis of seeds
ROOT = Path(__file__).parents[1]  # where configs/ is, in a checkout

Flag = tuple[str, str]  # stage and flag


@dataclass(frozen=True)
class Choice:
    """A value of an axis."""

    flags: Mapping[Flag, Any]
    source: str = ""
    """Where the row was published."""


@dataclass(frozen=True)
class Axis:
    """What varies, with its values by their labels."""

    name: str
    choices: Mapping[str, Choice]

    @property
    def stages(self) -> set[str]:
        """The stages whose flags it sets."""
        return {stage for choice in self.choices.values() for stage, _ in choice.flags}


@dataclass(frozen=True)
class Stage:
    """A command with its fixed flags."""

    name: str
    command: str
    flags: Mapping[str, Any]
    after: Sequence[str] = ()
    """Stages that run first although nothing of theirs is named: they fill caches."""
    warm_up: tuple[str, str] | None = None
    """A file of its output and a flag: of tasks with the same value of the flag one runs alone until that file is
    there, and has then filled the cache that all share."""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    """Options of sbatch, over those of the grid (`ablation.sbatch`)."""


@dataclass(frozen=True)
class Grid:
    """A grid file at one scale."""

    stages: Mapping[str, Stage]
    axes: Mapping[str, Axis]
    """The axis of seeds is the last one, and is called `SEED`."""
    zipped: Sequence[Sequence[str]] = ()
    include: Sequence[Mapping[str, str]] = ()
    exclude: Sequence[Mapping[str, Sequence[str]]] = ()
    baseline: Mapping[str, str] = field(default_factory=dict)
    measure: str = ""
    """The stage whose scores are the result of a cell."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """Columns of the table: values of columns of scores.json that select one row of each cell."""
    title: str = ""
    source: str = ""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    """Options of sbatch for all stages."""


def read_grid(path: Path, scale: str | None = None, settings: Sequence[str] = ()) -> Grid:
    """Read a grid file.

    Args:
        path: YAML.
        scale: one of its scales; None: the grid as published.
        settings: `stage.flag=value` in YAML, over the fixed flags of file and scale.

    Raises:
        UserError: what is wrong, and in which file.
    """
    if not path.is_file():
        raise UserError(f"--grid {path}: {'is a folder, not a file' if path.is_dir() else 'there is no such file'}")
    content = _read_yaml(path)
    try:
        if base := content.pop("extends", None):
            if not (path.parent / str(base)).is_file():
                raise UserError(f"extends: {path.parent / str(base)} does not exist")
            content = _over(_read_yaml(path.parent / str(base)), content)
        return parse_grid(content, scale, settings)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _over(below: Any, above: Any) -> Any:
    """Content with other content over it: names with values are merged, all else is replaced."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {name: _over(below.get(name), value) for name, value in above.items()}


def parse_grid(content: Any, scale: str | None = None, settings: Sequence[str] = ()) -> Grid:
    """The grid of a YAML file's content; arguments and errors as `read_grid`."""
    content = _at_scale(_mapping(content, "the file"), scale)
    known(content, KEYS | {"flags"}, "key")
    stages = {name: _stage(name, one) for name, one in _mapping(content.get("stages"), "stages").items()}
    if not stages:
        raise UserError("stages: is empty")
    for stage in stages.values():
        for other in stage.after:
            known([other], stages, f"stage in {stage.name}.after:")
    fixed = {_flag(name, stages): value for name, value in _mapping(content.get("flags"), "flags").items()}
    axes = {name: _axis(str(name), values, stages) for name, values in _mapping(content.get("axes"), "axes").items()}
    over = _settings(settings, stages)
    for flag in over:
        if by := next((axis.name for axis in axes.values() for c in axis.choices.values() if flag in c.flags), None):
            raise UserError(f"--set {'.'.join(flag)}: is set by the axis {by}")
    for (name, own), value in (fixed | over).items():
        stages[name] = replace(stages[name], flags={**stages[name].flags, own: value})
    if content.get("seeds") is not None:
        axes[SEED] = _seeds(content["seeds"], stages)
    measure = content.get("measure") or list(stages)[-1]
    known([measure], stages, "stage in measure:")
    return Grid(
        stages,
        axes,
        [[known([name], axes, "axis in zip:")[0] for name in group] for group in _list(content.get("zip"), "zip")],
        [_assignment(one, axes, "include") for one in _list(content.get("include"), "include")],
        [_pattern(one, axes) for one in _list(content.get("exclude"), "exclude")],
        _assignment(content.get("baseline") or {}, axes, "baseline"),
        measure,
        [_mapping(one, "metrics") for one in _list(content.get("metrics"), "metrics")],
        str(content.get("title") or ""),
        str(content.get("source") or ""),
        _mapping(content.get("slurm"), "slurm"),
    )


def _at_scale(content: dict[str, Any], scale: str | None) -> dict[str, Any]:
    """The content with that of a scale over it: stages merged, axes (null: none) and flags by name, else as a whole."""
    scales = _mapping(content.pop("scales", None), "scales")
    if scale is None:
        return content
    if scale not in scales:
        raise UserError(f"--scale {scale}: there is none (known: {', '.join(map(str, scales)) or 'none'})")
    over = _mapping(scales[scale], f"scales.{scale}")
    known(over, SCALE_KEYS, f"key in scales.{scale}:")
    stages = _over(_mapping(content.get("stages"), "stages"), _mapping(over.get("stages"), "stages"))
    published = _mapping(content.get("axes"), "axes")
    own = _mapping(over.get("axes"), "axes")
    axes = published | {name: _with_sources(values, published.get(name)) for name, values in own.items()}
    flags = _mapping(content.get("flags"), "flags") | _mapping(over.get("flags"), "flags")
    return content | over | {"stages": stages, "flags": flags, "axes": {k: v for k, v in axes.items() if v is not None}}


def _with_sources(values: Any, published: Any) -> Any:
    """An axis of a scale: values without a source have that of the value of the same name in the file."""
    if not isinstance(values, dict) or not isinstance(published, dict):
        return values

    def source_of(label: Any) -> dict[str, Any]:
        about = published.get(label)
        return {"source": about["source"]} if isinstance(about, dict) and "source" in about else {}

    return {
        label: source_of(label) | (flags or {}) if isinstance(flags, dict | None) else flags
        for label, flags in values.items()
    }


def _stage(name: Any, content: Any) -> Stage:
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"stage {name!r}: a name has letters, digits and _")
    about = _mapping(content, f"stages.{name}")
    known(about, STAGE_KEYS, f"key in stages.{name}:")
    command = about.get("command", name)
    try:
        program = find_program(str(command))
    except UserError as error:
        raise UserError(f"stages.{name}: {error}") from None
    flags = _mapping(about.get("flags"), f"stages.{name}.flags")
    if "config" in flags:
        flags = _of_file(flags.pop("config"), name) | flags
    for flag in flags:
        check_flag(program, name, str(flag))
    after = tuple(_list(about.get("after"), f"stages.{name}.after"))
    slurm = _mapping(about.get("slurm"), f"stages.{name}.slurm")
    return Stage(name, str(command), flags, after, _warm_up(about.get("warm_up"), name), slurm)


def _warm_up(content: Any, stage: str) -> tuple[str, str] | None:
    about = _mapping(content, f"stages.{stage}.warm_up")
    if about and about.keys() != {"file", "same"}:
        raise UserError(f"stages.{stage}.warm_up: expected file and same, such as {{file: log.jsonl, same: data}}")
    return (str(about["file"]), str(about["same"])) if about else None


def _of_file(path: Any, stage: str) -> dict[str, Any]:
    """The flags of a configuration file, looked for from the current folder, then beside the package."""
    places = [Path(str(path)).expanduser(), ROOT / str(path)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"{stage}.config: {path}: there is no such file")
    return read_config(found)


def _axis(name: str, values: Any, stages: Mapping[str, Stage]) -> Axis:
    """An axis over named values, each with flags of any stages, or over the values of the flags in its name."""
    if name == SEED:
        raise UserError(f"axes.{name}: seeds have a key of their own, seeds")
    choices: dict[str, Choice] = {}
    if isinstance(values, dict):
        for label, flags in values.items():
            about = _mapping(flags, f"axes.{name}.{label}")
            if label_of(label) in choices:
                raise UserError(f"axes.{name}: {label_of(label)} is given twice")
            source = str(about.pop("source", ""))
            choices[label_of(label)] = Choice({_flag(flag, stages): value for flag, value in about.items()}, source)
    else:
        flags = [_flag(flag, stages) for flag in name.split("+")]
        for value in _list(values, f"axes.{name}"):
            if label_of(value) in choices:
                raise UserError(f"axes.{name}: {label_of(value)} is given twice")
            choices[label_of(value)] = Choice(dict.fromkeys(flags, value))
    if not choices:
        raise UserError(f"axes.{name}: has no values")
    return Axis(name, choices)


def _seeds(content: Any, stages: Mapping[str, Stage]) -> Axis:
    about = content if isinstance(content, dict) else {"values": content}
    known(about, {"values", "flags"}, "key in seeds:")
    names = about.get("flags") or [f"{stage}.seed" for stage in ("train", "generate") if stage in stages]
    if not names:
        raise UserError("seeds: say of which flags, such as `seeds: {values: [0, 1], flags: [train.seed]}`")
    flags = [_flag(name, stages) for name in _list(names, "seeds.flags")]
    values = _list(about.get("values"), "seeds.values")
    if not values or len(set(map(label_of, values))) < len(values):
        raise UserError("seeds: give different numbers")
    return Axis(SEED, {label_of(value): Choice(dict.fromkeys(flags, value)) for value in values})


def _flag(name: Any, stages: Mapping[str, Stage]) -> Flag:
    """Stage and flag of `stage.flag`."""
    stage, dot, flag = str(name).partition(".")
    if not dot:
        raise UserError(f"{name}: expected stage.flag, such as {next(iter(stages))}.seed")
    known([stage], stages, f"stage in {name}:")
    check_flag(find_program(stages[stage].command), stage, flag)
    if flag == "config":
        raise UserError(f"{name}: a file of flags is for stages only; name its flags")
    return stage, flag


def _settings(texts: Sequence[str], stages: Mapping[str, Stage]) -> dict[Flag, Any]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: expected stage.flag=value")
        try:
            found[_flag(name, stages)] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {text}: the value is not YAML: put it in quotes") from None
    return found


def _assignment(content: Any, axes: Mapping[str, Axis], where: str) -> dict[str, str]:
    return {name: labels[0] for name, labels in _pattern(content, axes, where).items()}


def _pattern(content: Any, axes: Mapping[str, Axis], where: str = "exclude") -> dict[str, list[str]]:
    """Labels of axes, each checked."""
    found = {}
    for name, values in _mapping(content, where).items():
        known([name], axes, f"axis in {where}:")
        labels = [label_of(value) for value in (values if isinstance(values, list) else [values])]
        known(labels, axes[name].choices, f"value of {name} in {where}:")
        found[name] = labels
    return found


def label_of(value: Any) -> str:
    """The label of a value: as in YAML, numbers in their shortest form."""
    if value is None or isinstance(value, bool):
        return "default" if value is None else str(value).lower()
    if isinstance(value, list):
        return ",".join(map(label_of, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected names with values, got {content!r}")
    return dict(content)


def _list(content: Any, where: str) -> list[Any]:
    if content is None:
        return []
    if not isinstance(content, list):
        raise UserError(f"{where}: expected a list, got {content!r}")
    return content


def known(names: Any, all_names: Any, what: str) -> list[str]:
    """The names, or a `UserError` about the first that is unknown."""
    for name in names:
        if name not in all_names:
            near = difflib.get_close_matches(str(name), list(map(str, all_names)), n=2)
            more = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(map(str, all_names)))}"
            raise UserError(f"unknown {what} {name} ({more})")
    return list(names)
