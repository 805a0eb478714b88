"""Memory of this process."""

import errno
import sys

import numpy as np
import pytest
import torch

from sdcxr.runtime.errors import UserError
from sdcxr.runtime.memory import is_out_of_memory, out_of_memory, release_memory

TOO_MUCH = 1 << 50
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


@pytest.mark.parametrize("allocate", [lambda: torch.empty(TOO_MUCH), lambda: np.empty(TOO_MUCH)])
def test_an_allocation_that_fails_is_one_line_with_advice(allocate):
    said = r"^out of memory.*: lower --batch_size \(now 16\)$"
    with pytest.raises(UserError, match=said), out_of_memory("lower --batch_size (now 16)"):
        allocate()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 must have the same dtype"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_which_errors_are_those_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_what_was_asked_for_is_said():
    with pytest.raises(UserError, match=r"another 20\.00 GiB did not fit"), out_of_memory("lower it"):
        raise torch.OutOfMemoryError(CUDA)
    with pytest.raises(UserError, match=r"another 4194304\.00 GiB did not fit"), out_of_memory("lower it"):
        torch.empty(TOO_MUCH)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory("lower it"):
        raise RuntimeError("shapes")


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
