"""Run the tasks of a plan: what is missing, several at a time, whatever was interrupted or fails."""

import heapq
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ablation.cells import EMBEDDED, Plan, Task, output_value, references, task_folder, task_output, with_folders
from ablation.launcher import LOG, Job, Launcher, last_lines, wait_a_moment
from ablation.programs import ON_SEVERAL
from sdcxr.io.files import read_json, write_json
from sdcxr.io.run_folder import write_config
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.signals import REQUEUE, Signals, exit_code

FLAGS, STATE = "flags.yaml", "task.json"
DONE, FAILED, STOPPED = "done", "failed", "stopped"
LINE_SECONDS = 30.0  # between status lines where the output is no terminal


@dataclass
class Progress:
    """Where the tasks of a plan are."""

    plan: Plan
    slots: int
    states: dict[str, str] = field(default_factory=dict)
    """DONE, FAILED or STOPPED by key; others are queued."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of finished tasks by stage, also in earlier calls."""
    started: dict[str, float] = field(default_factory=dict)
    """Of running tasks."""
    waiting: Collection[str] = ()
    """Those of them that wait in a scheduler's queue; their clock starts when they run."""

    def left(self) -> float | None:
        """Seconds until all is done, from the mean of each stage; None where a stage was never finished yet."""
        total, longest = 0.0, 0.0
        for key, task in self.plan.tasks.items():
            if key in self.states or self.blocked(key):
                continue
            known = self.seconds.get(task.stage)
            if not known:
                return None
            gone = time.monotonic() - self.started[key] if key in self.started else 0.0
            rest = max(0.0, sum(known) / len(known) - gone)
            total, longest = total + rest, max(longest, rest)
        return max(longest, total / self.slots)

    def blocked(self, key: str) -> bool:
        """Whether something that it needs has failed."""
        return any(self.states.get(k) == FAILED or self.blocked(k) for k in self.plan.tasks[key].needs)

    def line(self) -> str:
        """Cells and tasks by what became of them, and the time left."""
        counts = dict.fromkeys(("done", "running", "failed", "queued"), 0)
        for cell in self.plan.cells:
            counts[self._of_cell(cell.tasks)] += 1
        done = sum(state == DONE for state in self.states.values())
        about = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
        left = self.left() if counts["running"] or counts["queued"] else None
        tail = f", about {duration(left)} left" if left else ""
        return f"cells: {about}; commands: {done} of {len(self.plan.tasks)} done{tail}"

    def _of_cell(self, tasks: Mapping[str, str]) -> str:
        keys = list(tasks.values())
        if all(self.states.get(key) == DONE for key in keys):
            return "done"
        if any(self.states.get(key) == FAILED for key in keys):
            return "failed"
        return "running" if any(key in self.started and key not in self.waiting for key in keys) else "queued"


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def read_state(root: Path, task: Task) -> dict[str, Any]:
    """What is known of a task from earlier calls; empty where nothing is."""
    path = task_folder(root, task) / STATE
    try:
        found = read_json(path) if path.is_file() else {}
    except UserError:  # damaged: run it again, its command knows what it has
        found = {}
    if found.get("state") == DONE and not task_output(root, task).exists():
        return {}
    return dict(found)


def job_of(root: Path, plan: Plan, task: Task) -> Job:
    """The command of a task; its flags are in a file of its folder."""
    folder = task_folder(root, task)
    return Job(
        task.key,
        ["-m", task.program.module, "--config", str(folder / FLAGS)],
        folder,
        task.command in ON_SEVERAL,
        task.stage,
    )


def flags_of(root: Path, plan: Plan, task: Task) -> dict[str, Any]:
    """The flags of a task with the folders of others in them, and its own."""
    flags = with_folders(task.flags, lambda key: task_output(root, plan.tasks[key]))
    embedded = {name for name, value in flags.items() if EMBEDDED in references(value)}
    flags |= {name: flags[name].replace(f"${{{EMBEDDED}}}", str(_embedded_base())) for name in embedded}
    return flags | {task.program.output_flag: str(output_value(root, task))}


def command_line(root: Path, plan: Plan, task: Task) -> str:
    """The command for a shell, with all flags."""
    words = ["python", "-m", task.program.module]
    for name, value in flags_of(root, plan, task).items():
        words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [_word(value)])]
    return shlex.join(words)


