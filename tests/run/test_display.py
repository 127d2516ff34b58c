"""What who calls `run_job` sees of it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from dsvl_pipeline.run.display import display
from dsvl_pipeline.run.progress import Progress, Tracker


def test_a_script_gets_a_line_for_each_phase_and_one_in_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On standard error; results may go through a pipe."""
    times = iter([0.0, 1.0, 2.0, 11.5, 11.6, 12.0, 12.1])
    tracker = Tracker(display(lambda: next(times)))
    tracker.show("planning")
    for _ in range(4):
        tracker.show("running")
    tracker.show("committing")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.partition(",")[0] for line in shown.err.splitlines()] == [
        "planning",
        *3 * ["0 of 0 rows"],
    ]


def test_a_notebook_gets_one_line_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell is no log. IPython alone, in a terminal, is no notebook."""
    shown: list[Any] = []
    handle = SimpleNamespace(update=lambda value, raw: shown.append(("update", value, raw)))

    def show(value: object, *, raw: bool, display_id: bool) -> object:
        shown.append(("display", value, raw))
        assert display_id
        return handle

    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=show))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    sink = display()
    sink(Progress(phase="planning"))
    sink(Progress(phase="running", rows_total=2))
    assert [(how, value["text/plain"], raw) for how, value, raw in shown] == [
        ("display", "planning, 0 s", True),
        ("update", "0 of 2 rows, 0 failed", True),
    ]
    assert capsys.readouterr().err == ""
    shell.kernel = None
    display()(Progress(phase="planning"))
    assert capsys.readouterr().err == "planning, 0 s\n"
