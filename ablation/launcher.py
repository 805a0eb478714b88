"""Launchers start the commands of tasks and say how they ended; `Local` runs them on this machine."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from sdcxr.runtime.signals import REQUEUE
from sdcxr.runtime.threads import available_cores

LOG, LOCK = "log.txt", ".lock"
PACKAGES = Path(__file__).parents[1]  # where sdcxr, data_prep and eval are
LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may wait for a lock
PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux's prctl


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


class Launcher(Protocol):
    """Where commands run. The runner is single-threaded: no method is called while another one runs."""

    slots: int
    """Jobs at the same time."""

    def start(self, job: Job) -> bool:
        """Start a job; False where a process of an earlier call still works in its folder."""

    def finished(self) -> Mapping[str, int]:
        """The jobs that ended since the last call, with their exit codes; negative: killed by that signal."""

    def forward(self, kind: int) -> None:
        """Send a signal to all jobs, which save where they are."""

    def kill(self) -> None:
        """End all jobs at once."""


class Local:
    """Processes on this machine: `slots` at a time, which share its cores, on a GPU (or several) each."""

    def __init__(self, slots: int, gpus: Sequence[str] = (), gpus_per_job: int = 1):
        self.groups = [tuple(gpus[i : i + gpus_per_job]) for i in range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)]
        self.slots = min(slots, len(self.groups)) if self.groups else slots
        self.threads = max(1, available_cores() // self.slots)
        self.running: dict[str, tuple[subprocess.Popen[bytes], tuple[str, ...], IO[bytes]]] = {}

    def start(self, job: Job) -> bool:
        """Start the command in a process group of its own, with its output in the log of its folder.

        The lock is inherited by the process: it is held while that lives, whatever becomes of this one.
        """
        lock = (job.folder / LOCK).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        taken = [group for _, group, _ in self.running.values()]
        devices = next((group for group in self.groups if group not in taken), ())
        with (job.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [*self._python(job, len(devices)), *job.arguments],
                env=os.environ | self._environment(devices),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C reaches the runner only, which forwards it once
                pass_fds=(lock.fileno(),),
                preexec_fn=partial(_end_with_parent, os.getpid()) if sys.platform == "linux" else None,
            )
        self.running[job.key] = process, devices, lock
        return True

    def _python(self, job: Job, devices: int) -> list[str]:
        if job.distributed and devices > 1:
            return [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(devices)]
        return [sys.executable]

    def _environment(self, devices: Sequence[str]) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
        found = {"PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        return found | ({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {})

    def finished(self) -> Mapping[str, int]:
        """See `Launcher`."""
        ended = {key: code for key, (one, _, _) in self.running.items() if (code := one.poll()) is not None}
        for key in ended:
            self.running.pop(key)[2].close()
        return ended

    def forward(self, kind: int) -> None:
        """See `Launcher`."""
        for process, _, _ in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)

    def kill(self) -> None:
        """See `Launcher`; waits for them."""
        self.forward(signal.SIGKILL)
        for process, _, lock in self.running.values():
            process.wait()
            lock.close()
        self.running.clear()


def _end_with_parent(parent: int) -> None:
    """In the child: SIGTERM when the runner dies, upon which commands save where they are."""
    LIBC.prctl(PARENT_DIED, signal.SIGTERM)
    if os.getppid() != parent:  # it died before
        os._exit(REQUEUE)


def visible_gpus() -> list[str]:
    """The GPUs of this machine: CUDA_VISIBLE_DEVICES, else those that nvidia-smi lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    found = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=30)
    return [str(i) for i, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU ")]


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
