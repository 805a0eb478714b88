"""The run folder: its settings (config.yaml), the state of the run (run.json), what it holds, and a lock on it."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from sdcxr.io.files import read_json, write_text
from sdcxr.runtime.errors import UserError

# Images per optimizer step, steps behind the saved result, hashes of what the run was begun on, its parent run.
RUN_STATE = "run.json"
LOCK = ".lock"
CONTENT = (
    "config.yaml", "log.jsonl", "validation.jsonl", "checkpoints", "samples", "logs", "pipeline", "adapter",
    "classifier", "clip",
)  # fmt: skip
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without them
REQUEUED = 120.0  # seconds: a file server keeps the locks of a node that has died for up to 90


def write_config(path: Path, values: dict[str, Any]) -> None:
    """Save settings as YAML that `--config` takes again."""
    write_text(path, yaml.safe_dump(values, sort_keys=False))


def read_config(path: Path) -> dict[str, Any]:
    """The settings that `write_config` saved.

    Raises:
        UserError: the file is damaged.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an invalid date
        told = " ".join(str(error).replace(' in "<unicode string>",', "").split())
        raise UserError(f"{path} is damaged ({told}): mend it, or use another folder") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no settings by name): mend it, or use another folder")
    return values


def read_run_state(run: Path) -> dict[str, Any]:
    """The content of `RUN_STATE`; empty where there is none yet.

    Raises:
        UserError: the file is damaged.
    """
    path = run / RUN_STATE
    if not path.is_file():
        return {}
    record = read_json(path)
    for name in ("images_per_step", "finished_steps"):
        if not isinstance(record, dict) or not isinstance(record.get(name), int):
            raise UserError(f"{path} is damaged (no whole number {name}): mend it, or use another folder")
    return record


def check_own_folder(run: Path) -> None:
    """Refuse a folder that holds what a run would replace and is not the folder of a run.

    Raises:
        UserError: names it.
    """
    if (run / RUN_STATE).is_file():
        return
    if foreign := [name for name in CONTENT if os.path.lexists(run / name)]:
        raise UserError(
            f"--output_dir {run}: holds {', '.join(foreign)}, which no {RUN_STATE} accounts for: give another folder, "
            "nothing of it was touched"
        )


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder against a second training; it is made where it is missing, and removed if it stays empty.

    A POSIX record lock, not filelock's: it ends with the process that holds it, however that dies, and is not inherited
    by the processes that read data.

    Raises:
        UserError: another process holds it; names it.
        OSError: the folder cannot be made or written to.
    """
    made = not run.is_dir()
    run.mkdir(parents=True, exist_ok=True)
    lock = _acquire(run / LOCK, REQUEUED if "SLURM_RESTART_COUNT" in os.environ else 0.0)
    try:
        yield
    finally:
        (run / LOCK).unlink(missing_ok=True)
        os.close(lock)
        if made:
            with suppress(OSError):  # not empty
                run.rmdir()


def _acquire(path: Path, patience: float) -> int:
    """The descriptor of a locked file; waits for `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                print(f"{path.parent}: this file system has no locks: do not start a second training into it")
                return lock
            owner = os.read(lock, 200).decode(errors="replace")
            os.close(lock)
            if time.monotonic() < deadline:
                time.sleep(1.0)
                continue
            raise UserError(
                f"{path.parent} is in use by another training ({owner or 'unknown'}): wait until it has ended, or use "
                "another --output_dir"
            ) from None
        if os.fstat(lock).st_nlink:  # else it was removed by its last holder between the two calls
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return lock
        os.close(lock)
