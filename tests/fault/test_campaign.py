"""The short campaign. ``make fault`` plays hundreds of runs, with all faults and drawn seeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fault.campaign import Campaign, open_campaign
from tests.fault.faults import FAULTS, missing

SEED = 1
SHORT = (
    "small_store_faults",
    "kill_engines",
    "kill_driver",
    "terminate_driver",
    "kill_node",
    "two_drivers",
    "clock_jumps",
    "full_disk",
)
pytestmark = [pytest.mark.ray, pytest.mark.s3]


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    """One cluster and one S3 server for all of them."""
    with open_campaign() as opened:
        yield opened


# What needs root is left out without it, and not skipped: nothing could be done about it.
@pytest.mark.parametrize("fault", [fault for fault in SHORT if not missing(fault)])
def test_every_row_once_whatever_happens(fault: str, campaign: Campaign) -> None:
    """Through the log, through the plain directory, with the answers of an undisturbed run."""
    store = "s3" if "s3" in FAULTS[fault][1] else "local"
    outcome = campaign.play(fault, SEED, store=store, job="few")
    again = f"--fault {fault} --seed {SEED} --store {store} --job few --runs 1"
    print(f"python -m tests.fault {again}: {outcome}")
    assert outcome.problem is None, outcome.problem
