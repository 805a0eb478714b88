"""How many cores there are, and how many threads torch uses for training and sampling without a GPU."""

import os


def available_cores() -> int:
    """How many cores this process may use, which under SLURM or in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Undo `accelerate launch`'s OMP_NUM_THREADS=1, which it sets where nothing was asked for.

    The cores that this process may use are shared with the other local ones. MKL_NUM_THREADS, or any OMP_NUM_THREADS
    but 1, is taken as the user's word and left alone.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if not launched or os.environ.get("OMP_NUM_THREADS") != "1" or "MKL_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
