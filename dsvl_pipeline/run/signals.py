"""Ctrl-C and SIGTERM as an orderly stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from dsvl_pipeline.cluster.connect import STOPPING_SIGNALS, kept_handlers
from dsvl_pipeline.errors import RunStoppedError


class Stop(threading.Event):
    """Set by Ctrl-C and SIGTERM.

    Attributes:
        is_abrupt: Whether they also end what the main thread does, be it a wait for another
            driver or for a cluster: while nothing has been answered there is nothing to commit.
    """

    is_abrupt = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yield an event that Ctrl-C and SIGTERM set; the second Ctrl-C interrupts at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            # What ends a whole group of processes may send SIGTERM to each, and its parent again.
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        stop.set()
        if stop.is_abrupt:
            raise RunStoppedError("stopped by a signal while planning; nothing was started")

    with kept_handlers():
        for number in STOPPING_SIGNALS:
            signal.signal(number, on_signal)
        yield stop
