"""Ctrl-C and SIGTERM: at once while planning, in order while rows are on their way."""

from __future__ import annotations

import os
import signal
import time

import pytest

from dsvl_pipeline.errors import RunStoppedError
from dsvl_pipeline.run.signals import stop_on_signals


def send_and_wait(number: int) -> None:
    """Send this process a signal in the middle of something long."""
    os.kill(os.getpid(), number)
    time.sleep(20)


def test_a_signal_ends_the_planning_at_once() -> None:
    """A pod that waits for the lease of another has half a minute to go."""
    before = signal.getsignal(signal.SIGTERM)
    begun = time.monotonic()
    with stop_on_signals() as stop:
        with pytest.raises(RunStoppedError, match="while planning"):
            send_and_wait(signal.SIGTERM)
        assert stop.is_set()
    assert time.monotonic() - begun < 10
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_lets_a_run_commit_and_the_second_does_not() -> None:
    """What is complete is worth some seconds, unless somebody presses Ctrl-C again."""
    with stop_on_signals() as stop:
        stop.is_abrupt = False
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        with pytest.raises(KeyboardInterrupt):
            send_and_wait(signal.SIGINT)
