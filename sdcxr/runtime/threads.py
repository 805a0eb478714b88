"""CPU cores available to this process, the threads that torch uses on CPUs, and how these wait for each other."""

import math
import os
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Self

WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How long OpenMP's threads spin at a barrier before they sleep: GNU's in loops (about 0.2 ms; 300,000 by default),
LLVM's and Intel's in ms (200 by default)."""
CHECK_S = 1.0


def available_cores() -> int:
    """Number of cores that this process may use: under SLURM or in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Undo OMP_NUM_THREADS=1, which `accelerate launch` sets by default: share the cores among the local ranks.

    MKL_NUM_THREADS, or OMP_NUM_THREADS other than 1, was set by the user and is respected.
    """
    import torch

    if "OMP_NUM_THREADS" in os.environ and not threads_as_told(os.environ):
        torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def threads_as_told(environment: Mapping[str, str]) -> bool:
    """Whether the user has set the number of threads; OMP_NUM_THREADS=1 under `accelerate launch` is the launcher's."""
    launched = "ACCELERATE_MIXED_PRECISION" in environment and environment.get("OMP_NUM_THREADS") == "1"
    return "MKL_NUM_THREADS" in environment or ("OMP_NUM_THREADS" in environment and not launched)


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Shorten the time that OpenMP's threads spin; takes effect if called before torch is imported.

    Beside other processes a thread that spins takes the core from the one that it waits for (docs/decisions.md).
    """
    if not waits_as_told(environment):
        environment.update(WAITING)


def waits_as_told(environment: Mapping[str, str]) -> bool:
    """Whether the user has set how OpenMP's threads wait, by any of its variables."""
    changed = (environment.get(name, value) != value for name, value in WAITING.items())
    return "OMP_WAIT_POLICY" in environment or any(changed)


class LoadFollower:
    """Fewer threads of torch while other processes need the cores, all of them again afterwards.

    The threads of an operator wait for one another many times a step. Beside a busy process, one of them is always
    without a core, and several are slower than one (docs/decisions.md). The last bits of sums depend on their number.
    A context manager, at whose end the process has all of them again.

    Args:
        fixed: keep the number, as where the user has set it and on systems without /proc/stat.
    """

    def __init__(self, fixed: bool = False):
        import torch

        self.most = torch.get_num_threads()
        self.fixed = fixed or self.most == 1 or threads_as_told(os.environ) or busy_s() is None
        self.said = False
        self.last = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.fixed:
            import torch

            torch.set_num_threads(self.most)

    def follow(self) -> str:
        """Between two steps: look at the load, once a second; a message the first time that threads are given up."""
        if self.fixed or time.monotonic() - self.last[0] < CHECK_S:
            return ""
        import torch

        before, self.last = self.last, self._read()
        seconds, busy, own = (now - then for now, then in zip(self.last, before, strict=True))
        threads = threads_beside((busy - own) / seconds, available_cores(), self.most)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        if threads == self.most or self.said:
            return ""
        self.said = True
        return (
            f"other processes use the cores: {threads} of {self.most} threads until they end; the last bits of results "
            "depend on it (with OMP_NUM_THREADS set, the number stays)"
        )

    def _read(self) -> tuple[float, float, float]:
        return time.monotonic(), busy_s() or 0.0, time.process_time()


def threads_beside(others: float, cores: int, most: int) -> int:
    """How many threads are fastest beside processes that take `others` cores: each thread should find a free one.

    A thread less costs 1 / cores of the speed, as does leaving one to share its core for as much of the time.
    """
    return max(1, min(most, math.floor(cores - others + 1 / cores)))


def busy_s() -> float | None:
    """Seconds that the cores available to this process have worked, for whomever; None on systems that do not say."""
    try:
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
        ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        idle = {4, 5}  # columns of proc_stat(5): idle and waiting for a disk; 9 and 10 are counted in 1 and 2
        ticks = [int(row[i]) for row in rows if row[0] in ours for i in range(1, 9) if i not in idle]
    except (OSError, AttributeError, IndexError, ValueError):
        return None
    return sum(ticks) / os.sysconf("SC_CLK_TCK")
