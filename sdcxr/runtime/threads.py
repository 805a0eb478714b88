"""CPU cores available to this process, and the number of threads that torch uses on CPUs."""

import os


def available_cores() -> int:
    """Number of cores that this process may use: under SLURM or in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Undo OMP_NUM_THREADS=1, which `accelerate launch` sets by default: share the cores among the local ranks.

    MKL_NUM_THREADS, or OMP_NUM_THREADS other than 1, was set by the user and is respected.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if not launched or os.environ.get("OMP_NUM_THREADS") != "1" or "MKL_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
