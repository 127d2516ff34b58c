"""What a checkpoint's JSON files say about the treatment of pictures. Torch-free.

As in `config`, the same values come out for every dialect, and keys that a file leaves out have the
defaults of the transformers classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.errors import CheckpointError, UnreadableCheckpointError
from dsvl_pipeline.model import original
from dsvl_pipeline.model.config import ModelConfig, read_model_config
from dsvl_pipeline.model.json_files import (
    Triple,
    get,
    read_json,
    read_optional_json,
    reading,
    side,
    triple,
)

RGB = tuple[int, int, int]

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerImageConfig:
    """How the picture for one tower is made.

    Attributes:
        side_px: Edge of the square picture.
        mean: Subtracted after rescaling, per channel.
        std: Divided by, per channel.
        resample: PIL's number of the filter (2 bilinear, 3 bicubic).
        background: Colour of the padding.
        rescale_factor: What a byte is multiplied by before it is normalised.
    """

    side_px: int
    mean: Triple
    std: Triple
    resample: int
    background: RGB
    rescale_factor: float

    @property
    def table(self) -> NDArray[np.float32]:
        """``float32[3, 256]``: the normalised value of every byte, by channel.

        Bit-equal to the reference, which rescales in float64, rounds to float32 and normalises
        there.

        Source: ``rescale`` and ``normalize`` of ``image_transforms.py``, transformers 5.23.
        """
        rescaled = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean = np.array(self.mean, dtype=np.float32)[:, None]
        std = np.array(self.std, dtype=np.float32)[:, None]
        table: NDArray[np.float32] = (rescaled - mean) / std
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How pictures are made; the low-resolution one is resized from the high-resolution one.

    Attributes:
        low_res: The picture for SigLIP.
        high_res: The picture for SAM; None for the single-tower architecture.
        min_size_px: Least length of the shorter edge after resizing.
    """

    low_res: TowerImageConfig
    high_res: TowerImageConfig | None
    min_size_px: int


def image_config_of_shape(model: ModelConfig) -> ImageConfig:
    """Return one that only says how large pictures are, for those that are made elsewhere."""
    half = (0.5, 0.5, 0.5)

    def tower(side_px: int) -> TowerImageConfig:
        return TowerImageConfig(
            side_px=side_px,
            mean=half,
            std=half,
            resample=3,
            background=(127, 127, 127),
            rescale_factor=1 / 255,
        )

    high_res = None if model.high_res is None else tower(model.high_res.image_size_px)
    return ImageConfig(
        low_res=tower(model.low_res.image_size_px), high_res=high_res, min_size_px=14
    )


def read_image_config(directory: Path) -> ImageConfig:
    """Read how a checkpoint wants its pictures.

    Raises:
        CheckpointError: No processor config is there, it asks for another treatment than resize,
            pad, rescale and normalise, or for pictures that do not fit the towers.
    """
    model = read_model_config(directory)
    with reading(directory):
        config = read_image_processor_config(directory)
        where = f"{directory}: the image processor's config"
        for step in ("do_resize", "do_pad", "do_rescale", "do_normalize"):
            if not get(config, step, True):
                raise CheckpointError(f"{where} has {step}=false; only true can be run")
        factor = float(get(config, "rescale_factor", 1 / 255))
        low_res = _tower_image_config(config, "", 384, factor, where)
        high_res = None
        if model.high_res is not None:
            high_res = _tower_image_config(config, "high_res_", 1024, factor, where)
    for name, image, tower in (
        ("low", low_res, model.low_res),
        ("high", high_res, model.high_res),
    ):
        if image is not None and tower is not None and image.side_px != tower.image_size_px:
            raise CheckpointError(
                f"{where} makes {name}-resolution pictures of {image.side_px} px, but config.json "
                f"describes a tower for {tower.image_size_px} px; one of the files is from "
                f"another checkpoint"
            )
    return ImageConfig(low_res=low_res, high_res=high_res, min_size_px=get(config, "min_size", 14))


def read_image_processor_config(directory: Path) -> Mapping[str, Any]:
    """Read the image processor's settings in the keys of transformers, whatever the dialect.

    Raises:
        UnreadableCheckpointError: There are none, or they cannot be read.
    """
    config = read_optional_json(directory / "config.json")
    if config.get("model_type") == original.MODEL_TYPE:
        return original.translate_image_config(config)
    nested, flat = directory / "processor_config.json", directory / "preprocessor_config.json"
    # transformers 5 nests it in processor_config.json, before that it has a file of its own
    if nested.exists() and "image_processor" in (config := read_json(nested)):
        processor: dict[str, Any] = config["image_processor"]
        return processor
    if flat.exists():
        return read_json(flat)
    raise UnreadableCheckpointError(
        f"{directory} has neither preprocessor_config.json nor an 'image_processor' in "
        f"processor_config.json, so how to prepare pictures is unknown; fetch these files as well"
    )


def _tower_image_config(
    config: Mapping[str, Any], prefix: str, default_side_px: int, factor: float, where: str
) -> TowerImageConfig:
    mean = triple(get(config, f"{prefix}image_mean", CLIP_MEAN))
    return TowerImageConfig(
        side_px=side(config.get(f"{prefix}size"), default_side_px, where),
        mean=mean,
        std=triple(get(config, f"{prefix}image_std", CLIP_STD)),
        resample=get(config, f"{prefix}resample", 3),
        # the reference derives it from the mean, whatever the file's background_color says
        background=(int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255)),
        rescale_factor=factor,
    )
