"""Command-line interface from a typed `main(config)`: flags, YAML files, help, one-line errors."""

import difflib
import inspect
import json
import os
import re
import select
import signal
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from sdcxr.runtime.errors import UserError, explain_os_error, os_error_behind
from sdcxr.runtime.shared_memory import explain_lost_batch
from sdcxr.runtime.threads import limit_spinning

AFTER_MAIN: list[Callable[[], None]] = []
"""What `run` calls when main has returned, with any exit code; modules with something to close append to it."""
Main = Callable[[Any], int | None]
REMOVAL = "0.3"  # version without the names in a config class's DEPRECATED


def run(main: Main, argv: list[str] | None = None) -> NoReturn:
    """Parse the command line into main's dataclass argument, call main, and exit with what it returns.

    A `UserError` becomes one line on stderr and exit code 2, Ctrl-C exit code 130. Other exceptions are bugs and keep
    their traceback. `main` imports torch, which reads from the environment how its threads shall wait.
    """
    limit_spinning()
    try:
        config = parse(main, argv)
        with mute_other_ranks():
            code = main(config)
        for close in AFTER_MAIN:
            close()
        sys.exit(code)
    except UserError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # e.g. `… | head`
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)  # as other programs do: the work may not be done
    except Exception as error:
        cause = os_error_behind(error)
        line = explain_os_error(cause) if cause is not None else explain_lost_batch(error)
        if line is None:
            raise
        _stop(line)


def _reader_is_gone() -> bool:
    """Whether the reader of stdout is gone; otherwise a pipe between our own processes broke."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are always reported
    return bool(poll.poll(0))


def mute_other_ranks() -> AbstractContextManager[Any]:
    """Discard what ranks other than 0 of torchrun or accelerate print to stdout."""
    if os.environ.get("RANK", "0") == "0":
        return nullcontext()
    return redirect_stdout(Path(os.devnull).open("w"))


def parse(main: Main, argv: list[str] | None = None) -> Any:
    """The dataclass that `main` takes, filled from `argv`: `--config file.yaml` first, then single flags over it.

    A class attribute `DEPRECATED: ClassVar[dict[str, str]]` of the dataclass maps old names of flags to new ones: both
    are accepted, the old one with a warning on stderr.
    """
    config_class = next(iter(get_type_hints(main).values()))
    module = inspect.getmodule(main)
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # help texts are below the fields
    parser = _Parser(
        prog=_program(), description=module and module.__doc__, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    parser.deprecated = getattr(config_class, "DEPRECATED", {})
    parser.add_argument("--config", action="config", help="YAML file with any of the flags below; flags override it")
    parser.add_class_arguments(config_class)
    required = "".join(f"--{action.dest} {action.dest.upper()} " for action in parser._actions if action.required)
    parser.usage = f"%(prog)s {required}[--flag VALUE ...]"  # the list of all flags would fill a page
    words = _with_new_names(sys.argv[1:] if argv is None else argv, parser.deprecated)
    words = _with_lists(_with_values(words, config_class), config_class)
    values = parser.parse_args(words).as_dict()
    values.pop("config", None)
    return config_class(**values)


def _with_new_names(argv: list[str], deprecated: dict[str, str]) -> list[str]:
    """The words with the new names of deprecated flags."""
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        new = deprecated.get(flag.removeprefix("--")) if flag.startswith("--") else None
        if new:
            _warn_deprecated(flag, f"--{new}")
            if any(other.partition("=")[0] == f"--{new}" for other in argv):
                raise UserError(f"{flag} is the old name of --{new}: give one of the two")
        words.append(f"--{new}{equals}{value}" if new else word)
    return words


def _warn_deprecated(old: str, new: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"{old} is now {new}; the old name goes in {REMOVAL}", file=sys.stderr)


def _with_values(argv: list[str], config_class: type) -> list[str]:
    """The words with `true` after a switch without a value: `--render` is `--render true`."""
    switches = {f"--{name}" for name, hint in get_type_hints(config_class).items() if hint in (bool, bool | None)}
    words = []
    for word, following in pairwise([*argv, "--"]):
        words += [word, "true"] if word in switches and following.startswith("--") else [word]
    return words


def _with_lists(argv: list[str], config_class: type) -> list[str]:
    """The words with one JSON list for a flag of several values: `--x A --x B` and `--x A B` are `--x=["A", "B"]`."""
    several = {f"--{name}" for name, hint in get_type_hints(config_class).items() if hint == list[str] | str}
    words: list[str] = []
    found: dict[str, list[str]] = {}
    flag = None
    for word in argv:
        name, equals, value = word.partition("=")
        if name in several:
            flag = name
            found.setdefault(flag, []).extend([value] if equals else [])
        elif flag and not word.startswith("--"):
            found[flag].append(word)
        else:
            flag = None
            words.append(word)
    return words + [f"{flag}={json.dumps(values)}" for flag, values in found.items()]


def _program() -> str:
    """The running command: `python -m data_prep.openi` or `train.py`."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or spec.name == "__main__":
        return sys.argv[0].rsplit("/", 1)[-1]
    return f"python -m {spec.name.removesuffix('.__main__')}"


