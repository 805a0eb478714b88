"""Run the tasks of a plan: what is missing, several at a time, whatever was interrupted or fails."""

import heapq
import os
import shlex
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ablation.cells import EMBEDDED, Plan, Task, output_value, references, task_folder, task_output, with_folders
from ablation.launcher import LOG, STARTED, Job, Launcher, last_lines, wait_a_moment
from ablation.programs import ON_SEVERAL
from ablation.progress import DONE, FAILED, STOPPED, Progress, duration
from sdcxr.io.files import read_json, write_json
from sdcxr.io.run_folder import write_config
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.signals import REQUEUE, Signals, exit_code

FLAGS, STATE = "flags.yaml", "task.json"
KILLED = "killed"  # recorded of a command that a signal ended from outside: failed, but the next call resumes it
FROM_OUTSIDE = {-kind for kind in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)}
LINE_SECONDS = 30.0  # between status lines where the output is no terminal
GRACE_SECONDS = 60.0  # for commands to save, after an error of the runner
MOST_SHOWN = 10  # failed commands with their last lines


def read_state(root: Path, task: Task) -> dict[str, Any]:
    """What is known of a task from earlier calls; empty where that is nothing, damaged, or without its output."""
    path = task_folder(root, task) / STATE
    try:
        found = read_json(path) if path.is_file() else {}
    except UserError:  # damaged: run it again, its command knows what it has
        return {}
    whole = isinstance(found, dict) and isinstance(found.get("seconds"), (int, float))
    if not whole or found.get("key") != task.key:
        return {}
    return found if found.get("state") != DONE or _has_output(output_value(root, task)) else {}


def _has_output(place: Path) -> bool:
    return any(place.iterdir()) if place.is_dir() else place.is_file()


