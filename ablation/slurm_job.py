"""What runs inside a SLURM job: the command of a task, in place of submitit's process."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

RECORD = "slurm.json"  # in a task's folder: which job it was submitted as


@dataclass(frozen=True)
class SlurmCommand:
    """A call of Python, which submitit pickles when it is submitted and calls in each task of the job.

    The command takes the place of the process, so that SLURM's signals reach it, and its exit code is that of the task.
    """

    arguments: tuple[str, ...]
    folder: str
    """Of the grid's task."""
    submission: str
    """Name of the submission that this is part of."""

    def __call__(self) -> None:
        owner = json.loads((Path(self.folder) / RECORD).read_text(encoding="utf-8"))["submission"]
        if owner != self.submission:  # a runner was killed in the middle of submitting, and the next did it again
            print(f"this task is run by {owner}")
            return
        if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            self._meet()
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-u", *self.arguments])

    def _meet(self) -> None:
        """Set the variables by which the processes of a job find each other."""
        from submitit.helpers import TorchDistributedEnvironment

        # Jobs that share a node need different ports; Linux assigns those from 32768 on to clients.
        os.environ["MASTER_PORT"] = str(20000 + int(os.environ["SLURM_JOB_ID"]) % 10000)
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
