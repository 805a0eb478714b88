"""Options of sbatch, from a grid to the script that SLURM runs. submitit is imported late: it is optional."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ablation.grid import Grid
from ablation.launcher import LOG, PACKAGES
from ablation.programs import ON_SEVERAL
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.signals import REQUEUE

Options = dict[str, Any]
DEFAULTS: Options = {"time": "1-00:00:00", "signal": "USR1@300", "requeue": True, "restarts": 20}
OURS = ("array", "chdir", "error", "input", "job_name", "open_mode", "output", "parsable", "wait", "wrap")
TASKS = ("nodes", "ntasks", "ntasks_per_node")
UNLIMITED = ("UNLIMITED", "INFINITE")
SUBMISSIONS = ".slurm"  # folder in that of the grid
FOLDERS = "folders.txt"  # of a submission: those of its tasks
UNHANDLED = 138  # exit code of SIGUSR1 before Python handles signals, and of commands that do not


def require_submitit() -> None:
    """Raise a `UserError` if submitit is not installed; it is not imported."""
    if find_spec("submitit") is None:
        raise UserError("--launcher slurm needs pip install sdcxr[slurm]")


def stage_options(grid: Grid, settings: Sequence[str] = ()) -> dict[str, Options]:
    """The options of sbatch for each stage: those of the grid, of the stage over them, and settings over both.

    Args:
        grid: the grid.
        settings: `option=value` or `stage.option=value`; without a value it is a switch.

    Raises:
        UserError: an option that is ours or has no usable value, several processes for a command that is one, or a time
            limit shorter than the warning before it.
    """
    of_all, own = dict(_clean(grid.slurm, "slurm")), {}
    for name, stage in grid.stages.items():
        own[name] = _clean(stage.slurm, f"stages.{name}.slurm")
    for text in settings:
        stage_name, dot, option = text.partition("=")[0].rpartition(".")
        value = text.partition("=")[2] if "=" in text else True
        if dot and stage_name not in own:
            raise UserError(f"--sbatch {text}: there is no stage {stage_name} (known: {', '.join(own)})")
        (own[stage_name] if dot else of_all).update(_clean({option: value}, f"--sbatch {text}"))
    found = {}
    for name, stage in grid.stages.items():
        found[name] = DEFAULTS | of_all | own[name]
        _check(found[name], name, stage.command)
    return found


def _clean(content: Mapping[str, Any], where: str) -> Options:
    """Options by their names in Python's spelling."""
    found = {}
    for option, value in content.items():
        name = str(option).lstrip("-").replace("-", "_")
        if name in OURS:
            raise UserError(f"{where}: {option} is set by the runner")
        if name == "time" and not isinstance(value, str):
            raise UserError(f'{where}: time: put it in quotes, such as "12:00:00"; without them YAML reads a number')
        if name == "setup":
            value = [value] if isinstance(value, str) else value
        elif not isinstance(value, (str, int, float)) and value is not None:
            raise UserError(f"{where}: {option}: expected a text or a number, got {value!r}")
        found[name] = value
    return found


def _check(options: Options, stage: str, command: str) -> None:
    several = [name for name in TASKS if str(options.get(name) or 1) != "1"]
    if several and command not in ON_SEVERAL:
        raise UserError(
            f"{several[0]}={options[several[0]]} for {stage}: {command} is one process; set it for stages of "
            f"{' or '.join(ON_SEVERAL)}"
        )
    warning = re.fullmatch(r"(?:R:)?(?:SIG)?(?:USR1|TERM)@(\d+)", str(options["signal"]))
    if not warning:
        raise UserError(f"signal={options['signal']} for {stage}: expected USR1@SECONDS before the time limit")
    limit = seconds(str(options["time"]))
    if limit is None:
        raise UserError(f"time={options['time']} for {stage}: expected minutes, H:MM:SS or D-HH:MM:SS")
    if limit <= int(warning[1]):
        raise UserError(
            f"time={options['time']} for {stage}: the warning, signal={options['signal']}, comes before the start; "
            "set a longer time, or a shorter one in signal"
        )
    if not str(options["restarts"]).isdecimal():
        raise UserError(f"restarts={options['restarts']} for {stage}: expected a number")


def seconds(limit: str) -> float | None:
    """A time limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None: it is none of these.

    Example:
        seconds("1-12") == 129600.0
    """
    if limit.upper() in UNLIMITED:
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not match:
        return None
    days, *rest = match.groups()
    numbers = [int(one) for one in rest if one is not None]
    if days is None:  # one number is minutes, two are minutes and seconds
        numbers = [0, *numbers] if len(numbers) < 3 else numbers
    hours, minutes, rest_s = (*numbers, 0, 0)[:3]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_s)


def parameters(options: Options, name: str, folder: Path) -> dict[str, Any]:
    """What submitit's executor takes for jobs called `name`, whose files are in `folder`.

    The script around the command writes to the log of the task; where the command asks for it by its exit code, it puts
    the job back into the queue, and else leaves the code in `folder`, as `<number in the array>.exit`.
    """
    own = {"restarts", "setup"}
    flags = {key: v for key, v in options.items() if key not in own and v is not None and v is not False}
    place = shlex.quote(str(folder))
    setup = [
        "number=${SLURM_ARRAY_TASK_ID:-0}",
        f'exec >> "$(sed -n "$((number + 1))p" {place}/{FOLDERS})/{LOG}" 2>&1',
        # Since SLURM 22.05 srun does not inherit this from sbatch.
        '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',
        f"export PYTHONPATH={shlex.quote(str(PACKAGES))}${{PYTHONPATH:+:$PYTHONPATH}}",
        *(options.get("setup") or []),
    ]
    teardown = [
        "code=$?",
        f'if {{ [ "$code" = {REQUEUE} ] || [ "$code" = {UNHANDLED} ]; }} && '
        f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {options["restarts"]} ]; then',
        '    echo "exit code $code: requeueing job $SLURM_JOB_ID after ${SLURM_RESTART_COUNT:-0} restarts"',
        # SLURM then ends this script, from its last process on.
        '    scontrol requeue "$SLURM_JOB_ID" && { sleep 60; exit "$code"; }',
        "fi",
        f'echo "$code" > {place}/$number.part && mv {place}/$number.part {place}/$number.exit',
        'exit "$code"',
    ]
    # The output of all tasks is in one place, which has one writer. The first task to end must not kill the others, or
    # their code would be returned; tasks still running 60 s later wait for one that has failed.
    srun = ["--output=all", "--kill-on-bad-exit=0", "--wait=60"]
    return {
        "job_name": name,
        "wckey": None,
        "stderr_to_stdout": True,
        "setup": setup,
        "teardown": teardown,
        "srun_args": srun,
        "additional_parameters": flags,
    }


def script(options: Options, name: str, folder: Path, n: int) -> str:
    """The script of an array of `n` jobs, as submitit submits it."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    array = {"map_count": n} if n > 1 else {}
    return str(_make_sbatch_string(command, folder, **parameters(options, name, folder), **array))


def scripts(options: Mapping[str, Options], folder: Path, counts: Mapping[str, int]) -> list[str]:
    """Lines for a dry run: the script of each stage that has jobs, as an array of all of them."""
    lines = []
    for stage, n in counts.items():
        name = f"{stage}-ID"
        lines += [f"# sbatch script of {stage}", script(options[stage], name, folder / name, n).strip(), ""]
    return lines[:-1]
