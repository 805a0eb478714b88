"""Worker processes that leave Ctrl-C to their parent and end when it is gone, and progress bars."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from tqdm import tqdm

from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import available_cores

Result = TypeVar("Result")


def in_workers(
    function: Callable[..., Result], *columns: Sequence[Any], workers: int, chunksize: int = 8
) -> Iterator[Result]:
    """`function` of the first of each column, of the second of each, and so on, as `map` has it; in that order.

    Args:
        function: a function of a module, or a `partial` of one.
        columns: its arguments, as many of each.
        workers: processes; 1 works in this one, 0 takes every core that this process may use.
        chunksize: how many calls a worker is handed at once.

    Raises:
        UserError: a worker was killed.
    """
    workers = min(workers or available_cores(), len(columns[0]))
    if workers <= 1:
        yield from map(function, *columns)
        return
    # Spawned, not forked: pandas has started threads by now.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as executor:
            # Workers start in `map` and inherit the mask: Ctrl-C is the parent's to answer.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                results = executor.map(function, *columns, chunksize=chunksize)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            yield from results  # which drops, also on Ctrl-C, what no worker has begun
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, probably for want of memory: run the same command with fewer --workers"
        ) from None


def _end_with_parent() -> None:
    """In a worker: end when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def progress(total: int | None, what: str, unit: str) -> tqdm:
    """A progress bar with the time left on stderr; in a log file a line every half minute."""
    interval_s = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc=what, unit=unit, mininterval=interval_s, maxinterval=max(10.0, interval_s))
