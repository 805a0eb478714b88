"""Signals."""

import os
import signal

import pytest

from sdcxr.runtime.signals import KINDS, REQUEUE, Signals, exit_code, leaving


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_the_first_signal_is_kept_and_has_an_exit_code(kind, code):
    with Signals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), kind)
        assert signals.received == kind
    assert exit_code(kind) == code and REQUEUE == 75


def test_a_scheduler_that_becomes_urgent_does_not_end_the_process():
    """SLURM sends SIGTERM some time after the SIGUSR1 that a job asked for."""
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGUSR1


def test_a_second_ctrl_c_acts_as_ever():
    with pytest.raises(KeyboardInterrupt), Signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_the_old_handlers_are_back():
    before = [signal.getsignal(kind) for kind in KINDS]
    with Signals():
        assert [signal.getsignal(kind) for kind in KINDS] != before
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(kind) for kind in KINDS] == before


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1])
def test_before_and_after_the_steps_a_scheduler_ends_the_process_at_once(kind, capfd):
    before, cleaned = signal.getsignal(kind), False
    with pytest.raises(SystemExit) as left, leaving():
        with Signals() as signals:
            os.kill(os.getpid(), kind)
        assert signals.received == kind
        try:
            os.kill(os.getpid(), kind)
        finally:
            cleaned = True
    assert left.value.code == REQUEUE and cleaned
    assert f"stopped by {kind.name}: run the same command again to resume" in capfd.readouterr().err
    assert signal.getsignal(kind) == before
