"""Image features: the image's own, encoded once, and kept as long as somebody needs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dsvl_pipeline.engine.device import features
from dsvl_pipeline.engine.device.features import ImageFeatures
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.records import ImageInput, Request
from tests.checkpoints import (
    HIGH_RES_PX,
    IMAGE_TOKEN_ID,
    LOW_RES_PX,
    NUM_IMAGE_TOKENS,
    write_checkpoint,
)
from tests.engine.scripted import (
    IMAGE_CONFIG,
    ScriptedModel,
    answer,
    expect_short,
    image_request,
    make_core,
    picture,
    run,
)


def asking(seed: int, *, is_hybrid: bool) -> Sequence:
    """A sequence with one random picture of its own."""
    source = np.random.default_rng(seed)
    low_res, high_res = (
        source.integers(0, 256, (side, side, 3), dtype=np.uint8)
        for side in (LOW_RES_PX, HIGH_RES_PX)
    )
    image = ImageInput(
        digest=bytes([seed]), low_res=low_res, high_res=high_res if is_hybrid else None
    )
    prompt_ids = np.full(NUM_IMAGE_TOKENS, IMAGE_TOKEN_ID, dtype=np.int32)
    request = Request(request_id=str(seed), prompt_ids=prompt_ids, images=(image,))
    return Sequence(
        request=request, number=seed, max_tokens=50, stop_ids=frozenset(), submitted_s=0.0
    )


@torch.no_grad()
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("is_hybrid", [True, False], ids=["hybrid", "single"])
def test_an_image_has_the_same_features_whatever_company_it_keeps(
    tmp_path: Path, is_hybrid: bool, num_threads: int
) -> None:
    """To the bit on a CPU, with any number of threads: the same image, the same answer."""
    write_checkpoint(tmp_path, is_hybrid=is_hybrid)
    model: DeepseekVL = load_model(tmp_path, dtype=torch.float32, device="cpu")
    sequences = [asking(seed, is_hybrid=is_hybrid) for seed in range(5)]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        together = ImageFeatures(model, read_image_config(tmp_path))
        together.hold(sequences)
        for sequence in sequences:
            alone = ImageFeatures(model, read_image_config(tmp_path))
            alone.hold([sequence])
            (found,) = together.rows(sequence, 0, NUM_IMAGE_TOKENS)
            (expected,) = alone.rows(sequence, 0, NUM_IMAGE_TOKENS)
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_equal_images_are_encoded_once() -> None:
    """Across sequences of a step, and later on while their features are still kept."""
    model = ScriptedModel()
    core = make_core(model)
    one, two = picture(1), picture(2)
    core.add(image_request("a", one, two, one, max_new_tokens=2), submitted_s=0.0)
    core.add(image_request("b", two, max_new_tokens=2), submitted_s=0.0)
    run(core)
    core.add(image_request("c", two, picture(3), max_new_tokens=2), submitted_s=0.0)
    run(core)
    assert sum(map(len, model.encoded)) == core.stats()["images_encoded"] == 3


def test_features_are_dropped_by_their_last_use() -> None:
    """A job has very many images; what is kept of those that nobody needs must not grow."""
    model = ScriptedModel()
    core = make_core(model, prefix_sharing=False)

    def ask(number: int) -> int:
        request = image_request(f"{len(model.encoded)}", picture(number), max_new_tokens=1)
        answer(core, request)
        return len(model.encoded)

    for number in range(64):
        assert ask(number) == number + 1
    assert ask(0) == 64
    assert ask(64) == 65, "and drops 1, since 0 was used again"
    assert ask(0) == 65
    assert ask(2) == 65
    assert ask(1) == 66


def test_features_of_what_runs_are_kept_however_many_others_pass() -> None:
    """By count: a sequence may show a picture twice, and share it with others."""
    model = ScriptedModel()
    core = make_core(model)
    core.add(image_request("long", picture(0), picture(0), max_new_tokens=300), submitted_s=0.0)
    core.add(image_request("also", picture(0), max_new_tokens=2), submitted_s=0.0)
    for number in range(1, 80):
        core.add(image_request(f"{number}", picture(number), max_new_tokens=1), submitted_s=0.0)
    while core.stats()["sequences_running"] + core.stats()["sequences_waiting"] > 1:
        core.step()
    core.add(image_request("later", picture(0), max_new_tokens=1), submitted_s=0.0)
    core.step()
    assert len(model.encoded) == 80
    run(core)
    entries = core._runner._features._entries
    assert [entry.num_users for entry in entries.values()] == [0] * 64
    assert not core._runner._features._holders


def test_features_are_no_views_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of eight that is still needed would keep the memory of all."""
    monkeypatch.setattr(features, "_IMAGES_PER_PASS_ON_CPU", 8)
    core = make_core()
    images = [picture(number) for number in range(8)]
    core.add(image_request("row", *images, max_new_tokens=1), submitted_s=0.0)
    core.step()
    for entry in core._runner._features._entries.values():
        assert entry.features.untyped_storage().nbytes() == entry.features.nbytes


def test_a_preempted_sequence_keeps_its_image_features() -> None:
    """Vision costs more than the prefill that has to be done again."""
    model = ScriptedModel()
    core = make_core(model, num_pages=8, page_size=2)
    expect_short(core)
    core.add(image_request("a", picture(1), max_new_tokens=9), submitted_s=0.0)
    core.add(image_request("b", picture(2), max_new_tokens=9), submitted_s=0.0)
    run(core)
    assert core.stats()["preemptions"] > 0
    assert len(model.encoded) == 2
    # counted once each, however often it starts again
    assert [e.num_users for e in core._runner._features._entries.values()] == [0, 0]


def test_bytes_are_normalised_as_the_reference_does() -> None:
    """Bit by bit; pixel values that come as floats are left alone."""
    model = ScriptedModel()
    core = make_core(model)
    tower = IMAGE_CONFIG.low_res
    pixels = picture(7).low_res
    expected = np.stack([tower.table[c][pixels[..., c]] for c in range(3)])
    floats = ImageInput(digest=b"f", high_res=None, low_res=expected * 2)
    answer(core, image_request("row", picture(7), floats, max_new_tokens=1))
    encoded = torch.cat(model.encoded)
    assert_close(encoded, torch.from_numpy(np.stack([expected, expected * 2])), rtol=0, atol=0)
