"""CPU cores available to this process, the threads that torch uses on CPUs, and how these wait for each other."""

import os
import threading
import time
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path

WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How long OpenMP's threads spin at a barrier before they sleep: GNU's in loops (about 0.2 ms; 300,000 by default),
LLVM's and Intel's in ms (200 by default)."""
CHECK_S = 1.0
BUSY, QUIET = 0.1, 0.05
"""Seconds per second of waiting for a core: above BUSY other processes need the cores, below QUIET no more."""
GRAIN = 32768  # elements per thread at which torch shares an element-wise operation


def available_cores() -> int:
    """Number of cores that this process may use: under SLURM or in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Undo OMP_NUM_THREADS=1, which `accelerate launch` sets by default: share the cores among the local ranks.

    MKL_NUM_THREADS, or OMP_NUM_THREADS other than 1, was set by the user and is respected. From then on threads that
    wait sleep while other processes need the cores.
    """
    import torch

    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS") == "1" and "MKL_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if torch.get_num_threads() > 1 and not waits_as_told(os.environ) and waited_s() is not None:
        _watch_cores()


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Shorten the time that OpenMP's threads spin; takes effect if called before torch is imported.

    Beside other processes a thread that spins takes the core from the one that it waits for (docs/decisions.md).
    """
    if not waits_as_told(environment):
        environment.update(WAITING)


def waits_as_told(environment: MutableMapping[str, str]) -> bool:
    """Whether the user has set how OpenMP's threads wait, by any of its variables."""
    changed = (environment.get(name, value) != value for name, value in WAITING.items())
    return "OMP_WAIT_POLICY" in environment or any(changed)


def waited_s() -> float | None:
    """Seconds that all threads of this process have been ready without a core; None where the system does not count."""
    total = None
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total = (total or 0.0) + int(path.read_text().split()[1]) / 1e9
        except (OSError, IndexError):  # the thread has ended
            continue
    return total


def is_shared(before: bool, waiting: float) -> bool:
    """Whether other processes need the cores: by whether they did, and the seconds per second of waiting for one."""
    return waiting > (QUIET if before else BUSY)


@cache  # one watch a process
def _watch_cores() -> None:
    threading.Thread(target=_watch, name="watch-cores", daemon=True).start()


def _watch() -> None:
    release: threading.Event | None = None
    waited, since = waited_s() or 0.0, time.monotonic()
    while True:
        time.sleep(CHECK_S)
        last, start, waited, since = waited, since, waited_s() or 0.0, time.monotonic()
        shared = is_shared(release is not None, (waited - last) / (since - start))
        if shared and release is None:
            release = threading.Event()
            threading.Thread(target=hold_team, args=(release,), name="hold-team", daemon=True).start()
        elif release is not None and not shared:
            release.set()
            release = None


def hold_team(release: threading.Event) -> None:
    """Keep an OpenMP team of the calling thread, asleep, until `release` is set.

    libgomp then counts more threads than cores and waits in 100 loops instead of GOMP_SPINCOUNT, in all teams: its one
    switch that works while a process runs. No number of threads, and so no result, changes.
    """
    import torch

    torch.empty(torch.get_num_threads() * GRAIN).fill_(0.0)
    release.wait()
