"""A short campaign of damaged files. ``make fuzz`` tries 23,000, with drawn seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fuzz import seeds
from tests.fuzz.campaign import GOOD, Campaign, Kind
from tests.fuzz.mutate import mutate


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    """One process for all of them, as long as none kills it."""
    opened = Campaign()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("kind", "count"), [("images", 160), ("documents", 48), ("manifests", 240)]
)
def test_damaged_files_end_as_rows(kind: Kind, count: int, campaign: Campaign) -> None:
    """A row for each file or page, answerable or with a known code; a manifest loses no row."""
    *_, outcome = campaign.play(kind, 1, count)
    print(f"python -m tests.fuzz --seed 1: {outcome}")
    assert outcome.problems == []
    assert outcome.num_files == count
    assert len(outcome.codes) > 1, "nothing was damaged"


@pytest.mark.parametrize("kind", list(GOOD))
def test_the_files_that_get_damaged_are_good(kind: Kind, campaign: Campaign) -> None:
    """Else the campaign would try nothing but how the first byte is refused."""
    for name, body in GOOD[kind]().items():
        outcome = campaign.try_one(kind, name, body)
        assert outcome.problems == []
        assert set(outcome.codes) == {""}, name
        assert not outcome.num_refused, name


def test_a_seed_gives_the_same_file() -> None:
    """A finding can be made again."""
    good = sorted(seeds.pictures().values())
    one, two, three = (mutate(good[0], random.Random(seed), others=good) for seed in (7, 7, 8))
    assert one == two != three
