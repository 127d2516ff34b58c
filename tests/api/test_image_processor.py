"""The public image processors against those of transformers that use Pillow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dsvl_pipeline
from dsvl_pipeline.errors import CheckpointError, ImageError
from tests.api.examples import FAMILIES, family_name

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
FIRST = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
SQUARE = PIXELS[:, :24]

PICTURES = {
    "pillow": Image.fromarray(PIXELS),
    "channels last": PIXELS,
    "channels first": FIRST,
    "tensor": torch.from_numpy(FIRST),
    "whole numbers": PIXELS.astype(np.int64),
    "fractions": SQUARE / 256.0,
    "fractions in float32": (SQUARE / 256.0).astype(np.float32),
    "lists of lists": [[Image.fromarray(PIXELS)], [PIXELS, FIRST]],
    "a batch": np.stack([PIXELS, PIXELS[::-1]]),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"do_resize": False, "do_pad": False},
    {"do_resize": None},
    {"do_rescale": False},
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
    {"size": {"height": 10, "width": 10}},
    {"size": 20, "min_size": 20, "resample": 2},
    {"resample": 0, "rescale_factor": -1.0},
    {"image_mean": 0.5, "image_std": [0.1, 0.2, 0.3]},
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    return str(request.param)


def kinds(family: str) -> tuple[Any, Any]:
    """Ours and theirs."""
    from transformers.models.deepseek_vl import image_processing_pil_deepseek_vl as single
    from transformers.models.deepseek_vl_hybrid import image_processing_pil_deepseek_vl_hybrid

    home = single if family == "single" else image_processing_pil_deepseek_vl_hybrid
    name = family_name(family, "ImageProcessorPil")
    return getattr(dsvl_pipeline, name), getattr(home, name)


def settings(family: str) -> dict[str, Any]:
    """Small pictures, and backgrounds that differ."""
    other = {"high_res_size": 48, "high_res_image_mean": [0.1, 0.9, 0.5]}
    return {"size": 32, "image_mean": [0.5, 0.4, 0.3], **(other if family == "hybrid" else {})}


@pytest.mark.parametrize("picture", PICTURES)
def test_pixel_values_equal_the_reference(family: str, picture: str) -> None:
    """Bit by bit, whatever a picture is and whatever is to be done with it."""
    ours, theirs = (kind(**settings(family)) for kind in kinds(family))
    for options in OPTIONS:
        if picture == "a batch" or not isinstance(PICTURES[picture], list) or not options:
            found = ours(PICTURES[picture], return_tensors="pt", **options)
            wanted = theirs(PICTURES[picture], return_tensors="pt", **options)
            assert found.keys() == wanted.keys()
            for name, values in wanted.items():
                torch.testing.assert_close(found[name], values, rtol=0, atol=0)


def test_settings_equal_the_reference(family: str, tmp_path: Path) -> None:
    """Defaults, what is given, and what is written; files are read both ways."""
    ours, theirs = kinds(family)
    assert ours.model_input_names == theirs.model_input_names
    for given in ({}, settings(family), {"do_resize": None, "of_ours": [1, 2]}):
        found, wanted = ours(**given), theirs(**given)
        assert found.to_dict() == wanted.to_dict()
        assert found.to_json_string() == wanted.to_json_string()
        (file,) = found.save_pretrained(tmp_path)
        assert Path(file).name == "preprocessor_config.json"
        assert theirs.from_pretrained(tmp_path).to_dict() == wanted.to_dict()
        wanted.save_pretrained(tmp_path)
        for read in (ours.from_pretrained(tmp_path), ours.from_pretrained(file)):
            assert read.to_dict() == found.to_dict()
            assert repr(read) == repr(found)
        assert ours.from_json_file(file).to_dict() == found.to_dict()


def test_settings_can_be_replaced_on_loading_and_afterwards(family: str, tmp_path: Path) -> None:
    """Without touching other objects, or those who are not meant."""
    kind, _ = kinds(family)
    kind(size=40).save_pretrained(tmp_path)
    found, unused = kind.from_pretrained(tmp_path, size=42, other=1, return_unused_kwargs=True)
    assert (found.size, unused) == ({"height": 42, "width": 42}, {"other": 1})
    assert (found.size.height, found.size.width) == (42, 42)
    found.size["height"] = found.size["width"] = 16
    assert found(PIXELS, return_tensors="pt").pixel_values.shape == (1, 3, 16, 16)
    assert kind().size == {"height": 384, "width": 384}
    assert kind.from_dict({"size": 20}, do_pad=False).do_pad is False


def test_pictures_of_other_colours_become_rgb_unless_told_not_to(family: str) -> None:
    """Grey, palettes and transparency: the reference would refuse them or take indices."""
    kind, _ = kinds(family)
    processor = kind(size=32, **({"high_res_size": 48} if family == "hybrid" else {}))
    grey = Image.fromarray(PIXELS[..., 0])
    wanted = processor(grey.convert("RGB"), return_tensors="pt")
    for picture in (
        grey,
        grey.convert("P"),
        grey.convert("RGBA"),
        np.asarray(grey),
        PIXELS[..., :1],
    ):
        found = processor(picture, return_tensors="pt")
        torch.testing.assert_close(found.pixel_values, wanted.pixel_values, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"1 channels.* convert it to RGB"):
        processor(grey, do_convert_rgb=False)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"size": {"shortest_edge": 3}}, "option size has the size .* must be a square"),
        ({"data_format": "channels_last"}, "pixel values are 'channels_first' only"),
        ({"input_data_format": "none"}, "input_data_format 'none'; it must be"),
        ({"return_tensors": "tf"}, "must be 'pt', 'np' or None"),
        ({"image_mean": None}, "do_normalize needs image_mean"),
    ],
)
def test_what_cannot_be_done_is_a_value_error(options: dict[str, Any], found: str) -> None:
    """And says what can."""
    processor = dsvl_pipeline.DeepseekVLImageProcessor(size=16)
    with pytest.raises(ValueError, match=found):
        processor(PIXELS, **options)


def test_wrong_pictures_are_refused() -> None:
    """By what they are."""
    processor = dsvl_pipeline.DeepseekVLImageProcessor(size=16)
    for picture, found in (
        (np.zeros((5, 5, 7)), r"shape \(5, 5, 7\)"),
        (np.full((4, 4, 3), 300.5), "fractions from 0 to 1"),
        ("no such file.png", "'no such file.png' is no file here"),
    ):
        with pytest.raises(ValueError, match=found):
            processor(picture)
    with pytest.raises(ImageError):
        processor(b"no picture")
    with pytest.raises(TypeError, match="of type int"):
        processor(3)
    with pytest.raises(TypeError, match="has no option 'do_reisze'"):
        processor(PIXELS, do_reisze=False)
    with pytest.raises(ValueError, match="make no tensor"):
        processor([PIXELS, PIXELS[:8]], do_resize=False, do_pad=False, return_tensors="pt")


def test_files_without_settings_or_of_the_other_family_are_refused(tmp_path: Path) -> None:
    """With the name of what is missing, or of the class that takes it."""
    with pytest.raises(OSError, match=r"neither preprocessor_config\.json"):
        dsvl_pipeline.DeepseekVLImageProcessor.from_pretrained(tmp_path)
    dsvl_pipeline.DeepseekVLImageProcessor().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deepseek_vl"}))
    with pytest.raises(CheckpointError, match=r"use DeepseekVLImageProcessor$"):
        dsvl_pipeline.DeepseekVLHybridImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="hf upload"):
        dsvl_pipeline.DeepseekVLImageProcessor().save_pretrained(tmp_path, push_to_hub=True)
