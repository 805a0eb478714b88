"""Files that are whole or absent, and names that stay inside their folder."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcxr import __version__
from sdcxr.io.files import atomic, existing_folder, inside, read_json, user_cache, write_json, write_text
from sdcxr.runtime.errors import UserError


def test_new_content_replaces_the_old_and_leaves_nothing_beside(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    write_text(file, "new é")
    assert file.read_text(encoding="utf-8") == "new é"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_exception_leaves_the_old_file_alone(tmp_path, error):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(type(error)), atomic(file) as temporary:
        temporary.write_text("half")
        raise error
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_kill_in_the_middle_leaves_the_old_file_alone(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    program = (
        "import os, signal, sys; from sdcxr.io.files import atomic\n"
        "with atomic(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(file)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert file.read_text() == "old"


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    steps = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), real_fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("rename"), real_replace(self, to)))
    write_text(tmp_path / "a", "x")
    assert steps == ["sync", "rename"]


def test_json_round_trip_keeps_letters_readable(tmp_path):
    write_json(tmp_path / "a.json", {"γ": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"γ": [1, 2.5, None]}
    assert "γ" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_damaged_json_is_the_users_to_mend(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "..", "a/.."])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(UserError, match="leads out of the folder"):
        inside(Path("/data"), name)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_no_accepted_name_leaves_the_folder(name):
    folder = Path("/data/set")
    try:
        path = inside(folder, name)
    except UserError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(folder)


def test_names_in_folders_below_are_fine():
    assert inside(Path("/data"), "p10/a..b.png") == Path("/data/p10/a..b.png")


def test_missing_folder_and_file_in_its_place_name_the_flag(tmp_path):
    (tmp_path / "file").write_text("")
    assert existing_folder(tmp_path, "--data") == tmp_path
    with pytest.raises(UserError, match=r"--data .*nowhere: does not exist"):
        existing_folder(tmp_path / "nowhere", "--data")
    with pytest.raises(UserError, match=r"--data .*file: is a file, not a folder"):
        existing_folder(tmp_path / "file", "--data")


def test_cache_follows_its_variables(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/cache")
    monkeypatch.delenv("SDCXR_CACHE", raising=False)
    assert user_cache() == Path("/scratch/cache/sdcxr") / __version__
    monkeypatch.setenv("SDCXR_CACHE", "/scratch/own")
    assert user_cache() == Path("/scratch/own") / __version__
    monkeypatch.delenv("SDCXR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert user_cache() == Path.home() / ".cache" / "sdcxr" / __version__
