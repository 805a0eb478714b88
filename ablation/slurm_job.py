"""What runs inside a SLURM job: the command of a task, in place of submitit's process.

python -m ablation.slurm_job DONE MODULE ARGUMENTS…      # runs the module, and leaves the file DONE if it succeeds
"""

import json
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

RECORD = "slurm.json"  # in a task's folder: which job it was submitted as


@dataclass(frozen=True)
class SlurmCommand:
    """A module to run, which submitit pickles when it is submitted and calls in each task of the job.

    The command takes the place of the process, so that SLURM's signals reach it, and its exit code is that of the task.
    """

    arguments: tuple[str, ...]
    """-m, the module, its arguments."""
    folder: str
    """Of the grid's task."""
    submission: str
    """Name of the submission that this is part of."""
    done: str
    """File that the first process leaves when its command succeeds. srun returns 0 too when its node is given up."""

    def __call__(self) -> None:
        record = Path(self.folder) / RECORD
        owner = json.loads(record.read_text(encoding="utf-8"))["submission"] if record.exists() else "nobody"
        if owner != self.submission:  # a runner was killed in the middle of submitting, and the next did it again
            print(f"this task is run by {owner}")
            return
        if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            self._meet()
        sys.stdout.flush()
        done = self.done if os.environ.get("SLURM_PROCID", "0") == "0" else os.devnull
        os.execv(sys.executable, [sys.executable, "-u", "-m", __name__, done, *self.arguments[1:]])

    def _meet(self) -> None:
        """Set the variables by which the processes of a job find each other."""
        from submitit.helpers import TorchDistributedEnvironment

        # Jobs that share a node need different ports; Linux assigns those from 32768 on to clients.
        os.environ["MASTER_PORT"] = str(20000 + int(os.environ["SLURM_JOB_ID"]) % 10000)
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def main(done: str, module: str, *arguments: str) -> None:
    """Run a module as `python -m` does; if it succeeds, leave the file `done`."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    Path(done).touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
