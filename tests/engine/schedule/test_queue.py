"""The order of those that wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dsvl_pipeline.engine.schedule.drafts import Draft
from dsvl_pipeline.records import ImageInput
from tests.engine.schedule.world import World, make_sequence


def test_the_longest_of_a_wave_goes_first_and_no_wave_overtakes_another() -> None:
    """A wave is two for each lane; of one whose draft is shorter, the draft counts."""
    world = World(pages=100, page_size=4, lanes=2, step_tokens=1)
    drafted = make_sequence(2, 2, 9)
    drafted.draft = Draft(np.zeros(3, dtype=np.int32))
    empty = make_sequence(3, 2, 4)  # a page without a text layer may be long
    empty.draft = Draft(np.zeros(0, dtype=np.int32))
    others = {0: 2, 1: 4, 4: 1, 5: 5, 6: 5}
    for number in range(7):
        special = {2: drafted, 3: empty}
        world.add(special.get(number) or make_sequence(number, 2, others[number]))
    waiting = [sequence.number for sequence in world.scheduler.upcoming(9)]
    assert waiting == [1, 3, 2, 0, 5, 6, 4]
    world.step()
    assert world.open[1].lane is not None, "the first one of the order, not of the arrivals"


def test_neighbours_on_the_same_pictures_stay_together() -> None:
    """Else the second prompt could find the first one's pages given away."""
    world = World(pages=100, page_size=4, lanes=8, step_tokens=1)
    for number, (digest, num_new) in enumerate([(b"a", 3), (b"a", 9), (b"b", 5), (b"b", 1)]):
        sequence = make_sequence(number, 2, num_new)
        pixels = np.zeros((1, 1, 3), dtype=np.uint8)
        image = ImageInput(digest=digest, high_res=None, low_res=pixels)
        sequence.request = replace(sequence.request, images=(image,))
        world.add(sequence)
    assert [sequence.number for sequence in world.scheduler.upcoming(9)] == [2, 3, 0, 1]


def test_requests_on_one_picture_without_end_do_not_starve_another() -> None:
    """Neighbours share a place in their wave, and in no other one."""
    world = World(pages=100, page_size=4, lanes=2, step_tokens=100)
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    image = ImageInput(digest=b"a", high_res=None, low_res=pixels)
    for number in range(200):
        sequence = make_sequence(number, 2, 1 if number == 2 else 8)
        if number != 2:
            sequence.request = replace(sequence.request, images=(image,))
        world.add(sequence)
        for _ in range(2 if number > 1 else 0):  # not enough for all that come
            world.step()
        if 2 in world.finished:
            break
    assert number < 20


def test_what_is_preempted_comes_before_longer_ones_of_its_wave() -> None:
    """Each time that it is overtaken, its tokens are computed once more."""
    world = World(pages=6, page_size=2, lanes=4, step_tokens=100, expected=0)
    for number in range(2):
        world.add(make_sequence(number, 3, 7))
    world.step()
    for number in range(2, 5):
        world.add(make_sequence(number, 3, 8))
    while world.scheduler.num_preemptions == 0:
        world.step()
    assert world.scheduler.upcoming(1)[0].number == 1
