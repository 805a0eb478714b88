"""The launcher of SLURM clusters: commands become jobs, in arrays, through submitit.

Which job a task was submitted as is recorded in its folder before it is submitted, and the job is found again by that
name, so that a runner that was killed at any moment has a successor that submits nothing twice. How a job ended is in a
file that its script writes; accounting (sacct) is not needed.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ablation.launcher import LOG, Job, lock_folder
from ablation.sbatch import FOLDERS, SUBMISSIONS, Options, parameters, require_submitit, script
from ablation.slurm_job import RECORD, SlurmCommand
from sdcxr.io.files import read_json, write_json, write_text
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.signals import REQUEUE

LARGEST_ARRAY = 1000  # SLURM's MaxArraySize is 1001 by default
POLL_S = 10.0  # between two looks at the queue
GRACE_S = 60.0  # until a job that has left the queue without an exit code is given up: file servers show files late
NOT_BEGUN = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
INTERRUPTED = {"CANCELLED", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"}  # through no fault of the command
FAULTY = {"FAILED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"}
ENDED = INTERRUPTED | FAULTY | {"COMPLETED"}
STOPPED = (REQUEUE, 128 + signal.SIGINT, 128 + signal.SIGUSR1, 128 + signal.SIGTERM)
RANKS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Entry:
    """A job in SLURM's queue."""

    state: str
    number: str
    """Its number for scancel."""
    reason: str


@dataclass
class Submitted:
    """A job of ours."""

    job: Job
    submission: str
    index: int
    gone_since: float | None = None
    """When it was first seen to have left the queue."""
    held: bool = False
    """Whether it was said that SLURM holds it."""

    @property
    def place(self) -> tuple[str, int]:
        """By which the queue knows it: the name of the job and the index in its array."""
        return self.submission, self.index


