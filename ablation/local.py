"""The launcher of this machine."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO

from ablation.launcher import LOG, PACKAGES, Job, lock_folder
from ablation.slurm_job import RECORD
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.signals import REQUEUE
from sdcxr.runtime.threads import available_cores

LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may wait for a lock
PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Local:
    """Processes on this machine: `slots` at a time, which share its cores, on a GPU (or several) each."""

    detached = False
    waiting: tuple[str, ...] = ()

    def __init__(self, slots: int, gpus: Sequence[str] = (), gpus_per_job: int = 1):
        self.groups = [tuple(gpus[i : i + gpus_per_job]) for i in range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)]
        self.slots = min(slots, len(self.groups)) if self.groups else slots
        self.threads = max(1, available_cores() // self.slots)
        self.running: dict[str, tuple[subprocess.Popen[bytes], tuple[str, ...], IO[bytes]]] = {}

    def start(self, job: Job) -> str:
        """Start the command in a process group of its own, with its output in the log of its folder.

        The lock is inherited by the process: it is held while that lives, whatever becomes of this one.

        Raises:
            UserError: it was submitted to SLURM.
        """
        if (record := job.folder / RECORD).exists():
            raise UserError(
                f"{record}: was submitted to SLURM: go on with --launcher slurm, or cancel the job and remove this file"
            )
        lock = lock_folder(job.folder)
        if lock is None:
            return ""
        job.announce()
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
        return "started"

    def submit(self) -> None:
        """See `Launcher`; they run already."""

    def _python(self, job: Job, devices: int) -> list[str]:
        if job.distributed and devices > 1:
            # Its default port would be that of a second job which starts in the same moment; 0 is a free one.
            ports = ["--main_process_port", "0"]
            return [sys.executable, "-m", "accelerate.commands.launch", *ports, "--num_processes", str(devices)]
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

    def forward(self, kind: int) -> str:
        """See `Launcher`."""
        for process, _, _ in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
        return f"{len(self.running)} commands save where they are; again to kill them"

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
    try:
        found = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        raise UserError("nvidia-smi does not answer: name the GPUs to use in CUDA_VISIBLE_DEVICES") from None
    return [str(i) for i, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU ")]
