"""Parallel map in worker processes, which leave Ctrl-C to their parent and end with it; progress bars."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Parallel `map(function, *columns)`; yields the results in order.

    Args:
        function: a module-level function, or a `partial` of one.
        columns: its arguments, all of one length.
        workers: number of processes; 1 computes in this one, 0 takes every core available to this process.
        chunksize: number of calls that a worker gets at a time.

    Raises:
        UserError: a worker was killed.
    """
    workers = min(workers or available_cores(), len(columns[0]))
    if workers <= 1:
        yield from map(function, *columns)
        return
    # Spawned, not forked: pandas has started threads, and forking them can deadlock.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as executor:
            # Workers start in `map` and inherit the mask, so that only the parent handles Ctrl-C.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                results = executor.map(function, *columns, chunksize=chunksize)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            yield from results  # closing it, also by Ctrl-C, cancels the calls that have not started
    except BrokenProcessPool:
        raise UserError("a worker was killed, probably out of memory: run again with fewer --workers") from None


def _end_with_parent() -> None:
    """In a worker: exit when the parent process has ended, killed included."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def progress(total: int | None, what: str, unit: str, items: Iterable[Any] | None = None) -> tqdm:
    """A progress bar on stderr with the remaining time; in a log file, one line every 30 seconds.

    Iterate over it to advance with `items`, or call its `update`.
    """
    interval_s = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(items, total=total, desc=what, unit=unit, mininterval=interval_s, maxinterval=max(10.0, interval_s))
