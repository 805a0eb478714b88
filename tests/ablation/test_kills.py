"""Grids that are killed at random moments, interrupted, or lose their terminal: the same results, nothing twice."""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 20
DRIVER = """
import signal
import sys
import toy
from ablation import programs
from ablation.command import main
from ablation.config import AblateConfig
from sdcxr.runtime.cli import run

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
programs.EXTRA["toy"] = programs.Program("toy", toy.ToyConfig)
run(main, sys.argv[1:])
"""
GRID = """
stages:
  prepare: {{command: toy}}
  train: {{command: toy, flags: {{data: "${{prepare}}"}}}}
  evaluate: {{command: toy, flags: {{data: "${{train}}"}}}}
axes: {{train.value: {values}}}
seeds: {{values: {seeds}, flags: [train.seed]}}
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG, /proc")]


@dataclass
class Toys:
    """A grid of toys in a folder."""

    folder: Path

    def __post_init__(self) -> None:
        shutil.copy(Path(__file__).with_name("toy.py"), self.folder)
        (self.folder / "driver.py").write_text(DRIVER)
        self.write_grid()

    def write_grid(self, values: str = "[1, 2]", seeds: str = "[0, 1]") -> None:
        (self.folder / "grid.yaml").write_text(GRID.format(values=values, seeds=seeds))

    def start(self, output: str, **options) -> subprocess.Popen:
        path = os.pathsep.join([str(ROOT), str(self.folder)])
        environment = os.environ | {"PYTHONPATH": path, "TOY_JOURNAL": str(self.journal), "PYTHONUNBUFFERED": "1"}
        flags = ["--grid", str(self.folder / "grid.yaml"), "--output_dir", str(self.folder / output), "--jobs", "2"]
        command = [sys.executable, str(self.folder / "driver.py"), *flags]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
        return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def lines(self, kind: str) -> list[str]:
        text = self.journal.read_text() if self.journal.is_file() else ""
        return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith(f"{kind} ")]

    def alive(self) -> list[int]:
        """The processes of commands that run; not those that have ended and wait for their parent."""
        found = []
        for pid in self.lines("start"):
            stat = Path(f"/proc/{pid}/stat")
            try:
                text = stat.read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "toy" in Path(f"/proc/{pid}/cmdline").read_text() and text.rpartition(")")[2].split()[0] != "Z":
                found.append(int(pid))
        return found

    def no_orphans(self) -> bool:
        deadline = time.monotonic() + 20
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.alive()


@pytest.fixture
def toys(tmp_path) -> Toys:
    return Toys(tmp_path)


def wait_for_commands(toys: Toys, n: int) -> None:
    deadline = time.monotonic() + 60
    while len(toys.lines("start")) < n:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("results.csv", "table.md", "differences.csv")}


@pytest.mark.timeout(600)
def test_random_kills_change_nothing(toys):
    """SIGKILL of the runner and, apart, of single commands; after a grid that got done in between comes a new one."""
    assert toys.start("reference").wait() == 0
    wanted = results(toys.folder / "reference")
    dice, grids, kills, finished = random.Random(7), 0, 0, []
    while kills < KILLS:
        known = len(toys.lines("start"))
        runner = toys.start(f"grid{grids}")
        deadline = time.monotonic() + 60
        while len(toys.lines("start")) == known and runner.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 1.2))
        victims = toys.alive()
        if kills % 2 and victims:
            os.kill(dice.choice(victims), signal.SIGKILL)
            kills += 1
        elif runner.poll() is None:
            os.killpg(runner.pid, signal.SIGKILL)
            kills += 1
        if runner.wait() == 0:
            finished.append(f"grid{grids}")
            grids += 1
    assert toys.start(f"grid{grids}").wait() == 0
    assert toys.no_orphans()
    assert all(results(toys.folder / name) == wanted for name in [*finished, f"grid{grids}"])
    assert set(Counter(toys.lines("completed")).values()) == {1}


def test_more_values_and_seeds_run_only_their_cells(toys):
    assert toys.start("out").wait() == 0
    assert len(toys.lines("start")) == 1 + 4 + 4
    toys.write_grid("[1, 3]")
    assert toys.start("out").wait() == 0
    assert len(toys.lines("start")) == 9 + 2 + 2
    toys.write_grid("[1, 3]", "[0, 1, 2]")
    assert toys.start("out").wait() == 0
    assert len(toys.lines("start")) == 13 + 2 + 2
    assert set(Counter(toys.lines("completed")).values()) == {1}


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_no_process_and_everything_resumable(toys, times):
    runner = toys.start("out", stdout=subprocess.PIPE)
    wait_for_commands(toys, 2)
    for _ in range(times):
        runner.send_signal(signal.SIGINT)
        time.sleep(0.05)
    text = runner.communicate(timeout=30)[0].decode()
    assert runner.returncode == 130 and "Traceback" not in text
    assert toys.no_orphans()
    assert toys.start("out").wait() == 0
    assert set(Counter(toys.lines("completed")).values()) == {1}


def test_a_closed_terminal_lets_the_commands_save(toys):
    """The kernel sends SIGHUP to the runner, and what it prints from then on fails."""
    master, slave = os.openpty()
    runner = toys.start(
        "out", stdin=slave, stdout=slave, stderr=slave, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    )
    os.close(slave)
    wait_for_commands(toys, 2)
    os.close(master)
    assert runner.wait(30) == 75
    assert toys.no_orphans()
    assert toys.start("out").wait() == 0
    assert set(Counter(toys.lines("completed")).values()) == {1}


def test_a_reader_that_is_gone_stops_the_grid(toys):
    """As `ablate.py … | head -1`."""
    runner = toys.start("out", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    runner.stdout.readline()
    runner.stdout.close()
    assert runner.wait(30) in (75, 128 + signal.SIGPIPE)
    assert b"Traceback" not in runner.stderr.read()
    assert toys.no_orphans()
    assert toys.start("out").wait() == 0
