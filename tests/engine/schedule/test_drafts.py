"""Drafts: never a different text, fewer steps where they fit, off where they do not."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsvl_pipeline.engine.schedule import drafts
from dsvl_pipeline.engine.schedule.drafts import MOST_LOST, VERIFY_COST, Draft

LIMIT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What decoding with a draft gave, and took."""

    completion: list[int]
    num_steps: int
    num_proposed: int
    off_after: int | None  # steps

    @property
    def cost(self) -> float:
        """In plain decode steps, by the cost rule."""
        return self.num_steps + VERIFY_COST * self.num_proposed


def decode(target: Sequence[int], draft_ids: Sequence[int], *, limit: int = LIMIT) -> Decoded:
    """Decode as an engine does whose model says ``target``, verifying what the draft proposes."""
    draft = Draft(np.array(draft_ids, dtype=np.int32))
    completion = np.empty(len(target), dtype=np.int32)
    length, num_steps, num_proposed, off_after = 0, 0, 0, None
    while length < len(target):
        proposed = draft.propose(completion[:length], limit)
        assert len(proposed) <= limit
        # The model's own token follows the accepted ones, so the last one is never a proposal's.
        room = len(target) - 1 - length
        accepted = 0
        while accepted < min(len(proposed), room) and proposed[accepted] == target[length]:
            completion[length] = proposed[accepted]
            length, accepted = length + 1, accepted + 1
        completion[length] = target[length]
        length += 1
        draft.note(min(len(proposed), room), accepted)
        num_steps, num_proposed = num_steps + 1, num_proposed + len(proposed)
        if off_after is None and not draft.is_active:
            off_after = num_steps
    return Decoded(
        completion=completion.tolist(),
        num_steps=num_steps,
        num_proposed=num_proposed,
        off_after=off_after,
    )


def text(num_tokens: int, seed: int, vocabulary: int = 5000) -> list[int]:
    """Tokens as frequent as words are: the few common ones make many places look alike."""
    weights = [1 / (rank + 2) for rank in range(vocabulary)]
    return random.Random(seed).choices(range(vocabulary), weights, k=num_tokens)


def spoilt(target: list[int], kinds: str, rate: float = 0.1) -> list[int]:
    """The text as a poor OCR has it: tokens replaced, left out (of the draft), put in."""
    rng = random.Random(0)
    noise = text(1000, seed=99)
    out: list[int] = []
    for token_id in target:
        kind = rng.choice(kinds) if rng.random() < rate else ""
        out += {"": [token_id], "r": [rng.choice(noise)], "l": [], "p": [rng.choice(noise)]}[kind]
        if kind == "p":
            out.append(token_id)
    return out


few_tokens = st.lists(st.integers(0, 3), max_size=60)


@given(target=few_tokens, draft_ids=few_tokens, limit=st.integers(0, 9))
def test_any_draft_gives_the_target(target: list[int], draft_ids: list[int], limit: int) -> None:
    """The draft is untrusted text: it may cost time, never a token."""
    assert decode(target, draft_ids, limit=limit).completion == target


