"""Memory of this process: return freed memory to the system, measure the peak."""

import ctypes
import gc
import re
import resource
import sys
from pathlib import Path


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
