"""Memory of this process."""

import ctypes
import gc
import sys


def release_memory() -> None:
    """Give what Python has freed back to the system. glibc keeps it otherwise: 150 MB after imports and caching."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not every C library has it
        if trim is not None:
            trim(0)
