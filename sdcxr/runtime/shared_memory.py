"""DataLoaders that end with one line, instead of waiting forever, where shared memory (/dev/shm) is small.

Workers hand over their batches in shared memory. A batch that does not fit is lost in the worker's feeder thread, and
the main process waits for it forever. Docker gives a container 64 MB unless --shm-size says more.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path("/dev/shm")  # absent where the system has no such limit
SHARE = 0.9  # of what is free
TIMEOUT_S = 900  # for a single batch
ADVICE = "give more (docker run --shm-size=8g, or --ipc=host)"
LOST = ("DataLoader timed out", "DataLoader worker")  # how the errors of torch's DataLoader begin


def free_bytes(folder: Path = FOLDER) -> int | None:
    """Free shared memory in bytes; None where it is not limited by a folder."""
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize


def workers_that_fit(workers: int, prefetch: int, batch_bytes: int, free: int | None, processes: int = 1) -> int:
    """How many of `workers` can hold their batches in shared memory.

    Args:
        workers: wanted, in each process.
        prefetch: batches that a worker prepares ahead.
        batch_bytes: size of a batch.
        free: free shared memory in bytes; None: no limit.
        processes: processes that share it.
    """
    if free is None or not batch_bytes:
        return workers
    batches = int(SHARE * free / processes) // batch_bytes
    return max(0, min(workers, (batches - 1) // prefetch))  # one more batch is in use


def data_loader(dataset: Any, *, workers: int, prefetch: int, batch_bytes: Callable[[], int], **options: Any) -> Any:
    """A torch DataLoader with as many workers as fit into shared memory; fewer than wanted are a warning.

    Args:
        dataset: of torch.
        workers: wanted worker processes; 0: none.
        prefetch: batches that a worker prepares ahead.
        batch_bytes: size of a batch; asked for where there are workers.
        options: of the DataLoader, such as its sampler.

    Returns:
        The DataLoader. Its error about a worker that was killed, or gave no batch for `TIMEOUT_S`, may come at any
        moment; `explain_lost_batch` knows it.
    """
    from torch.utils.data import DataLoader

    fitting = workers
    if workers and (free := free_bytes()) is not None:
        size = batch_bytes()
        fitting = workers_that_fit(workers, prefetch, size, free, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        if fitting < workers and os.environ.get("RANK", "0") == "0":
            print(
                f"warning: /dev/shm has {free / 1e6:,.0f} MB free and a batch has {size / 1e6:,.0f} MB: {fitting} "
                f"instead of {workers} worker processes read ahead, which is slower: {ADVICE}",
                file=sys.stderr,
            )
    if fitting:
        options |= {"prefetch_factor": prefetch, "timeout": TIMEOUT_S}
    return DataLoader(dataset, num_workers=fitting, **options)


def explain_lost_batch(error: Exception) -> str | None:
    """One line about a worker of a DataLoader that was killed or gave no batch; None for other errors."""
    told = str(error).partition("\n")[0].partition(". It is ")[0].rstrip(".")
    if not isinstance(error, RuntimeError) or not told.startswith(LOST):
        return None
    return f"reading ahead failed ({told}): /dev/shm or the memory is too small, or the disk does not answer: {ADVICE}"


def n_bytes(value: Any) -> int:
    """Bytes of the arrays and tensors in a value, also in dicts, lists and tuples."""
    if isinstance(value, dict):
        return sum(map(n_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(n_bytes, value))
    return int(getattr(value, "nbytes", 0))