class Slurm:
    """Jobs of a SLURM cluster, which outlive the runner.

    Args:
        root: folder of the grid, on a file system that all nodes share.
        options: of sbatch, by stage (`ablation.sbatch.stage_options`).
        slots: jobs in the queue at the same time.
        say: where lines go.

    Raises:
        UserError: submitit or SLURM is missing, or SLURM refuses the options of a stage.
    """

    detached = True
    poll_s, grace_s = POLL_S, GRACE_S

    def __init__(self, root: Path, options: Mapping[str, Options], slots: int, say: Callable[[str], None] = print):
        require_submitit()
        self.folder, self.options, self.slots, self.say = root / SUBMISSIONS, options, slots, say
        self.collected: list[Job] = []
        self.running: dict[str, Submitted] = {}
        self.queue = read_queue()
        self.looked, self.answers = time.monotonic(), True
        for stage, one in {str(one): (stage, one) for stage, one in options.items()}.values():
            check_options(stage, script(one, stage, self.folder / "check", 1))

    @property
    def waiting(self) -> set[str]:
        """See `Launcher`."""
        begun = {key for key, one in self.running.items() if (e := self._entry(one)) and e.state not in NOT_BEGUN}
        return ({job.key for job in self.collected} | self.running.keys()) - begun

    def _entry(self, one: Submitted) -> Entry | None:
        return self.queue.get(one.place)

    def start(self, job: Job) -> str:
        """See `Launcher`: picks up the job of an earlier call, or has it submitted."""
        lock = lock_folder(job.folder)  # held by a process of this machine, by an earlier call with --launcher local
        if lock is None:
            return ""
        lock.close()
        if (one := self._earlier(job)) is not None:
            code, entry = self._exit_code(one), self._entry(one)
            gone = code in STOPPED or (code is None and (entry is None or entry.state in INTERRUPTED))
            if not gone:
                self.running[job.key] = one
                return f"picked up job {entry.number if entry else one.submission} of an earlier call"
        job.announce()
        self.collected.append(job)
        return "submitted"

    def _earlier(self, job: Job) -> Submitted | None:
        try:
            found = read_json(job.folder / RECORD)
            return Submitted(job, found["submission"], found["index"])
        except (FileNotFoundError, UserError):
            return None

    def submit(self) -> None:
        """Submit the collected jobs, those of a stage as an array.

        Raises:
            UserError: SLURM refuses them.
        """
        by_stage: dict[str, list[Job]] = {}
        for job in self.collected:
            by_stage.setdefault(job.stage, []).append(job)
        self.collected = []
        for stage, jobs in by_stage.items():
            for i in range(0, len(jobs), LARGEST_ARRAY):
                self._submit(stage, jobs[i : i + LARGEST_ARRAY])

    def _submit(self, stage: str, jobs: list[Job]) -> None:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        name = f"{stage}-{uuid.uuid4().hex[:8]}"
        folder = self.folder / name
        folder.mkdir(parents=True)
        write_text(folder / FOLDERS, "".join(f"{job.folder}\n" for job in jobs))
        executor = submitit.SlurmExecutor(folder)
        executor.update_parameters(**parameters(self.options[stage], name, folder))
        for index, job in enumerate(jobs):
            write_json(job.folder / RECORD, {"submission": name, "index": index})
            self.running[job.key] = Submitted(job, name, index)
        try:
            with undisturbed(), executor.batch():
                handles = [executor.submit(SlurmCommand(tuple(j.arguments), str(j.folder), name)) for j in jobs]
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"SLURM refuses the jobs of {stage}: {last_line(str(error))}") from None
        number = handles[0].job_id.partition("_")[0]
        self.say(f"{name}: {f'array of {len(jobs)} jobs' if len(jobs) > 1 else 'job'} {number}")

    def finished(self) -> Mapping[str, int]:
        """See `Launcher`; looks at the queue every few seconds."""
        if not self.running or time.monotonic() - self.looked < self.poll_s:
            return {}
        try:
            self.queue, answers = read_queue(), True
        except UserError as error:  # it may be restarted; jobs go on without it
            answers = False
            if self.answers:
                self.say(f"{error}; waiting for it")
        self.looked, self.answers = time.monotonic(), answers
        ended = {key: code for key, one in self.running.items() if (code := self._ended(one, answers)) is not None}
        for key in ended:
            (self.running.pop(key).job.folder / RECORD).unlink(missing_ok=True)
        return ended

    def _exit_code(self, one: Submitted) -> int | None:
        try:
            return int((self.folder / one.submission / f"{one.index}.exit").read_text())
        except FileNotFoundError:
            return None

    def _ended(self, one: Submitted, answers: bool) -> int | None:
        """The exit code of a job; None while it is in the queue."""
        if (code := self._exit_code(one)) is not None:
            return REQUEUE if code in STOPPED else code
        entry = self._entry(one)
        if entry and entry.state not in ENDED:
            one.gone_since = None
            if entry.state in NOT_BEGUN and "held" in entry.reason.lower() and not one.held:
                one.held = True
                self.say(f"SLURM holds job {entry.number} ({entry.reason}): scontrol release {entry.number}")
            return None
        if not answers:
            return None
        one.gone_since = one.gone_since or time.monotonic()
        if time.monotonic() - one.gone_since < self.grace_s:
            return None
        state = entry.state if entry else "not known any more"
        with (one.job.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"\nSLURM's job {entry.number if entry else one.submission}: {state}\n")
        return 0 if state == "COMPLETED" else 1 if state in FAULTY else REQUEUE

    def forward(self, kind: int) -> str:
        """See `Launcher`: leaves them."""
        known = sorted({entry.number for one in self.running.values() if (entry := self._entry(one))})
        names = sorted({one.submission for one in self.running.values()})
        cancel = f"scancel --name={','.join(names)}"
        return f"{len(self.running)} jobs stay with SLURM{': ' + ' '.join(known) if known else ''} ({cancel} ends them)"

    def kill(self) -> None:
        """See `Launcher`: they outlive the runner."""


def read_queue() -> dict[tuple[str, int], Entry]:
    """The user's jobs by their names and indices in their arrays, those that ended in the last minutes too.

    Raises:
        UserError: SLURM is missing or does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%j|%K|%T|%i|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, start_new_session=True)
    except FileNotFoundError:
        raise UserError("--launcher slurm: there is no squeue here; run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise UserError("SLURM does not answer") from None
    if done.returncode:
        raise UserError(f"SLURM does not answer: {last_line(done.stderr)}")
    found = {}
    for line in done.stdout.splitlines():
        name, index, state, number, reason = line.split("|", 4)
        found[name, int(index) if index.isdecimal() else 0] = Entry(state, number, reason)
    return found


def check_options(stage: str, text: str) -> None:
    """Ask SLURM whether it would take a script.

    Raises:
        UserError: it would not; with its reason.
    """
    with undisturbed():
        done = subprocess.run(["sbatch", "--test-only"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "Try " not in line), "").removeprefix("sbatch: ")
        raise UserError(f"SLURM refuses the options of {stage}: {reason}")


def last_line(text: str) -> str:
    """The last line with words in it."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


@contextmanager
def undisturbed() -> Iterator[None]:
    """For calls of sbatch: it gets neither the terminal's Ctrl-C nor the variables of a job that this may run in."""
    leave = [n for n in os.environ if (n.startswith("SLURM_") and n != "SLURM_CONF") or n in RANKS]
    taken = {name: os.environ.pop(name) for name in leave}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.update(taken)
        sys.stdout.flush()