class _HelpFormatter(DefaultHelpFormatter):
    """Wraps paragraphs of the module's docstring, keeps the lines of indented commands, names types plainly."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = text.strip().split("\n\n")
        return "\n\n".join(block if "\n " in f"\n{block}" else textwrap.fill(block, width) for block in blocks)

    def _expand_help(self, action: Any) -> str:
        return re.sub(r"<class '(\w+)'>", r"\1", super()._expand_help(action))


class _Parser(ArgumentParser):
    """jsonargparse's parser, with errors of one line that name the flag, the file, and the nearest known flag."""

    file = ""
    """The configuration file that is being read, for messages."""
    deprecated: dict[str, str]
    """Old name of a flag to its new one."""

    def parse_path(self, path: str | os.PathLike[str], *words: Any, **options: Any) -> Any:
        """Map deprecated keys to their new names and refuse unknown ones here, where the file is known."""
        self.file = f"{os.fspath(path)}: "
        parsed = super().parse_path(path, *words, **options)
        for old, new in self.deprecated.items():
            if old in parsed:
                _warn_deprecated(f"{self.file}{old}", new)
                if new in parsed:
                    self.error(f"{old} and {new} are one setting: remove {old}")
                parsed[new] = parsed.pop(old)
        for key in vars(parsed).keys() - {action.dest for action in self._actions}:
            self.error(f"Option '{key}' is not accepted")
        self.file = ""
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(message.split())
        message = re.sub(r"Problems parsing config: | in \"<unicode string>\"", "", message)
        message = re.sub(r"Unexpected config:.*", "is not YAML with flags and values, such as `seed: 0`", message)
        message = re.sub(r"^Parser key \"(\w+)\": ", r"--\1: ", message)
        message = re.sub(r"Does not validate against .*?Given value type: .*?Given value: (.*)", _union, message)
        message = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value: ", r"expected one of \1, got ", message)
        message = re.sub(r"Expected a <class '(\w+)'>\. Got value: ", r"expected \1, got ", message)
        message = re.sub(r"<class '(\w+)'>", r"\1", message)
        if required := re.fullmatch(r"the following arguments are required: (.*)", message):
            message = "missing " + ", ".join("--" + name for name in required[1].split(", "))
        elif unknown := re.search(r"unrecognized arguments: -*(\w+)|Option '(\w+)' is not accepted", message):
            name = unknown[1] or unknown[2]
            near = difflib.get_close_matches(name, [action.dest for action in self._actions], n=2)
            message = f"unknown flag or key: {name}"
            message += f" (did you mean {' or '.join('--' + flag for flag in near)}?)" if near else " (see --help)"
        _stop(self.file + message)


def _union(match: re.Match[str]) -> str:
    subtypes = match[0].split("Errors:")[0]
    kinds = [kind for kind in re.findall(r"<class '(\w+)'>", subtypes) if kind != "NoneType"]
    kinds += [f"one of {choices}" for choices in re.findall(r"typing\.Literal\[(.*?)\]", subtypes)]
    return f"expected {' or '.join(kinds)}, got {match[1]}"


def _stop(message: str) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
