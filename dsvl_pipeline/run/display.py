"""Shows how a run is going to who has called it from Python."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from dsvl_pipeline.run.progress import Progress, ProgressSink

_LINE_EVERY_S = 10.0


def display(clock: Callable[[], float] = time.monotonic) -> ProgressSink:
    """Return what shows a run's progress: a notebook's line that changes, or lines of text.

    The lines go to standard error, one in ten seconds at most, and one for each new phase.
    """
    show = _notebook()
    return _lines(clock) if show is None else _live(show)


def _notebook() -> Callable[..., Any] | None:
    """Return what displays a value in the notebook that runs this; None elsewhere."""
    ipython = sys.modules.get("IPython")  # a kernel has loaded it
    shell = ipython.get_ipython() if ipython is not None else None
    if ipython is None or getattr(shell, "kernel", None) is None:
        return None
    found: Callable[..., Any] = ipython.display.display
    return found


def _live(show: Callable[..., Any]) -> ProgressSink:
    handle: Any = None

    def sink(progress: Progress) -> None:
        nonlocal handle
        shown = {"text/plain": progress.describe()}
        if handle is None:
            handle = show(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    return sink


def _lines(clock: Callable[[], float]) -> ProgressSink:
    due, phase = 0.0, ""

    def sink(progress: Progress) -> None:
        nonlocal due, phase
        if progress.phase != phase or clock() >= due:
            sys.stderr.write(progress.describe() + "\n")
            due, phase = clock() + _LINE_EVERY_S, progress.phase

    return sink
