"""When a run stops itself."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

from dsvl_pipeline.errors import RunStoppedError
from dsvl_pipeline.run.limits import ErrorLimits, Stall, check_starts
from tests.jobs import fake_job, parse

Part: TypeAlias = tuple[int, int, dict[str, int]]


def part(num_rows: int, **errors: int) -> Part:
    """Rows with so many errors of each code; the others are ok."""
    return num_rows, sum(errors.values()), errors


def limits_of(num_retried: int = 0, **settings: Any) -> ErrorLimits:
    """A job's limits, by default those that nobody set."""
    job = fake_job({"images": "x/*.jpg"}, "out") | {"limits": settings}
    limits = ErrorLimits(parse(job))
    limits.allow(num_retried)
    return limits


def add(limits: ErrorLimits, *parts: Part) -> None:
    """Give parts one after the other, as a run does."""
    for one in parts:
        limits.add(*one)
        limits.check()


def test_a_share_of_the_last_rows_stops_a_run() -> None:
    """What went well at the start does not hide what goes wrong now."""
    limits = limits_of()
    add(limits, *[part(2000)] * 100, *[part(2000, not_found=100)] * 5)
    with pytest.raises(
        RunStoppedError, match=r"501 of the last 10,000 rows failed \(5\.0%"
    ) as told:
        add(limits, part(2000, not_found=101))
    assert "not_found 501" in str(told.value)
    assert "dsvl failures out" in str(told.value)


def test_small_jobs_are_never_stopped() -> None:
    """A trial over 900 rows that all fail ends by itself, and so does a bad day of 9,999 rows."""
    add(limits_of(), *[part(300, not_found=300)] * 3)
    add(limits_of(), part(1), *[part(1999, not_found=1999)] * 5)


def test_one_code_on_everything_stops_a_run_early() -> None:
    """Wrong credentials need no 10,000 rows to be seen; one row that is not so ends the rule."""
    with pytest.raises(
        RunStoppedError, match="all 1,000 rows answered so far failed with 'denied'"
    ):
        add(limits_of(), *[part(500, denied=500)] * 2)
    with pytest.raises(RunStoppedError, match="stopped: the one row answered so far failed"):
        add(limits_of(first_rows=1), part(1, denied=1))
    add(limits_of(), part(500, denied=499), part(5000, denied=5000))
    add(limits_of(), part(500, denied=500), part(5000, gone=5000))
    add(limits_of(first_rows=0), part(2000, denied=2000))


def test_rows_that_failed_before_may_fail_again() -> None:
    """The nightly run that tries 1,200 dead links once more must not stop for them."""
    add(limits_of(num_retried=1200), part(1200, not_found=1200))
    with pytest.raises(RunStoppedError, match="all 2,200"):
        add(limits_of(num_retried=1200), part(2200, not_found=2200))


def test_what_may_fail_again_is_allowed_once() -> None:
    """Not in every window: twenty thousand dead links hide nothing of what comes after them."""
    limits = limits_of(num_retried=20_000)
    add(limits, *[part(2000, not_found=2000)] * 10, *[part(2000)] * 5)
    add(limits, part(2000, denied=600))  # 100 may still be old ones: 2,000 rows before were good
    with pytest.raises(RunStoppedError, match=r"501 of the last 10,000 rows failed"):
        add(limits, *[part(2000)] * 4, part(2000, denied=501))


def test_each_shard_may_repeat_its_own_errors() -> None:
    """New rows that fail as seldom as they may do not use up what later shards are allowed."""
    limits = limits_of()
    for _ in range(5):
        limits.allow(2000)
        add(limits, part(2000, not_found=2000), *[part(2000, denied=40)] * 20)


def test_the_share_is_the_job_s_own_unless_it_says_otherwise() -> None:
    """Who accepts 30 % failed rows is not stopped at 5 %."""
    bad = [part(2000, not_found=500)] * 8
    job = fake_job({"images": "x/*.jpg"}, "out") | {"max_error_fraction": 0.3}
    add(ErrorLimits(parse(job)), *bad)
    job["limits"] = {"stop_above_error_fraction": 0.2}
    with pytest.raises(RunStoppedError, match=r"at most 20\.0% are allowed"):
        add(ErrorLimits(parse(job)), *bad)


def test_nothing_that_moves_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finished row starts the clock anew; the message says what is waited for."""
    now = 0.0
    monkeypatch.setattr("dsvl_pipeline.run.limits.time.monotonic", lambda: now)
    stall = Stall(60)
    now = 50.0
    stall.moved()
    now = 110.0
    stall.check(lambda: "unasked")
    now = 111.0
    with pytest.raises(RunStoppedError, match=r"no row has finished for 61 s .* 2 actors pending"):
        stall.check(lambda: "2 actors pending")


def test_engines_that_only_die_stop_a_run() -> None:
    """A node whose driver is broken would start them for ever."""
    check_starts(16, num_engines=2)
    with pytest.raises(RunStoppedError, match="17 engine processes died"):
        check_starts(17, num_engines=2)
