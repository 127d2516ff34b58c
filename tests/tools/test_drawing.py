"""What training shows is what it asks for."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from tools.demo_checkpoint import held_out, pages, scenes, text, words
from tools.demo_checkpoint.batches import (
    ANSWER_TOKENS,
    LEVELS,
    NO_TARGET,
    Batches,
    assemble,
    draw,
    encode,
)
from tools.demo_checkpoint.develop import halve
from tools.demo_checkpoint.drawing import CLASS_OF, GRID, SIDE, Drawing
from tools.demo_checkpoint.scoring import edit_distance
from tools.demo_checkpoint.shape import EOS_ID, tokenizer

_NAMES = {index: name for name, index in CLASS_OF.items()}


def a_page(seed: int, num_lines: int = 12) -> Drawing:
    """Draw a page as training does."""
    return pages.page(
        Random(seed), words.TRAINING, num_lines=num_lines, max_chars=32, budget=ANSWER_TOKENS[-1]
    )


def test_equal_seeds_draw_equal_batches() -> None:
    """A training can be repeated, and gone on with, whoever draws."""
    first, again = (Batches(size=3, seed=7, rank=1, first=4, level=lambda: 4)[2] for _ in range(2))
    other_start = Batches(size=3, seed=7, rank=1, first=0, level=lambda: 4)[6]
    other_rank = Batches(size=3, seed=7, rank=0, first=0, level=lambda: 4)[6]
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, other_start[name])
    assert not torch.equal(first["canvas"], other_rank["canvas"])
    assert first["answer"].shape == other_rank["answer"].shape  # none waits for a longer one


@pytest.mark.parametrize("seed", range(20))
def test_lines_are_plain(seed: int) -> None:
    """What the answer cannot tell apart (spaces in a row, at an end) is never written."""
    for line in text.lines(Random(seed), words.TRAINING, count=12, max_chars=32):
        assert 1 <= len(line) <= 32
        assert line == " ".join(line.split())
        assert line.isascii()
        assert line.isprintable()


@pytest.mark.parametrize("seed", range(20))
def test_cells_hold_the_text_in_order(seed: int) -> None:
    """Read row by row, the cells of a page with wide lines give its characters."""
    page = a_page(seed)
    named = [_NAMES[value] for value in page.slots.flatten() if value]
    wanted = page.answer.replace("\n", "")
    assert len(named) >= 0.97 * len(wanted)  # few cells have more than fits
    assert not sorted(set(named) - set(wanted))


@pytest.mark.parametrize("seed", range(20))
def test_ink_lies_where_the_cells_say(seed: int) -> None:
    """A cell that names a character is near ink; without turning, one without has little."""
    page = a_page(seed)
    if not np.array_equal(page.effects.matrix, np.eye(2)):
        return
    ink = (page.canvas > 100).reshape(GRID, SIDE // GRID, GRID, SIDE // GRID).any(axis=(1, 3))
    is_named = (page.slots > CLASS_OF[" "]).any(axis=1).reshape(GRID, GRID)
    assert (ink | ~is_named).all()


def test_scenes_have_the_caption_that_their_groups_spell() -> None:
    """From left to right or from top to bottom, with number, colour and shape."""
    for seed in range(200):
        frame = (0, 60, SIDE, SIDE - 60)
        scene = scenes.random_scene(Random(seed), frame)
        axis = 0 if scene.relation == "left of" else 1
        means = [np.mean([thing.centre[axis] for thing in group.things]) for group in scene.groups]
        assert means == sorted(means)
        assert scene.caption.count(scene.relation) == len(scene.groups) - 1
        for group in scene.groups:
            assert f"{group.colour} {group.shape}" in scene.caption
        assert len(encode(scene.caption)) < ANSWER_TOKENS[0]


def test_shapes_never_touch() -> None:
    """Two that touch could be counted as one."""
    for seed in range(100):
        scene = scenes.random_scene(Random(seed), (0, 0, SIDE, SIDE))
        things = [thing for group in scene.groups for thing in group.things]
        for index, thing in enumerate(things):
            for other in things[:index]:
                gap = np.hypot(*np.subtract(thing.centre, other.centre))
                assert gap > thing.radius + other.radius


def test_answers_are_what_the_tokenizer_gives() -> None:
    """The model must be asked for the ids that decoding understands."""
    random = Random(3)
    for level in LEVELS:
        for bucket, num_tokens in enumerate(ANSWER_TOKENS):
            drawn = [draw(random, level, bucket) for _ in range(4)]
            batch = assemble(drawn, num_tokens)
            for (_, prompt, answer), row in zip(drawn, batch["answer"].tolist(), strict=True):
                ids = tokenizer().encode(answer, add_special_tokens=False).ids
                assert row == [*ids, EOS_ID] + [NO_TARGET] * (num_tokens - len(ids) - 1)
                assert tokenizer().encode(prompt, add_special_tokens=False).ids[0] >= 259


def test_held_out_words_are_never_trained_on() -> None:
    """And there are enough of them."""
    assert not set(words.HELD_OUT) & set(words.TRAINING)
    assert len(words.HELD_OUT) > 100


def test_held_out_pages_are_within_what_is_promised() -> None:
    """Up to 12 lines of up to 32 characters; the same seed gives the same pixels."""
    for seed in range(10):
        image, wanted = held_out.page(seed)
        again, _ = held_out.page(seed)
        assert image.tobytes() == again.tobytes()
        lines = wanted.split("\n")
        assert 1 <= len(lines) <= 12
        assert all(1 <= len(line) <= 32 for line in lines)


def test_halving_is_pillows() -> None:
    """The low-resolution tower sees in training what it sees later.

    Inside, rounding once instead of twice differs by one step at most; at the outermost pixels,
    Pillow leaves out what lies beyond while we repeat the edge.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    resized = Image.fromarray(pixels).resize((SIDE // 2, SIDE // 2), Image.Resampling.BILINEAR)
    ours = halve(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0) * 255
    difference = np.abs(np.asarray(resized, np.int64) - ours.round().numpy())
    assert difference[1:-1, 1:-1].max() <= 1


def test_edit_distance_counts_edits() -> None:
    """Against distances known from textbooks."""
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("same", "same") == 0
