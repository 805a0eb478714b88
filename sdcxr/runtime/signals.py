"""Signal handling: Ctrl-C, and the SIGTERM or SIGUSR1 of a scheduler before it stops a job."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: no error, run the same command again
KINDS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


def exit_code(kind: int) -> int:
    """Exit code of a run that a signal stopped: 130 after Ctrl-C, `REQUEUE` after a scheduler's signal."""
    return 128 + kind if kind == signal.SIGINT else REQUEUE


@contextmanager
def leaving() -> Iterator[None]:
    """Inside the block, a scheduler's signal ends the process with `REQUEUE`; incomplete files are removed.

    For the work before the first training step and after the last, each part of which is complete on disk or repeated.
    """

    def leave(kind: int, _frame: FrameType | None) -> None:
        os.write(2, f"\nstopped by {signal.Signals(kind).name}: run the same command again to resume\n".encode())
        sys.exit(REQUEUE)

    old = {kind: signal.signal(kind, leave) for kind in KINDS if kind != signal.SIGINT}
    try:
        yield
    finally:
        for kind, handler in old.items():
            signal.signal(kind, handler)


class Signals:
    """Inside the block, stores the first signal of `KINDS` in `received` (0: none); a second Ctrl-C acts as usual.

    Args:
        more: further kinds.
    """

    received = 0

    def __init__(self, *more: signal.Signals):
        self.kinds = (*KINDS, *more)

    def __enter__(self) -> "Signals":
        self.old = {kind: signal.signal(kind, self._receive) for kind in self.kinds}
        return self

    def _receive(self, kind: int, _frame: FrameType | None) -> None:
        self.received = self.received or kind
        signal.signal(signal.SIGINT, self.old[signal.SIGINT])

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each, handler in self.old.items():
            signal.signal(each, handler)
