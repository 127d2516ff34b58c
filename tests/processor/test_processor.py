"""Pictures as the towers of the reference see them, and whole requests."""

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.model.image_config import ImageConfig, TowerImageConfig, read_image_config
from dsvl_pipeline.processor.image import image_input, letterbox
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import SamplingParams
from tests.processor.vocabularies import DEMO

SHAPES = [
    *[(1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (3, 600), (600, 3), (1, 999), (999, 1)],
    *[(13, 14), (14, 13), (15, 15), (31, 32), (32, 31), (33, 33), (64, 64), (63, 65), (65, 63)],
    *[(100, 37), (37, 100), (101, 99), (99, 101), (128, 127), (127, 128), (96, 192), (192, 96)],
    *[(200, 150), (150, 200), (211, 97), (97, 211), (300, 17), (17, 300), (255, 256), (257, 255)],
    *[(640, 480), (480, 640), (333, 222), (222, 333), (512, 512), (513, 511), (700, 5), (5, 700)],
    *[(1000, 999), (7, 1400), (1400, 7), (450, 451), (1600, 1200)],
]
assert len(SHAPES) >= 40


def picture(width: int, height: int) -> Image.Image:
    """Noise: every pixel matters."""
    rng = np.random.default_rng(width * 10_007 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def reference(config: ImageConfig) -> Any:
    """The image processor of transformers that the config describes."""
    from transformers.models.deepseek_vl import image_processing_pil_deepseek_vl as single
    from transformers.models.deepseek_vl_hybrid import (
        image_processing_pil_deepseek_vl_hybrid as two,
    )

    def options(tower: TowerImageConfig, prefix: str) -> dict[str, Any]:
        return {
            f"{prefix}size": {"height": tower.side_px, "width": tower.side_px},
            f"{prefix}image_mean": list(tower.mean),
            f"{prefix}image_std": list(tower.std),
            f"{prefix}resample": tower.resample,
        }

    low = {**options(config.low_res, ""), "min_size": config.min_size_px}
    if config.high_res is None:
        return single.DeepseekVLImageProcessorPil(**low)
    high = options(config.high_res, "high_res_")
    return two.DeepseekVLHybridImageProcessorPil(**low, **high)


def normalised(pixels: np.ndarray, tower: TowerImageConfig) -> np.ndarray:
    """What the device computes: the table's value for every byte."""
    return np.stack([tower.table[c][pixels[..., c]] for c in range(3)])


def same_as_reference(config: ImageConfig, image: Image.Image, processor: Any) -> None:
    """Compare every value of both pictures."""
    wanted = processor(image)
    found = image_input(image, config)
    np.testing.assert_array_equal(
        normalised(found.low_res, config.low_res), wanted["pixel_values"][0]
    )
    assert (found.high_res is None) == (config.high_res is None)
    if found.high_res is not None and config.high_res is not None:
        np.testing.assert_array_equal(
            normalised(found.high_res, config.high_res), wanted["high_res_pixel_values"][0]
        )


DEMO_CONFIG = read_image_config(DEMO)
assert DEMO_CONFIG.high_res is not None
SINGLE = dataclasses.replace(DEMO_CONFIG, high_res=None)
CONFIGS = {
    "hybrid": DEMO_CONFIG,
    "single": SINGLE,
    # CLIP's mean, unlike 0.5, gives each channel its own background
    "single, CLIP, 60 px": dataclasses.replace(
        SINGLE, low_res=dataclasses.replace(DEMO_CONFIG.high_res, side_px=60)
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_pictures_equal_the_reference_bit_by_bit(name: str) -> None:
    """A pixel beside its place is noise in every feature."""
    processor = reference(CONFIGS[name])
    for width, height in SHAPES:
        same_as_reference(CONFIGS[name], picture(width, height), processor)


@pytest.mark.parametrize("low", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("high", [0, 1, 3])
def test_every_filter_equals_the_reference(low: int, high: int) -> None:
    """Checkpoints name them by number; the reference takes a high-resolution 0 for unset."""
    assert DEMO_CONFIG.high_res is not None
    config = dataclasses.replace(
        DEMO_CONFIG,
        low_res=dataclasses.replace(DEMO_CONFIG.low_res, side_px=48, resample=low),
        high_res=dataclasses.replace(DEMO_CONFIG.high_res, side_px=128, resample=high),
    )
    same_as_reference(config, picture(301, 77), reference(config))
    single = dataclasses.replace(config, high_res=None)
    same_as_reference(single, picture(77, 301), reference(single))


@pytest.mark.parametrize("shape", [(1600, 1200), (1024, 1024), (333, 1999), (7, 1400)])
def test_the_real_sizes_equal_the_reference(shape: tuple[int, int]) -> None:
    """1024 and 384 px, as in the 7B."""
    assert DEMO_CONFIG.high_res is not None
    config = dataclasses.replace(
        DEMO_CONFIG,
        low_res=dataclasses.replace(DEMO_CONFIG.low_res, side_px=384),
        high_res=dataclasses.replace(DEMO_CONFIG.high_res, side_px=1024),
    )
    same_as_reference(config, picture(*shape), reference(config))


def test_an_odd_spare_pixel_falls_right_or_below() -> None:
    """And the shorter edge never falls below the least."""
    wide = letterbox(Image.new("RGB", (40, 15), "red"), side=40, fill=(1, 2, 3))
    rows = wide[:, 0, 0] == 255
    assert (rows[:12].any(), rows[12:27].all(), rows[27:].any()) == (False, True, False)
    thin = letterbox(Image.new("RGB", (1, 200), "red"), side=40, fill=(1, 2, 3))
    assert (thin[0, :, 0] == 255).sum() == 14
    assert thin[0, 0].tolist() == [1, 2, 3]


def test_pixels_can_be_written_to() -> None:
    """torch.from_numpy warns of memory that cannot."""
    found = image_input(picture(20, 20), DEMO_CONFIG)
    assert found.high_res is not None
    assert found.low_res.flags.writeable
    assert found.high_res.flags.writeable


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_pixels_have_equal_digests_and_others_do_not(name: str) -> None:
    """The engine encodes one of each digest."""
    image = picture(50, 40)
    digest = image_input(image, CONFIGS[name]).digest
    assert len(digest) == 16
    assert image_input(image.copy(), CONFIGS[name]).digest == digest
    image.putpixel((25, 20), tuple(255 - c for c in image.getpixel((25, 20))))
    assert image_input(image, CONFIGS[name]).digest != digest


def test_the_digest_tells_sizes_apart() -> None:
    """The low-resolution picture is not hashed, but its size is."""
    image = picture(50, 40)
    smaller = dataclasses.replace(
        DEMO_CONFIG, low_res=dataclasses.replace(DEMO_CONFIG.low_res, side_px=48)
    )
    assert image_input(image, DEMO_CONFIG).digest != image_input(image, smaller).digest


@pytest.fixture(scope="module")
def processor() -> Processor:
    """The demo checkpoint's."""
    return Processor.from_pretrained(DEMO)


def chat(num_images: int, text: str = "What is this?") -> list[dict[str, Any]]:
    """One message."""
    parts: list[dict[str, str]] = [{"type": "image"}] * num_images
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_a_request_equals_the_reference(processor: Processor, num_images: int) -> None:
    """Ids and pictures in one go, against one call of the reference."""
    from transformers import DeepseekVLHybridProcessor

    images = [picture(60 + i, 50) for i in range(num_images)]
    sampling = SamplingParams(max_new_tokens=7)
    request = processor.request("r", chat(num_images), images, sampling)
    whole = DeepseekVLHybridProcessor.from_pretrained(DEMO)
    whole.image_processor = reference(processor.image_config)
    text = whole.apply_chat_template(chat(num_images), add_generation_prompt=True)
    wanted = whole(text=[text], images=images or None, return_tensors="np")
    assert (request.request_id, request.sampling) == ("r", sampling)
    assert request.prompt_ids.dtype == np.int32
    np.testing.assert_array_equal(request.prompt_ids, wanted["input_ids"][0])
    assert len(request.images) == num_images
    for index, found in enumerate(request.images):
        np.testing.assert_array_equal(
            normalised(found.low_res, processor.image_config.low_res), wanted["pixel_values"][index]
        )


def test_a_prepared_picture_is_taken_as_it_is(processor: Processor) -> None:
    """Several prompts about one picture decode it once."""
    prepared = processor.image(picture(9, 9))
    request = processor.request("r", chat(2), [prepared, prepared], SamplingParams())
    assert request.images == (prepared, prepared)


@pytest.mark.parametrize(
    ("num_parts", "num_images", "message"),
    [
        (2, 1, "row 9f2c01: the text has 2 image placeholders but the row lists 1 image; add the"),
        (1, 0, "row 9f2c01: the text has 1 image placeholder but the row lists 0 images; add the"),
        (0, 3, "row 9f2c01: the text has 0 image placeholders but the row lists 3 images; add the"),
    ],
)
def test_placeholders_and_images_must_agree(
    processor: Processor, num_parts: int, num_images: int, message: str
) -> None:
    """The original code silently shows the same image twice."""
    images = [b"not even decoded"] * num_images
    with pytest.raises(PromptError, match=message) as caught:
        processor.request("9f2c01", chat(num_parts), images, SamplingParams())
    assert caught.value.code == "image_count"


def test_prompts_longer_than_the_model_are_a_bad_row(processor: Processor) -> None:
    """Positions beyond the trained ones give nonsense, and the KV pages might not hold them."""
    room = processor.max_prompt_tokens - len(processor.prompt_ids(chat(0, "")))
    assert len(processor.prompt_ids(chat(0, "x" * room))) == processor.max_prompt_tokens
    with pytest.raises(PromptError, match=r"takes 2048 tokens .* room for 2047 and") as caught:
        processor.prompt_ids(chat(0, "x" * (room + 1)))
    assert caught.value.code == "prompt_too_long"
    with pytest.raises(PromptError, match="256 for each of 20 images"):
        processor.prompt_ids(chat(20))


def test_decode_drops_special_tokens_unless_asked(processor: Processor) -> None:
    """The end of sequence is no part of an answer."""
    ids = [*processor.tokenizer.encode("hé").tolist()[1:], 1]
    assert processor.decode(ids) == "hé"
    assert processor.decode(np.array(ids), skip_special_tokens=False).startswith("hé<")


def test_the_processor_loads_neither_torch_nor_transformers() -> None:
    """CPU workers must start fast and stay small."""
    program = (
        "import sys, dsvl_pipeline.processor.processor;"
        "print({'torch', 'transformers', 'ray'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


def test_a_draft_holds_no_control_token(processor: Processor) -> None:
    """A PDF says what it likes; a draft is at most as long as is asked for."""
    text = "<image_placeholder>Hello<｜end▁of▁sentence｜> <｜begin▁of▁sentence｜>\n"
    ids = processor.draft_ids(text, most=1000)
    assert ids.dtype == np.int32
    assert not set(ids.tolist()) & {0, 1, 2}
    assert processor.decode(ids.tolist()) == text.strip()
    assert processor.draft_ids(text, most=5).tolist() == ids[:5].tolist()
    assert not len(processor.draft_ids(" \n", most=5))
