"""How long a run waits for its store."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dsvl_pipeline.errors import AccessError, StorageError
from dsvl_pipeline.store import retry
from dsvl_pipeline.store.retry import with_retries


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let waiting take no time; the waits are kept."""
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: sum(waits))
    return waits


def failing(error: StorageError, times: int) -> Callable[[], str]:
    """Something that fails so often, then succeeds."""
    errors = iter([error] * times)

    def do() -> str:
        for one in errors:
            raise one
        return "done"

    return do


def test_a_store_that_comes_back_is_waited_for(clock: list[float]) -> None:
    """With longer and longer waits, none of them above half a minute."""
    do = failing(StorageError("gave up"), 9)
    assert with_retries(do, uri="s3://b/t", timeout_s=300) == "done"
    assert len(clock) == 9
    assert 0.5 <= clock[0] <= 1
    assert 15 <= clock[-1] <= 30


def test_a_store_that_stays_away_ends_the_run(clock: list[float]) -> None:
    """With its own message."""
    with pytest.raises(StorageError, match="gave up"):
        with_retries(failing(StorageError("gave up"), 999), uri="s3://b/t", timeout_s=300)
    assert 200 < sum(clock) <= 300


@pytest.mark.parametrize(
    ("error", "uri"),
    [(AccessError("no such bucket"), "s3://b/t"), (StorageError("No space left"), "/data/t")],
)
def test_what_waiting_does_not_mend_is_told_at_once(
    clock: list[float], error: StorageError, uri: str
) -> None:
    """Wrong credentials and a full disk."""
    with pytest.raises(StorageError):
        with_retries(failing(error, 1), uri=uri, timeout_s=300)
    assert clock == []


def test_a_signal_ends_the_waiting() -> None:
    """Nobody who pressed Ctrl-C waits for a store."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(StorageError):
        with_retries(failing(StorageError("x"), 1), uri="s3://b/t", timeout_s=300, stop=stop)
