"""Work in several processes: in order, and over when the parent is."""

import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.workers import in_workers
from sdcxr.runtime.errors import UserError


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
def test_results_come_in_the_order_of_the_columns(workers):
    columns = list(range(9)), [2] * 9
    assert list(in_workers(operator.sub, *columns, workers=workers, chunksize=2)) == list(range(-2, 7))


def test_no_work_is_done_by_nobody():
    assert list(in_workers(operator.sub, [], [], workers=2)) == []


def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match=r"out of memory.*fewer --workers"):
        list(in_workers(os._exit, [1, 1], workers=2))


def test_no_worker_outlives_a_killed_command(tmp_path: Path):
    command = [sys.executable, "-m", "data_prep.phantom", "--output_dir", tmp_path / "raw", "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while next(tmp_path.rglob("*.jpg"), None) is None:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker outlived its parent")
