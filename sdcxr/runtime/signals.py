"""Stops from outside: Ctrl-C, and a scheduler's warning before it takes the machine away."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again
KINDS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


def exit_code(kind: int) -> int:
    """The exit code of a run that a signal has stopped: 130 after Ctrl-C, `REQUEUE` where a scheduler asked."""
    return 128 + kind if kind == signal.SIGINT else REQUEUE


@contextmanager
def leaving() -> Iterator[None]:
    """Inside the block a scheduler's signal ends the process with `REQUEUE`, and half-written files vanish.

    For what comes before the first step and after the last: all of it is whole on the disk or is done again.
    """

    def leave(kind: int, _frame: FrameType | None) -> None:
        os.write(2, f"\nstopped by {signal.Signals(kind).name}: the same command again goes on\n".encode())
        sys.exit(REQUEUE)

    old = {kind: signal.signal(kind, leave) for kind in KINDS if kind != signal.SIGINT}
    try:
        yield
    finally:
        for kind, handler in old.items():
            signal.signal(kind, handler)


class Signals:
    """Keeps the first signal of `KINDS` in `received` (0 before); a second Ctrl-C acts as it would without this."""

    received = 0

    def __enter__(self) -> "Signals":
        self.old = {kind: signal.signal(kind, self._receive) for kind in KINDS}
        return self

    def _receive(self, kind: int, _frame: FrameType | None) -> None:
        self.received = self.received or kind
        signal.signal(signal.SIGINT, self.old[signal.SIGINT])

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each, handler in self.old.items():
            signal.signal(each, handler)
