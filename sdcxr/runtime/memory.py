"""Memory of this process: one-line errors where it runs out, return of freed memory to the system, the peak."""

import ctypes
import errno
import gc
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdcxr.runtime.errors import UserError

# What is said in a plain RuntimeError: torch's allocator on CPUs, the C++ library, CUDA outside of torch's, mmap.
ALLOCATION_FAILED = re.compile(
    "DefaultCPUAllocator|std::bad_alloc|CUDA error: out of memory|_STATUS_ALLOC_FAILED|Cannot allocate memory"
)
ASKED = re.compile(r"allocate ([\d.]+ [KMGT]iB)|allocate (\d+) bytes")


@contextmanager
def out_of_memory(advice: str) -> Iterator[None]:
    """Inside the block, an allocation that fails, on a CPU or an accelerator, is a `UserError` that ends with `advice`.

    Args:
        advice: what to lower, with its present value ("lower --batch_size (now 16)").
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory{_asked_for(error)}: {advice}") from None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside the block, no garbage collection: importing torch and diffusers and loading a model is a fifth faster.

    Nearly all of their two million objects stay, and the collector would go through them again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: of Python, numpy, torch on a CPU, or an accelerator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which may be unimported
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(ALLOCATION_FAILED.search(str(error)))


def _asked_for(error: BaseException) -> str:
    found = ASKED.search(str(error))
    return f" (another {found[1] or f'{int(found[2]) / 2**30:.2f} GiB'} did not fit)" if found else ""


def release_memory() -> None:
    """Return freed memory to the system. glibc keeps it otherwise: 150 MB after imports and caching."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not every C library has it
        if trim is not None:
            trim(0)


def peak_resident_bytes() -> int:
    """Peak resident memory of this process so far, in bytes."""
    if sys.platform == "linux":  # where getrusage includes the peak of the parent process
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
