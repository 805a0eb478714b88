"""Files are known by content, and only those that changed are read."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from sdcxr.io import content_hash
from sdcxr.io.content_hash import file_digests


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{i}.png" for i in range(7)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * 100)
    return files


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files that are read."""
    names: list[str] = []
    real = content_hash._digest
    monkeypatch.setattr(content_hash, "_digest", lambda path: names.append(path.name) or real(path))
    monkeypatch.setattr(content_hash, "CHUNK", 2)
    return names


def test_digests_are_those_of_the_contents_in_order(paths):
    assert [bytes(row) for row in file_digests(paths)] == [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    assert file_digests([]).shape == (0, 32)


def test_a_second_call_reads_what_changed_and_nothing_else(paths, read):
    before = file_digests(paths)
    assert sorted(read) == sorted(path.name for path in paths)
    read.clear()
    np.testing.assert_array_equal(file_digests(paths), before)
    assert read == []
    stat = paths[3].stat()
    paths[3].write_bytes(b"x" * 100)  # of the same size, and with the old time
    os.utime(paths[3], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = file_digests(paths)
    assert read == ["3.png"]
    assert [i for i in range(7) if (after[i] != before[i]).any()] == [3]


def test_a_damaged_or_unwritable_memory_only_costs_time(paths, read, monkeypatch, tmp_path):
    monkeypatch.setenv("SDCXR_CACHE", str(tmp_path / "cache"))
    before = file_digests(paths)
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(b"{")
    np.testing.assert_array_equal(file_digests(paths), before)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDCXR_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(file_digests(paths), before)
    assert len(read) == 3 * 7


def test_a_missing_file_is_named(paths, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        file_digests([*paths, tmp_path / "gone.png"])
    assert missing.value.filename == str(tmp_path / "gone.png")
