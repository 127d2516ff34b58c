"""The repetition guard: loops end, what pages really hold does not."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsvl_pipeline.engine.schedule.repetition import RepetitionGuard

LIMIT = 256


def stops_at(ids: list[int], limit: int = LIMIT) -> int | None:
    """Return how many tokens it took until the completion was ended."""
    guard = RepetitionGuard(limit)
    return next((n for n, token_id in enumerate(ids, start=1) if guard.push(token_id)), None)


def words(num_tokens: int, seed: int = 0) -> list[int]:
    """Text that does not repeat itself."""
    return random.Random(seed).choices(range(3000), k=num_tokens)


@pytest.mark.parametrize("period", [1, 2, 5, 15, 16, 17, 40, 63, 64])
@pytest.mark.parametrize("num_before", [0, 7, 500])
def test_a_loop_is_ended(period: int, num_before: int) -> None:
    """From one token to a sentence or two, at the start or late."""
    ids = words(num_before) + words(period, seed=period) * 300
    needed = max(LIMIT if period < 16 else LIMIT // 2, 4 * period)
    stopped = stops_at(ids)
    assert stopped is not None
    assert stopped >= num_before + needed
    assert stopped < num_before + needed + 16


def test_a_loop_with_loops_in_it_is_ended() -> None:
    """Rows of a table that holds a rule: neither the dashes nor a part of the row is the period."""
    row = [5] * 20 + [6, 7, 5, 5, 8]
    assert stops_at(words(50) + row * 20) is not None


@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.lists(st.integers(0, 2), min_size=1, max_size=64),
)
def test_every_loop_is_found(before: list[int], loop: list[int]) -> None:
    """With three different tokens, texts begin like their loops and have loops inside."""
    ids = (before + loop * 300)[: len(before) + 300 + 16]
    assert stops_at(ids) is not None


@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.lists(st.integers(0, 2), min_size=1, max_size=64),
    st.integers(0, 300),
)
def test_one_round_of_the_loop_is_kept(before: list[int], loop: list[int], seed: int) -> None:
    """What is cut repeats what is kept, token by token, and nothing else."""
    guard, ids = RepetitionGuard(LIMIT), words(seed % 50, seed) + before + loop * 300
    stopped = next(n for n, token_id in enumerate(ids, start=1) if guard.push(token_id))
    kept = ids[: guard.num_kept]
    periods = range(1, len(kept) + 1)
    assert any((kept + kept[-p:] * stopped)[:stopped] == ids[:stopped] for p in periods)
    assert guard.num_kept <= stopped - LIMIT // 2 + 64


def joined(pieces: Iterable[list[int]]) -> list[int]:
    """Write one after the other."""
    return list(chain.from_iterable(pieces))


LEGITIMATE = {
    "a rule of dashes": [9] * 120,
    "dotted leaders": joined([*words(6, seed), *[7] * 60, 3] for seed in range(40)),
    "a table of zeros": [4, 5] * 100,
    "rows that differ in a number": joined([1, 2, n, 3, 4, 5, 6, 7, 1] for n in range(200)),
    "a line said three times": words(60) * 3,
    "a short refrain": joined(words(50, seed) + words(30, 99) * 2 for seed in range(20)),
    "a form's empty lines": joined([8] * 80 + words(3, seed) for seed in range(30)),
}


@pytest.mark.parametrize("what", LEGITIMATE)
def test_what_pages_hold_is_no_loop(what: str) -> None:
    """A false alarm costs the rest of the page."""
    text = words(100) + LEGITIMATE[what] + words(100, seed=5)
    assert stops_at(text) is None


def test_a_loop_that_ends_by_itself_is_forgotten() -> None:
    """Only a loop that is still going on is a reason to stop."""
    assert stops_at([3] * (LIMIT - 1) + words(40) + [3] * (LIMIT - 20) + words(3)) is None


def test_the_limit_is_the_jobs() -> None:
    """A job of empty forms may allow more, one of captions less."""
    ids = words(10) + [1, 2, 3] * 1000
    assert stops_at(ids, 1000) == 1024
    assert stops_at(ids, 48) == 64


def test_a_token_costs_microseconds() -> None:
    """It is paid for each token of every running row, between two steps of the GPU."""
    # Nearly a loop: one that is ends its row, and nothing more is pushed.
    ids = [token_id for n in range(2000) for token_id in (1, 2, n * n % 101, 1)]

    def cost_s() -> float:
        guard = RepetitionGuard(LIMIT)
        begun_s = time.thread_time()  # other threads of the tests' process may be at work
        for token_id in ids:
            assert not guard.push(token_id)
        return time.thread_time() - begun_s

    assert min(cost_s() for _ in range(5)) < len(ids) * 20e-6  # measured: under 1
