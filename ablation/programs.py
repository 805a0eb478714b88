"""The commands that a grid's stages run, and their flags: names, types, defaults."""

import dataclasses
import difflib
import pkgutil
import types
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sdcxr.runtime.errors import UserError

OF_SDCXR = ("train", "generate", "fit_projection")
OUTPUTS = {"output_dir": "", "output": "scores.json"}  # flags of where a command writes, and what in a stage's folder
ON_SEVERAL = ("train", "generate")  # commands that `accelerate launch` runs on several devices


@dataclasses.dataclass(frozen=True)
class Program:
    """A command as a stage runs it."""

    module: str
    """For `python -m`."""
    config: type
    """Dataclass of its flags."""

    @property
    def hints(self) -> dict[str, Any]:
        """The type of each flag."""
        return _hints(self.config)

    @property
    def output_flag(self) -> str:
        """The flag that the runner sets."""
        return next(flag for flag in OUTPUTS if flag in self.hints)


@cache
def _hints(config: type) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(config)}
    return {name: hint for name, hint in get_type_hints(config).items() if name in names}


@cache
def _defaults(config: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(config)}


EXTRA: dict[str, Program] = {}
"""Further commands by name, for tests and scripts."""


@cache
def find_program(command: str) -> Program:
    """The program of a stage's `command`: train, generate, fit_projection, data_prep.*, eval or eval.*.

    Raises:
        UserError: there is no such command.
    """
    if command in EXTRA:
        return EXTRA[command]
    module = f"sdcxr.commands.{command}" if command in OF_SDCXR else command
    if command in OF_SDCXR or command.partition(".")[0] in ("data_prep", "eval"):
        with_main = module if not _is_package(module) else f"{module}.__main__"
        main = getattr(import_module(with_main), "main", None) if _exists(with_main) else None
        config = next(iter(get_type_hints(main).values()), None) if callable(main) else None
        if isinstance(config, type) and dataclasses.is_dataclass(config) and set(OUTPUTS) & _hints(config).keys():
            return Program(module, config)
    raise UserError(f"unknown command {command}{_nearest(command, _commands())}")


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _is_package(module: str) -> bool:
    return _exists(module) and find_spec(module).submodule_search_locations is not None  # type: ignore[union-attr]


def _commands() -> list[str]:
    """Names that may be meant, for messages."""
    rooms = {room: import_module(room).__path__ for room in ("data_prep", "eval")}
    return [
        *OF_SDCXR,
        "eval",
        *(f"{room}.{m.name}" for room, path in rooms.items() for m in pkgutil.iter_modules(path)),
    ]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return f" (did you mean {' or '.join(near)}?)" if near else f": use one of {', '.join(known[:12])}"


def check_flag(program: Program, stage: str, flag: str) -> None:
    """Refuse a flag that the command of a stage does not have, or that the runner sets.

    Raises:
        UserError: names the nearest flags.
    """
    if flag == "config" or (flag in program.hints and flag not in OUTPUTS):
        return
    if flag in OUTPUTS:
        raise UserError(f"{stage}.{flag}: the runner sets it, leave it out")
    raise UserError(f"{stage}.{flag}: {program.module} has no flag --{flag}{_nearest(flag, list(program.hints))}")


def settled(program: Program, stage: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that differ from their defaults, in the types of the command; None leaves a flag at its default.

    Raises:
        UserError: a value has another type.
    """
    defaults = _defaults(program.config)
    found = {}
    for flag, value in flags.items():
        if value is None:
            continue
        try:
            typed = typed_value(program.hints[flag], value)
        except ValueError as error:
            raise UserError(f"{stage}.{flag}: {error}") from None
        if typed != defaults[flag] or isinstance(typed, bool) != isinstance(defaults[flag], bool):
            found[flag] = typed
    return found


def typed_value(hint: Any, value: Any) -> Any:
    """A YAML value as one of a type hint: `1` and "5e-5" are floats where floats are asked for; paths stay texts.

    Raises:
        ValueError: it is none of them.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds:
        if get_origin(kind) is Literal and value in get_args(kind):
            return value
        if get_origin(kind) is list and isinstance(value, list):
            return [typed_value(get_args(kind)[0], one) for one in value]
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind is float and not isinstance(value, bool):
            try:
                return float(value)
            except (TypeError, ValueError):
                continue
        if kind in (str, Path) and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
    raise ValueError(f"expected {_in_words(kinds)}, got {value!r}")


def _in_words(kinds: tuple[Any, ...]) -> str:
    words = []
    for kind in kinds:
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        words += [f"one of {', '.join(map(str, choices))}"] if choices else []
        words += [getattr(kind, "__name__", str(kind))] if not choices and kind is not type(None) else []
    return " or ".join(words)


def check_values(program: Program, flags: Mapping[str, Any]) -> None:
    """What the command itself would refuse, found before anything runs.

    Raises:
        UserError: that of the command, or a flag is missing.
    """
    required = {f.name for f in dataclasses.fields(program.config) if _is_required(f)} - set(OUTPUTS)
    if missing := [f"--{name}" for name in program.hints if name in required and name not in flags]:
        raise UserError(
            f"missing {', '.join(missing)}: name them in the file, or by --set STAGE.{missing[0][2:]}=VALUE"
        )
    paths = {name for name, hint in program.hints.items() if Path in (hint, *get_args(hint))}
    values = {name: Path(value) if name in paths else value for name, value in flags.items()}
    program.config(**values, **{program.output_flag: _output_value(program)})


def _output_value(program: Program) -> Any:
    hint = program.hints[program.output_flag]
    return Path("output") if Path in (hint, *get_args(hint)) else "output"


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
