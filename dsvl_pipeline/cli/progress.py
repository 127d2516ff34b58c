"""How a run is going: a live line on a terminal, one line of JSON a minute in a log.

Both go to standard error, so that standard output holds only results; with ``--quiet`` nowhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from dsvl_pipeline.cli.output import Output, raw, safe_streams
from dsvl_pipeline.cli.summary import figures
from dsvl_pipeline.wording import amount, duration

if TYPE_CHECKING:
    from dsvl_pipeline.run.progress import Progress
    from dsvl_pipeline.run.summary import RunSummary

LINE_EVERY_S = 60.0


@contextmanager
def display(output: Output, stream: TextIO | None = None) -> Iterator[Callable[[Progress], None]]:
    """Give the function to call with each `Progress`; leaving the context ends the display."""
    stream = stream or sys.stderr
    if output.is_quiet:
        yield lambda _progress: None
        return
    with _live(stream) if raw(stream).isatty() else log(stream) as show:
        yield show


def log_summary(result: RunSummary, output: Output) -> None:
    """Write how a run ended as a line of JSON, where progress goes to a log."""
    if output.is_quiet or raw(sys.stderr).isatty():
        return
    message = f"{amount(result.rows_new, 'row')} answered in {duration(result.seconds)}"
    _write(sys.stderr, "summary", message, figures(result))


def _write(stream: TextIO, event: str, message: str, values: dict[str, Any]) -> None:
    """Write one event on one line; log collectors know ``time`` and ``message``."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
    line = {"time": now, "event": event, "message": message, **rounded}
    print(json.dumps(line), file=stream, flush=True)


@contextmanager
def log(
    stream: TextIO, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Progress], None]]:
    """Write a line of JSON at the start, one a minute, and one at the end."""
    unwritten: Progress | None = None
    due = clock()

    def write(progress: Progress) -> None:
        _write(stream, "progress", progress.describe(), asdict(progress))

    def show(progress: Progress) -> None:
        nonlocal unwritten, due
        unwritten = progress
        if clock() >= due:
            write(progress)
            unwritten, due = None, clock() + LINE_EVERY_S

    try:
        yield show
    finally:
        if unwritten is not None:
            write(unwritten)


@contextmanager
def _live(stream: TextIO) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    # Of ASCII, for terminals that have nothing else.
    columns = (SpinnerColumn("line"), BarColumn(bar_width=24), TextColumn("{task.description}"))
    # What is printed meanwhile goes through the bar, which shows it above itself as it is.
    with Bar(*columns, console=Console(file=raw(stream))) as bar, safe_streams():
        task = bar.add_task("planning", total=None)  # no total: the bar pulses

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=progress.describe(),
                completed=progress.rows_done,
                total=progress.rows_total if progress.phase == "running" else None,
            )

        yield show