def job_of(root: Path, plan: Plan, task: Task) -> Job:
    """The command of a task; its flags are in a file of its folder."""
    folder = task_folder(root, task)
    return Job(
        task.key,
        ["-m", task.program.module, "--config", str(folder / FLAGS)],
        folder,
        task.command in ON_SEVERAL,
        task.stage,
        command_line(root, plan, task),
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
        self.say = say or _print
        self.progress = Progress(plan, launcher.slots)
        known = {key: read_state(root, task) for key, task in plan.tasks.items()}
        settled = {DONE} if retry_failed else {DONE, FAILED}
        states = {key: one["state"] for key, one in known.items() if one.get("state") in settled}
        self.spent = {key: one.get("seconds", 0.0) for key, one in known.items()}
        for key, state in states.items():
            if state == DONE:
                self.progress.add_seconds(plan.tasks[key], self.spent[key])
        self.already = sum(state == DONE for state in states.values())
        self.unneeded = plan.tasks.keys() - states.keys() - needed_tasks(plan, states)
        self.progress.states = states | dict.fromkeys(self.unneeded, DONE)
        self.keys = list(plan.tasks)
        self.order = {key: i for i, key in enumerate(self.keys)}
        self.users: dict[str, list[str]] = defaultdict(list)
        for key, task in plan.tasks.items():
            for other in task.needs:
                self.users[other].append(key)
        self.ready = [i for i, key in enumerate(self.keys) if key not in self.progress.states and self._can_run(key)]
        heapq.heapify(self.ready)
        self.caches = Caches(root, plan, self.progress)
        self.waited_for: set[str] = set()
        self.shown = 0.0

    def run(self) -> int:
        """Run all that can run; returns 0, 1 where something failed, or the exit code of a signal."""
        with Signals(*_hangup()) as signals:
            if self.already:
                self.say(f"{self.already} of {len(self.plan.tasks)} commands were done in an earlier call")
            if self.unneeded:
                self.say(
                    f"the output of {len(self.unneeded)} commands is gone, but all that builds on it is done: not made "
                    "again"
                )
            try:
                received = self._loop(signals)
            except Exception:
                self._let_save()
                raise
            finally:
                self.launcher.kill()  # of a second Ctrl-C, or after an error of ours; else there are none
            self._end_line()
            return self._summary(received)

    def _summary(self, received: int) -> int:
        self.say(self.progress.line())
        failed = [self.plan.tasks[key] for key, state in self.progress.states.items() if state == FAILED]
        for task in failed[:MOST_SHOWN]:
            self.say(self.failure(task))
        if len(failed) > MOST_SHOWN:
            self.say(f"{len(failed) - MOST_SHOWN} more commands failed; their logs: {self.root}/STAGE/CELL/{LOG}")
        if received:
            self.say("stopped: run the same command again to resume")
            return exit_code(received)
        if STOPPED in self.progress.states.values():
            self.say("a command was stopped from outside: run the same command again to resume")
            return REQUEUE
        return int(bool(failed))

    def _loop(self, signals: Signals) -> int:
        sent = False
        waiting: list[int] = []  # for a process of an earlier call
        while True:
            if signals.received and not sent:
                sent = True
                self._end_line()
                kind = signal.SIGTERM if signals.received == signal.SIGHUP else signals.received
                said = self.launcher.forward(kind)
                self.say(f"{signal.Signals(signals.received).name}: {said}")
                if self.launcher.detached:
                    self.progress.started.clear()
            while not sent and self.ready and len(self.progress.started) < self.launcher.slots:
                number = heapq.heappop(self.ready)
                task = self.plan.tasks[self.keys[number]]
                if not self.caches.park(task, number) and not self._start(task):
                    waiting.append(number)
            self.launcher.submit()
            self._follow_queue()
            if not self.progress.started and (sent or not (self.ready or waiting)):
                return signals.received
            wait_a_moment()
            for key, code in self.launcher.finished().items():
                self._finish(self.plan.tasks[key], code, sent)
            for number in waiting + self.caches.unpark():
                heapq.heappush(self.ready, number)
            waiting.clear()
            self._status()

    def _let_save(self) -> None:
        """After an error of ours, such as a full disk: the commands save where they are, as after a signal."""
        self.launcher.forward(signal.SIGTERM)
        left, deadline = set(self.progress.started), time.monotonic() + GRACE_SECONDS
        while left and time.monotonic() < deadline:
            wait_a_moment()
            left -= self.launcher.finished().keys()

    def _follow_queue(self) -> None:
        """Start the clock of jobs anew while they wait in a scheduler's queue."""
        self.progress.waiting = self.launcher.waiting
        self.progress.started |= dict.fromkeys(self.progress.started.keys() & self.progress.waiting, time.monotonic())

    def _can_run(self, key: str) -> bool:
        return all(self.progress.states.get(other) == DONE for other in self.plan.tasks[key].needs)

    def _start(self, task: Task) -> bool:
        folder = task_folder(self.root, task)
        folder.mkdir(parents=True, exist_ok=True)
        if task.program.output_flag == "output":
            task_output(self.root, task).mkdir(exist_ok=True)
        write_config(folder / FLAGS, flags_of(self.root, self.plan, task))
        said = self.launcher.start(job_of(self.root, self.plan, task))
        if not said:
            if task.key not in self.waited_for:
                self.waited_for.add(task.key)
                self.say(f"{_title(task)}: waits for a process of an earlier call, which still works in {folder}")
            return False
        self.progress.started[task.key] = time.monotonic()
        self.caches.started(task)
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
        self._record(task, KILLED if state == FAILED and code in FROM_OUTSIDE else state, code)
        self._end_line()
        self.say(f"{_title(task)}: {state} after {duration(gone)}")
        if state == DONE:
            self.progress.add_seconds(task, self.spent[task.key])
            for key in self.users[task.key]:
                if key not in self.progress.states and self._can_run(key):
                    heapq.heappush(self.ready, self.order[key])

    def _record(self, task: Task, state: str, code: int | None) -> None:
        about = {"state": state, "exit_code": code, "seconds": round(self.spent[task.key], 1)}
        about |= {"stage": task.stage, "command": task.command, "key": task.key, "flags": dict(task.flags)}
        write_json(task_folder(self.root, task) / STATE, about)

    def failure(self, task: Task) -> str:
        """What a failed task said last."""
        known = read_state(self.root, task)
        code, log = known.get("exit_code"), task_folder(self.root, task) / LOG
        why = f"killed by {signal.Signals(-code).name}" if isinstance(code, int) and code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL:
            why += ", perhaps for lack of memory"
        how = "the same command again resumes it" if known.get("state") == KILLED else "--retry_failed runs it again"
        lines = last_lines(log).rpartition(STARTED)[2].replace("\n", "\n    ")
        return f"{_title(task)}: failed ({why}); {how}; {log} ends with\n    {lines}"

    def _status(self) -> None:
        now = time.monotonic()
        terminal = sys.stdout.isatty()
        if now - self.shown < (1.0 if terminal else LINE_SECONDS):
            return
        self.shown = now
        if terminal:
            _print(f"\r\x1b[K{self.progress.line()}")
        elif self.progress.started:
            self.say(self.progress.line())

    def _end_line(self) -> None:
        if sys.stdout.isatty():
            _print("\r\x1b[K")


class Caches:
    """The caches that several tasks share (`warm_up`): one task fills each, the others wait for it."""

    def __init__(self, root: Path, plan: Plan, progress: Progress):
        self.root, self.progress = root, progress
        self.warm = {
            task.warm_up[1]
            for key, task in plan.tasks.items()
            if task.warm_up and (progress.states.get(key) == DONE or self._is_filled_by(task))
        }
        self.fillers: dict[str, Task] = {}
        self.parked: dict[str, list[int]] = defaultdict(list)

    def started(self, task: Task) -> None:
        """A task runs: it fills the cache where none does yet."""
        if task.warm_up and task.warm_up[1] not in self.warm:
            self.fillers[task.warm_up[1]] = task

    def park(self, task: Task, number: int) -> bool:
        """Whether the cache of a task is just being filled; then `unpark` returns its number when it can run."""
        waits = task.warm_up is not None and self._is_filling(task.warm_up[1])
        if waits and task.warm_up:
            self.parked[task.warm_up[1]].append(number)
        return waits

    def unpark(self) -> list[int]:
        """The numbers of the tasks that waited and can run now."""
        free = [group for group in self.parked if not self._is_filling(group)]
        return [number for group in free for number in self.parked.pop(group)]

    def _is_filling(self, group: str) -> bool:
        filler = self.fillers.get(group)
        if group in self.warm or filler is None:
            return False
        if self.progress.states.get(filler.key) == DONE or self._is_filled_by(filler):
            self.warm.add(group)
            return False
        return filler.key in self.progress.started

    def _is_filled_by(self, task: Task) -> bool:
        return task.warm_up is not None and (task_output(self.root, task) / task.warm_up[0]).exists()


def needed_tasks(plan: Plan, states: Mapping[str, str]) -> set[str]:
    """What measures a cell and is not settled, and what it needs that is not there: outputs between are not missed."""
    found: set[str] = set()
    left = [cell.tasks[plan.grid.measure] for cell in plan.cells]
    while left:
        key = left.pop()
        if key not in states and key not in found:
            found.add(key)
            left += plan.tasks[key].needs
    return found


def _hangup() -> list[signal.Signals]:
    """The signal of a terminal that is closed, unless it is ignored, as under nohup."""
    return [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]


def _print(text: str) -> None:
    """Print to the end of a line; where nobody reads any more (a closed terminal or pipe), stop as after a hangup."""
    try:
        print(text, end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGHUP)


def _title(task: Task) -> str:
    return f"{task.stage} {task.name}".strip()