@given(target=few_tokens, limit=st.integers(0, 9))
def test_a_perfect_draft_needs_the_fewest_steps(target: list[int], limit: int) -> None:
    """A step yields all it proposes and the model's own token, however the text repeats itself."""
    assert decode(target, target, limit=limit).num_steps == -(-len(target) // (limit + 1))


# Without errors 8 proposals give 9 tokens a step; one error in ten tokens leaves at most 5.8.
@pytest.mark.parametrize(
    ("kinds", "fewest_tokens", "least_gain"),
    [("r", 5.2, 2.5), ("p", 5.0, 2.4), ("l", 3.6, 2.0), ("rpl", 4.0, 2.1)],
)
def test_a_draft_with_errors_keeps_most_of_its_gain(
    kinds: str, fewest_tokens: float, least_gain: float
) -> None:
    """Measured: 5.97, 5.60, 4.16 and 5.03 tokens a step; 2.84, 2.71, 2.28 and 2.52 times faster."""
    target = text(2000, seed=1)
    decoded = decode(target, spoilt(target, kinds))
    assert decoded.completion == target
    assert len(target) / decoded.num_steps > fewest_tokens
    assert len(target) / decoded.cost > least_gain


def test_the_place_is_found_again_behind_a_gap() -> None:
    """A page has a figure that the text layer lacks, or a footer that the answer leaves out."""
    one, two, extra = text(300, seed=1), text(300, seed=2), text(40, seed=3)
    fewest = -(-600 // (LIMIT + 1))
    assert decode(one + two, one + extra + two).num_steps < fewest + 10
    # What the draft lacks is decoded token by token; the rest is proposed all the same.
    assert decode(one + extra + two, one + two).num_steps < fewest + len(extra) + 10


def test_a_bad_start_does_not_end_a_good_draft() -> None:
    """A page's header is often not in its text layer, and the first proposals are the longest."""
    target = text(600, seed=1)
    decoded = decode(text(6, seed=2) + target, target, limit=15)
    assert decoded.num_steps < 600 / 16 + 20


def test_columns_in_another_order_are_followed() -> None:
    """A text layer has its own idea of the reading order."""
    blocks = [text(200, seed) for seed in range(6)]
    order = [2, 0, 5, 1, 4, 3]
    target = list(chain.from_iterable(blocks))
    draft_ids = list(chain.from_iterable(blocks[i] for i in order))
    assert len(target) / decode(target, draft_ids).num_steps > 7


def test_a_useless_draft_is_off_after_few_steps() -> None:
    """Of these steps only the first few propose anything at all."""
    decoded = decode(text(500, seed=1), text(500, seed=2))
    assert decoded.off_after is not None
    assert decoded.off_after <= 25
    assert decoded.num_proposed <= 20


@given(st.integers(0, 20), st.integers(1, 15))
def test_no_draft_costs_more_than_its_allowance(seed: int, limit: int) -> None:
    """Whatever the draft, at most three decode steps and one gamble are lost on it."""
    target = text(200, seed)
    for draft_ids in (text(200, seed + 1), text(200, seed + 1, 4), spoilt(target, "rpl", 0.6)):
        decoded = decode(target, draft_ids, limit=limit)
        assert decoded.cost <= len(target) + MOST_LOST + limit * VERIFY_COST


def test_a_draft_that_turned_useless_goes() -> None:
    """What it saved at first is no licence for the rest of a long page."""
    start = text(500, seed=1)
    decoded = decode(start + text(1000, seed=2), start + text(1000, seed=3))
    assert decoded.off_after is not None
    assert decoded.off_after <= 500 / LIMIT + 150


def test_proposals_get_shorter_where_they_are_refused() -> None:
    """Each refused token is paid for; long proposals pay only while nearly all are accepted."""
    draft = Draft(np.arange(100, dtype=np.int32))
    nothing = np.empty(0, dtype=np.int32)
    lengths = []
    for _ in range(3):
        lengths.append(len(draft.propose(nothing, 8)))
        draft.note(lengths[-1], lengths[-1] // 2)
    assert lengths[0] == 8
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] <= 5


def test_an_empty_draft_is_off() -> None:
    """A scanned page has no text layer."""
    draft = Draft(np.empty(0, dtype=np.int32))
    assert not draft.is_active
    assert not len(draft.propose(np.array([1], dtype=np.int32), 8))


def test_a_step_costs_the_same_whatever_the_length() -> None:
    """All running rows are asked between two steps of the GPU."""

    def lines_per_step(num_tokens: int) -> float:
        target = text(num_tokens, seed=1)
        draft_ids = spoilt(target, "rpl", 0.2)
        count = 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal count
            if frame.f_code.co_filename != drafts.__file__:
                return None
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            num_steps = decode(target, draft_ids).num_steps
        finally:
            sys.settrace(before)
        return count / num_steps

    # Eight times as long: a loop that grows with the text would show, on any machine.
    assert 0 < lines_per_step(8000) < 2 * lines_per_step(1000)
