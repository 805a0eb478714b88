"""A lock on a folder: held by one process at a time, and by none that has died."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdcxr.io import locks
from sdcxr.io.locks import LOCK, locked
from sdcxr.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
# Another command, with a process that works for it: POSIX locks do not hold within one process.
HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from sdcxr.io.locks import locked
with locked(Path(sys.argv[1])):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds tmp_path/run."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        os.killpg(process.pid, 9)


def test_a_second_command_is_refused_and_a_killed_one_holds_nothing(other, tmp_path):
    before = (tmp_path / "run" / LOCK).read_text()
    said = rf"is in use by another command \(process {other.pid} on .*\): wait"
    with pytest.raises(UserError, match=said), locked(tmp_path / "run"):
        pytest.fail("two at once")
    assert (tmp_path / "run" / LOCK).read_text() == before
    other.kill()  # its child lives on
    other.wait()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_requeued_job_waits_for_the_lock_of_a_dead_node(other, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(time, "sleep", lambda _: (other.kill(), other.wait()))
    with locked(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK).read_text()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    with locked(tmp_path / "run"):
        pass
    assert "this file system has no locks" in capsys.readouterr().out


def test_a_folder_that_stays_empty_is_removed_again(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("there", "new", "used"):
        with locked(tmp_path / name):
            if name == "used":
                (tmp_path / name / "run.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "used"]