@cache
def _embedded_base() -> Path:
    from sdcxr.embedded.base import ensure_base  # loads torch
    from sdcxr.io.files import user_cache

    return ensure_base(user_cache())


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Runner:
    """Runs a plan in a folder.

    Args:
        root: the folder of the grid.
        plan: what to run.
        launcher: where.
        retry_failed: run again what failed in an earlier call.
        say: where lines go.
    """

    def __init__(
        self,
        root: Path,
        plan: Plan,
        launcher: Launcher,
        retry_failed: bool = False,
        say: Callable[[str], None] | None = None,
    ):
        self.root, self.plan, self.launcher = root, plan, launcher
        self.say = say or (lambda line: print(line, flush=True))
        self.progress = Progress(plan, launcher.slots)
        for key, task in plan.tasks.items():
            known = read_state(root, task)
            if known.get("state") == DONE or (known.get("state") == FAILED and not retry_failed):
                self.progress.states[key] = known["state"]
            if known.get("state") == DONE:
                self.progress.seconds.setdefault(task.stage, []).append(known["seconds"])
        self.spent = {key: read_state(root, task).get("seconds", 0.0) for key, task in plan.tasks.items()}
        self.order = {key: i for i, key in enumerate(plan.tasks)}
        self.users: dict[str, list[str]] = {}
        for key, task in plan.tasks.items():
            for other in task.needs:
                self.users.setdefault(other, []).append(key)
        self.ready = [i for key, i in self.order.items() if key not in self.progress.states and self._can_run(key)]
        heapq.heapify(self.ready)
        self.keys = list(plan.tasks)
        self.sharing: dict[str, list[Task]] = {}
        for task in plan.tasks.values():
            if task.warm_up:
                self.sharing.setdefault(task.warm_up[1], []).append(task)
        self.shown = 0.0

    def run(self) -> int:
        """Run all that can run; returns 0, 1 where something failed, or the exit code of a signal."""
        already = sum(state == DONE for state in self.progress.states.values())
        if already:
            self.say(f"{already} of {len(self.plan.tasks)} commands were done in an earlier call")
        with Signals() as signals:
            try:
                received = self._loop(signals)
            finally:
                self.launcher.kill()  # of a second Ctrl-C, or of an error of ours; else there are none
        self._end_line()
        self.say(self.progress.line())
        for key, state in self.progress.states.items():
            if state == FAILED:
                self.say(self.failure(self.plan.tasks[key]))
        if received:
            self.say("stopped: run the same command again to resume")
            return exit_code(received)
        if STOPPED in self.progress.states.values():
            self.say("a command was stopped from outside: run the same command again to resume")
            return REQUEUE
        return int(FAILED in self.progress.states.values())

    def _loop(self, signals: Signals) -> int:
        sent = False
        waiting: list[int] = []  # for a process of an earlier call, or for a cache that another one fills
        while True:
            if signals.received and not sent:
                sent = True
                self._end_line()
                done = self.launcher.forward(signals.received)
                self.say(f"{signal.Signals(signals.received).name}: {done}")
                if self.launcher.detached:
                    self.progress.started.clear()
            while not sent and self.ready and len(self.progress.started) < self.launcher.slots:
                number = heapq.heappop(self.ready)
                if self._is_cold(self.plan.tasks[self.keys[number]]) or not self._start(
                    self.plan.tasks[self.keys[number]]
                ):
                    waiting.append(number)
            self.launcher.submit()
            self._follow_queue()
            if not self.progress.started and (sent or not (self.ready or waiting)):
                return signals.received
            wait_a_moment()
            for key, code in self.launcher.finished().items():
                self._finish(self.plan.tasks[key], code, sent)
            for number in waiting:
                heapq.heappush(self.ready, number)
            waiting.clear()
            self._status()

    def _follow_queue(self) -> None:
        """Start the clock of jobs anew while they wait in a scheduler's queue."""
        self.progress.waiting = self.launcher.waiting
        self.progress.started |= dict.fromkeys(self.progress.started.keys() & self.progress.waiting, time.monotonic())

    def _can_run(self, key: str) -> bool:
        return all(self.progress.states.get(other) == DONE for other in self.plan.tasks[key].needs)

    def _is_cold(self, task: Task) -> bool:
        """Whether another task is just filling the cache that this one shares with it."""
        if task.warm_up is None:
            return False
        others = [one for one in self.sharing[task.warm_up[1]] if one.key in self.progress.started]
        return bool(others) and not any(
            self.progress.states.get(one.key) == DONE or (task_output(self.root, one) / task.warm_up[0]).exists()
            for one in self.sharing[task.warm_up[1]]
        )

    def _start(self, task: Task) -> bool:
        folder = task_folder(self.root, task)
        folder.mkdir(parents=True, exist_ok=True)
        if task.program.output_flag == "output":
            task_output(self.root, task).mkdir(exist_ok=True)
        write_config(folder / FLAGS, flags_of(self.root, self.plan, task))
        said = self.launcher.start(job_of(self.root, self.plan, task))
        if not said:
            return False
        self.progress.started[task.key] = time.monotonic()
        self._record(task, "running", None)
        self._end_line()
        self.say(f"{_title(task)}: {said}")
        return True

    def _finish(self, task: Task, code: int, signalled: bool) -> None:
        gone = time.monotonic() - self.progress.started.pop(task.key)
        self.spent[task.key] += gone
        stopped = code in (REQUEUE, 128 + signal.SIGINT) or (signalled and code != 0)
        state = DONE if code == 0 else STOPPED if stopped else FAILED
        self.progress.states[task.key] = state
        self._record(task, state, code)
        self._end_line()
        self.say(f"{_title(task)}: {state} after {duration(gone)}")
        if state == DONE:
            self.progress.seconds.setdefault(task.stage, []).append(self.spent[task.key])
            for key in self.users.get(task.key, []):
                if key not in self.progress.states and self._can_run(key):
                    heapq.heappush(self.ready, self.order[key])

    def _record(self, task: Task, state: str, code: int | None) -> None:
        about = {"state": state, "exit_code": code, "seconds": round(self.spent[task.key], 1)}
        about |= {"stage": task.stage, "command": task.command, "key": task.key, "flags": dict(task.flags)}
        write_json(task_folder(self.root, task) / STATE, about)

    def failure(self, task: Task) -> str:
        """What a failed task said last."""
        code = read_state(self.root, task).get("exit_code")
        why = f"killed by {signal.Signals(-code).name}" if isinstance(code, int) and code < 0 else f"exit code {code}"
        log = task_folder(self.root, task) / LOG
        lines = last_lines(log).replace("\n", "\n    ")
        return f"{_title(task)}: failed ({why}); --retry_failed runs it again; {log} ends with\n    {lines}"

    def _status(self) -> None:
        now = time.monotonic()
        terminal = sys.stdout.isatty()
        if now - self.shown < (1.0 if terminal else LINE_SECONDS):
            return
        self.shown = now
        if terminal:
            print(f"\r\x1b[K{self.progress.line()}", end="", flush=True)
        elif self.progress.started:
            self.say(self.progress.line())

    def _end_line(self) -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)


def _title(task: Task) -> str:
    return f"{task.stage} {task.name}".strip()
