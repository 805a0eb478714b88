"""Memory of this process."""

import sys

import pytest

from sdcxr.runtime.memory import release_memory


def resident() -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory so")
def test_freed_memory_goes_back_to_the_system():
    small = [bytes(2000) for _ in range(50_000)]  # 100 MB in pieces that are not mapped one by one
    top = bytes(2000)  # above them, so that the heap cannot shrink by itself
    before = resident()
    small.clear()
    release_memory()
    assert resident() < before - 60_000_000
    assert len(top) == 2000


def test_other_systems_are_not_asked_for_glibc_s_function(monkeypatch):
    looked_up = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", looked_up.append)
    release_memory()
    assert looked_up == []
