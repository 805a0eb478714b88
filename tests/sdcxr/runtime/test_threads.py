"""All cores under `accelerate launch` unless the user said otherwise, and no spinning beside other processes."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from sdcxr.runtime import cli
from sdcxr.runtime.threads import WAITING, available_cores, is_shared, limit_spinning

CORES = "import os; print(len(os.sched_getaffinity(0)))"
THREADS = (
    "from sdcxr.runtime.threads import use_all_cores; use_all_cores(); import torch; print(torch.get_num_threads())"
)
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}


def printed(code: str, **environment: str) -> float:
    clean = {"PATH": "/usr/bin:/bin"} | environment
    return float(
        subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "all_cores"),
    [
        (LAUNCHED, True),
        (LAUNCHED | {"MKL_NUM_THREADS": "1"}, False),
        (LAUNCHED | {"LOCAL_WORLD_SIZE": "64"}, False),
        ({"OMP_NUM_THREADS": "1"}, False),
    ],
)
def test_threads_used(environment: dict[str, str], all_cores: bool) -> None:
    assert printed(THREADS, **environment) == (printed(CORES) if all_cores else 1)


@pytest.mark.parametrize(
    ("environment", "ours"),
    [
        ({}, True),
        (WAITING, True),  # of the command that started this one
        ({"OMP_WAIT_POLICY": "active"}, False),
        ({"GOMP_SPINCOUNT": "5"}, False),
        ({"KMP_BLOCKTIME": "infinite"}, False),
    ],
)
def test_how_threads_wait_is_set_where_the_user_has_not(environment: dict[str, str], ours: bool) -> None:
    after = dict(environment)
    limit_spinning(after)
    assert after == (WAITING if ours else environment)


@dataclass
class Nothing:
    """No setting."""

    number: int = 0


def test_every_command_has_it_set_before_main_imports_torch(monkeypatch):
    for name in ("OMP_WAIT_POLICY", *WAITING):
        monkeypatch.delenv(name, raising=False)
    seen = {}

    def main(config: Nothing) -> None:
        seen.update(os.environ)

    with pytest.raises(SystemExit):
        cli.run(main, [])
    assert seen.items() >= WAITING.items()


@pytest.mark.parametrize(
    ("before", "waiting", "after"),
    [(False, 0.0, False), (False, 0.08, False), (False, 0.3, True), (True, 0.08, True), (True, 0.02, False)],
)
def test_cores_are_shared_from_a_tenth_of_waiting_until_half_of_that(before: bool, waiting: float, after: bool) -> None:
    assert is_shared(before, waiting) is after


# Two threads that have to take turns on one core, after libgomp has counted two.
TAKE_TURNS = """
import os, threading, time, torch
from sdcxr.runtime.threads import hold_team
torch.set_num_threads(2)
values = torch.zeros(1 << 18)
values.fill_(1.0)
core = {min(os.sched_getaffinity(0))}
for thread in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(thread), core)
def seconds():
    start = time.process_time()
    for _ in range(20):
        values.fill_(1.0)
    return time.process_time() - start
spinning, release = seconds(), threading.Event()
holder = threading.Thread(target=hold_team, args=(release,))
holder.start()
time.sleep(0.3)
held = seconds()
release.set()
holder.join()
time.sleep(0.3)  # the system ends a thread after Python
print(min(spinning, seconds()) / held)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or available_cores() < 2, reason="needs two cores of Linux")
def test_a_held_team_keeps_threads_from_spinning_and_its_release_lets_them() -> None:
    assert printed(TAKE_TURNS, GOMP_SPINCOUNT="300000") > 3
