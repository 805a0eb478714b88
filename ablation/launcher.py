"""What runs the commands of tasks: the protocol of launchers, and what they share."""

import fcntl
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from sdcxr.io.locks import NO_LOCKS

LOG, LOCK = "log.txt", ".lock"
STARTED = "== started "  # of the line in a log where an attempt begins
PACKAGES = Path(__file__).parents[1]  # where sdcxr, data_prep and eval are


@dataclass(frozen=True)
class Job:
    """A command to run."""

    key: str
    arguments: Sequence[str]
    """Of Python."""
    folder: Path
    """Exists; its log goes there."""
    distributed: bool = False
    """Whether it may run on several devices."""
    stage: str = ""
    """Stage of the grid, which may ask for resources."""
    command: str = ""
    """For the log: the same as a line for a shell."""

    def announce(self) -> None:
        """Write a line where this attempt begins in the log of the folder."""
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{STARTED}{time.strftime('%Y-%m-%d %H:%M:%S')} {self.command}\n")


class Launcher(Protocol):
    """Where commands run. The runner is single-threaded: no method is called while another one runs."""

    slots: int
    """Jobs at the same time."""
    detached: bool
    """Whether jobs outlive the runner, and a signal to it leaves them alone."""

    @property
    def waiting(self) -> Collection[str]:
        """The started jobs, by key, that wait for their turn elsewhere; this time is not theirs."""

    def start(self, job: Job) -> str:
        """Start a job; returns what was done in words, or "" where a process of an earlier call works in its folder."""

    def submit(self) -> None:
        """Called after all that can start now was started: a scheduler takes it together."""

    def finished(self) -> Mapping[str, int]:
        """The jobs that ended since the last call, with their exit codes; negative: killed by that signal."""

    def forward(self, kind: int) -> str:
        """Send a signal to all jobs, which save where they are, or leave them; returns what was done in words."""

    def kill(self) -> None:
        """End all jobs at once, where they do not outlive the runner."""


def lock_folder(folder: Path) -> IO[bytes] | None:
    """Lock the folder of a job, until the file is closed here and in processes that inherit it; None: it is in use."""
    lock = (folder / LOCK).open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            lock.close()
            if isinstance(error, BlockingIOError):
                return None
            raise
    return lock


def last_lines(log: Path, n: int = 5) -> str:
    """The last lines of a log without progress bars; only the last 64 KiB are read."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2**16))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines()]
    return "\n".join([line for line in lines if line and "%|" not in line][-n:])


def wait_a_moment() -> None:
    """Between two looks at the jobs."""
    time.sleep(0.1)
