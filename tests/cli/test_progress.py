"""The line that tells how a run is going."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from dsvl_pipeline.cli import progress
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.run.progress import Progress


def at(**changes: Any) -> Progress:
    """Give a progress in the middle of a run."""
    usual: dict[str, Any] = {
        "phase": "running",
        "rows_done": 1200,
        "rows_failed": 3,
        "rows_total": 5000,
        "is_total_exact": True,
        "rows_per_s": 14.26,
        "eta_s": 266.0,
        "elapsed_s": 90.0,
    }
    return Progress(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "1,200 of 5,000 rows, 3 failed, 14.3 rows/s, 4 min 26 s left"),
        (
            {"is_total_exact": False, "eta_s": None},
            "1,200 of at least 5,000 rows, 3 failed, 14.3 rows/s",
        ),
        (
            {"rows_done": 16, "rows_per_s": 0.0, "eta_s": None},
            "16 of 5,000 rows, 3 failed",
        ),
        (
            {"engine": {"new_tokens": 9000.0, "up_s": 60.0, "engines": 2.0}},
            "1,200 of 5,000 rows, 3 failed, 14.3 rows/s, 150 tokens/s per engine, 4 min 26 s left",
        ),
        ({"phase": "committing"}, "1,200 of 5,000 rows, 3 failed, 14.3 rows/s, committing"),
        ({"phase": "planning", "elapsed_s": 7}, "planning, 7 s"),
        ({"phase": "starting", "elapsed_s": 65}, "starting, 1 min 5 s"),
    ],
)
def test_a_progress_in_words(changes: dict[str, Any], words: str) -> None:
    """Rows done, failed, rows/s and what is left; a lower bound is called one."""
    assert at(**changes).describe() == words


def lines_of(stream: io.StringIO) -> list[str]:
    """Give what the lines of JSON say in words."""
    return [json.loads(line)["message"] for line in stream.getvalue().splitlines()]


def test_a_line_of_a_log_is_json_with_every_figure() -> None:
    """Log collectors take the fields, people read the message."""
    stream = io.StringIO()
    with progress.log(stream) as show:
        show(at(engine={"new_tokens": 9000.0, "up_s": 60.0}, rows_per_s=14.26789))
    (line,) = stream.getvalue().splitlines()
    values = json.loads(line)
    assert values["event"] == "progress"
    assert datetime.fromisoformat(values["time"]).tzinfo is not None
    assert (values["phase"], values["rows_done"], values["rows_per_s"]) == ("running", 1200, 14.268)
    assert values["engine"]["new_tokens"] == 9000
    assert values["message"].startswith("1,200 of 5,000 rows, 3 failed, 14.3 rows/s")


def test_a_log_gets_a_line_at_the_start_one_a_minute_and_one_at_the_end() -> None:
    """Ten calls a second for three minutes must not be 1,800 lines."""
    now = 0.0
    stream = io.StringIO()
    with progress.log(stream, clock=lambda: now) as show:
        show(at(phase="planning", elapsed_s=0))
        for tenth in range(1, 1801):
            now = tenth / 10
            show(at(rows_done=tenth))
    assert [line.split(",")[0] for line in lines_of(stream)] == [
        "planning",
        "600 of 5",
        "1",
        "1",
    ]
    assert lines_of(stream)[-1].startswith("1,800 of 5,000 rows")


def test_a_log_gets_its_last_line_also_when_the_run_fails() -> None:
    """How far it came is what one wants to know then."""
    stream = io.StringIO()

    def failing(show: Callable[[Progress], None]) -> None:
        show(at(phase="planning"))
        show(at(rows_done=7))
        raise RuntimeError

    with pytest.raises(RuntimeError), progress.log(stream) as show:
        failing(show)
    assert lines_of(stream)[-1].startswith("7 of 5,000 rows")


def test_no_line_is_written_twice() -> None:
    """A run that fails while planning has one progress, which is start and end."""
    stream = io.StringIO()
    with progress.log(stream) as show:
        show(at())
    assert len(lines_of(stream)) == 1


def test_a_run_that_ends_before_its_first_progress_writes_nothing() -> None:
    """A wrong job file is told in one message, not two."""
    stream = io.StringIO()
    with progress.log(stream):
        pass
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn over itself, so the numbers appear after a carriage return or cursor movement."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with progress.display(Output(), stream) as show:
        show(at(phase="planning"))
        show(at())
    assert "1,200 of 5,000 rows, 3 failed, 14.3 rows/s, 4 min 26 s left" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_a_log_file_gets_plain_lines() -> None:
    """No control codes off a terminal."""
    stream = io.StringIO()
    with progress.display(Output(), stream) as show:
        show(at(phase="planning"))
        show(at())
    assert "\x1b" not in stream.getvalue()
    assert len(lines_of(stream)) == 2
