"""Stops from outside: Ctrl-C, and a scheduler's warning before it takes the machine away."""

import signal
from types import FrameType, TracebackType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again
KINDS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


def exit_code(kind: int) -> int:
    """The exit code of a run that a signal has stopped: 130 after Ctrl-C, `REQUEUE` where a scheduler asked."""
    return 128 + kind if kind == signal.SIGINT else REQUEUE


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
