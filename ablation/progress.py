"""Where the tasks of a plan are: counts, and the time that is left."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ablation.cells import Plan, Task
from ablation.workload import units_of

DONE, FAILED, STOPPED = "done", "failed", "stopped"


@dataclass
class Progress:
    """Where the tasks of a plan are."""

    plan: Plan
    slots: int
    states: dict[str, str] = field(default_factory=dict)
    """DONE, FAILED or STOPPED by key; others are queued."""
    started: dict[str, float] = field(default_factory=dict)
    """Of running tasks."""
    waiting: Collection[str] = ()
    """Those of them that wait in a scheduler's queue; their clock starts when they run."""
    measured: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Seconds and units of work of finished tasks by stage, also in earlier calls."""

    def add_seconds(self, task: Task, seconds: float) -> None:
        """What a finished task took."""
        self.measured.setdefault(task.stage, []).append((seconds, units_of(task)))

    def seconds_of(self, task: Task) -> float | None:
        """What a task will take, by the seconds per unit of its stage; None where none of the stage was finished."""
        known = self.measured.get(task.stage)
        if not known:
            return None
        return units_of(task) * sum(seconds for seconds, _ in known) / sum(units for _, units in known)

    def left(self) -> float | None:
        """Seconds until all is done; None where a stage was never finished yet."""
        blocked, total, longest = self.blocked(), 0.0, 0.0
        for key, task in self.plan.tasks.items():
            if key in self.states or key in blocked:
                continue
            expected = self.seconds_of(task)
            if expected is None:
                return None
            gone = time.monotonic() - self.started[key] if key in self.started else 0.0
            rest = max(0.0, expected - gone)
            total, longest = total + rest, max(longest, rest)
        return max(longest, total / self.slots)

    def blocked(self) -> set[str]:
        """The tasks that need something that has failed."""
        found: set[str] = set()
        for key, task in self.plan.tasks.items():  # in an order in which they can run
            if any(self.states.get(other) == FAILED or other in found for other in task.needs):
                found.add(key)
        return found

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
