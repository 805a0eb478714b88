"""All cores under `accelerate launch` unless the user said otherwise, and fewer beside other processes."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from sdcxr.runtime import cli
from sdcxr.runtime.threads import (
    WAITING,
    LoadFollower,
    available_cores,
    limit_spinning,
    threads_as_told,
    threads_beside,
)

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
    ("others", "cores", "most", "threads"),
    [
        (0.1, 2, 2, 2),
        (0.7, 2, 2, 1),
        (1.0, 2, 2, 1),  # as seen with one thread beside a busy process
        (1.3, 2, 2, 1),
        (0.1, 8, 8, 8),
        (0.6, 8, 8, 7),
        (1.0, 8, 8, 7),
        (8.0, 8, 8, 1),
        (4.0, 8, 4, 4),  # beside another rank of the same run
        (-0.01, 2, 2, 2),  # clocks are coarse
        (0.5, 1, 1, 1),
    ],
)
def test_each_thread_finds_a_free_core_or_nearly(others: float, cores: int, most: int, threads: int) -> None:
    assert threads_beside(others, cores, most) == threads


@pytest.mark.parametrize(
    ("environment", "told"),
    [({}, False), (LAUNCHED, False), ({"OMP_NUM_THREADS": "1"}, True), (LAUNCHED | {"MKL_NUM_THREADS": "1"}, True)],
)
def test_a_number_of_threads_that_the_user_set_stays(environment: dict[str, str], told: bool) -> None:
    assert threads_as_told(environment) is told


def test_what_comes_after_has_all_threads_again(monkeypatch):
    """Several trainings in one process: the next would take the last one's threads for all."""
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with LoadFollower() as load:
            torch.set_num_threads(1)  # as `follow` does beside a busy process
        assert torch.get_num_threads() == (1 if load.fixed else 2)
    finally:
        torch.set_num_threads(before)


# Prints the threads beside a busy process for each core, and after it.
FOLLOW = """
import os, subprocess, sys, time, torch
from sdcxr.runtime.threads import LoadFollower, available_cores
load, values = LoadFollower(fixed=sys.argv[1:] == ["fixed"]), torch.ones(1 << 20)
def threads(wanted):
    end = time.monotonic() + 20
    while time.monotonic() < end and torch.get_num_threads() != wanted:
        values.mul_(1.0)
        load.follow()
    return torch.get_num_threads()
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(available_cores())]
beside = threads(1) if sys.argv[1:] != ["fixed"] else (time.sleep(2), load.follow(), torch.get_num_threads())[-1]
for process in busy:
    process.kill()
    process.wait()
print(beside, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or available_cores() < 2, reason="needs two cores of Linux")
@pytest.mark.parametrize(("mode", "threads"), [("", 1), ("fixed", available_cores())])
def test_threads_are_given_up_beside_busy_processes_unless_fixed(mode: str, threads: int) -> None:
    command = [sys.executable, "-c", FOLLOW, *mode.split()]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert int(done.stderr.split()[-1]) == threads
