"""A real SLURM of two nodes on this machine, for the tests (`.ci/slurm`)."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
DAEMONS = "/usr/sbin"  # where Debian puts them, which is not in everybody's PATH
HOST, SECOND = socket.gethostname().split(".")[0], "localhost"  # names of its nodes
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


class Cluster:
    """SLURM's commands with the environment that they need."""

    def __init__(self, folder: Path):
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SBATCH_", "SLURM_JOB"))}
        self.environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "ACCELERATE_USE_CPU": "true"}
        # Scripts call `python`: that of these tests, as if their environment were active.
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def __call__(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        return dict(word.split("=", 1) for word in self("scontrol", "show", "job", job).split() if "=" in word)

    def has_ended(self, job: str) -> bool:
        """Whether a job is over, and will not be run again."""
        return self.state(job)["JobState"] in ENDED

    def jobs(self) -> dict[str, str]:
        """Number and name of each job that has not ended."""
        return dict(line.split() for line in self("squeue", "--noheader", "--array", "--format=%i %j").splitlines())


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """That of SDCXR_SLURM, which CI starts, or one of our own; skips the test where there can be none."""
    if "SDCXR_SLURM" in os.environ:
        yield Cluster(Path(os.environ["SDCXR_SLURM"]))
        return
    missing = [name for name in PROGRAMS if not (shutil.which(name) or Path(DAEMONS, name).is_file())]
    if missing:
        pytest.skip(f"SLURM's {missing[0]} is not installed (.ci/slurm install)")
    folder = Path(tempfile.mkdtemp(prefix="slurm-")) / "cluster"  # short, for the names of its sockets
    started = subprocess.run([SCRIPT, "start", folder, str(os.getpid())], capture_output=True, text=True, check=False)
    try:
        if started.returncode:
            pytest.skip(f"SLURM does not start here: {started.stderr[-1000:]}")
        yield Cluster(folder)
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
        folder.parent.rmdir()
