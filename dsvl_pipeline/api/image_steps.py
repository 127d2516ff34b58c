"""Steps from a picture to pixel values, as the reference's image processors take them.

Usual pictures are made as the engine's are (`processor.image`) and normalised by a table; pictures
of other kinds, and other steps, go through arrays.

Letters: ``C`` channels, ``H`` height, ``W`` width, ``S`` edge of a square in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsvl_pipeline.api import pictures
from dsvl_pipeline.model.image_config import RGB, ImageConfig, TowerImageConfig
from dsvl_pipeline.processor import colours
from dsvl_pipeline.processor.image import image_input
from dsvl_pipeline.records import Pixels

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done with a picture.

    Attributes:
        config: Sizes, filters and numbers.
        does_resize: Whether pictures are scaled to their towers' sizes.
        does_pad: Whether they are made square.
        does_rescale: Whether values are multiplied by the rescale factor.
        does_normalize: Whether mean and deviation are taken out.
        does_convert: Whether pictures of all kinds are brought to RGB.
        input_order: Where arrays have their channels; None where that is to be seen.
    """

    config: ImageConfig
    does_resize: bool
    does_pad: bool
    does_rescale: bool
    does_normalize: bool
    does_convert: bool
    input_order: str | None

    @property
    def are_usual(self) -> bool:
        """Whether a table can do what comes after resizing."""
        towers = [self.config.low_res, *filter(None, [self.config.high_res])]
        does_all = self.does_resize and self.does_pad and self.does_rescale and self.does_normalize
        return does_all and all(tower.side_px >= self.config.min_size_px for tower in towers)

    def run(self, found: Image.Image | NDArray[Any]) -> tuple[Floats, Floats | None]:
        """Return the pixel values ``[C, S, S]`` for the low- and the high-resolution tower.

        The second is None for models with one tower.

        Raises:
            ImageError: The picture cannot be converted to RGB.
            ValueError: The picture's shape or values fit no picture.
        """
        image = self._as_rgb(found)
        low, high = self.config.low_res, self.config.high_res
        if isinstance(image, Image.Image) and image.mode == "RGB" and self.are_usual:
            # a digest is of no use here, and a name spares its making
            made = image_input(image, self.config, source_digest=b"unnamed")
            if high is None or made.high_res is None:
                return _from_table(made.low_res, low), None
            return _from_table(made.low_res, low), _from_table(made.high_res, high)
        array = pictures.channels_first(
            np.asarray(image), "channels_last" if isinstance(image, Image.Image) else None
        )
        low_res, high_res = self._make(array)
        return self._values(low_res, low), None if high is None else self._values(high_res, high)

    def _as_rgb(self, found: Image.Image | NDArray[Any]) -> Image.Image | NDArray[Any]:
        if isinstance(found, Image.Image):
            return colours.to_rgb(found) if self.does_convert else found
        array = pictures.channels_first(found, self.input_order)
        if not self.does_convert:
            return array
        if array.dtype == np.uint8:
            last = np.ascontiguousarray(np.moveaxis(array, 0, -1))
            return colours.to_rgb(Image.fromarray(last[..., 0] if last.shape[-1] == 1 else last))
        return np.repeat(array, 3, axis=0) if len(array) == 1 else array

    def _make(self, image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scale and pad; the reference pads for two towers only what it has scaled."""
        low, high, least = self.config.low_res, self.config.high_res, self.config.min_size_px
        if high is None:
            if self.does_resize:
                image = _resize(image, low.side_px, low.resample, least)
            image = _pad(image, low.background) if self.does_pad else image
            return image, image
        if not self.does_resize:
            return image, image
        high_res = _resize(image, high.side_px, high.resample or low.resample, least)
        high_res = _pad(high_res, high.background) if self.does_pad else high_res
        low_res = _resize(high_res, low.side_px, low.resample, least)
        return (_pad(low_res, low.background) if self.does_pad else low_res), high_res

    def _values(self, image: NDArray[Any], tower: TowerImageConfig) -> Floats:
        if self.does_rescale:
            image = (image.astype(np.float64) * tower.rescale_factor).astype(np.float32)
        if not self.does_normalize:
            return image
        if not np.issubdtype(image.dtype, np.floating):
            image = image.astype(np.float32)
        mean, std = (_column(numbers, image) for numbers in (tower.mean, tower.std))
        return (image - mean) / std


def _column(numbers: Sequence[float], image: NDArray[Any]) -> NDArray[Any]:
    if len(numbers) != len(image):
        raise ValueError(
            f"mean and deviation have {len(numbers)} numbers, but a picture has {len(image)} "
            "channels; convert it to RGB"
        )
    return np.array(numbers, image.dtype)[:, None, None]


def _from_table(pixels: Pixels, tower: TowerImageConfig) -> NDArray[np.float32]:
    table = tower.table
    return np.stack([table[channel][pixels[..., channel]] for channel in range(3)])


def _resize(image: NDArray[Any], side: int, resample: int, min_edge: int) -> NDArray[Any]:
    """Scale the longer edge to ``side`` pixels: with Pillow, which wants bytes."""
    is_share = _is_share_of_white(image)
    if is_share:
        image = (image.astype(np.float64) * 255).astype(np.float32)
    last = np.ascontiguousarray(np.moveaxis(image.astype(np.uint8), 0, -1))
    picture = Image.fromarray(last[..., 0] if last.shape[-1] == 1 else last)
    scale = side / max(picture.size)
    width, height = (max(round(edge * scale), min_edge) for edge in picture.size)
    scaled = np.asarray(picture.resize((width, height), resample))
    made = pictures.channels_first(scaled, "channels_last")
    return (made.astype(np.float64) * (1 / 255)).astype(np.float32) if is_share else made


def _is_share_of_white(image: NDArray[Any]) -> bool:
    """Return whether values are fractions from 0 to 1, and not numbers from 0 to 255.

    Raises:
        ValueError: They are neither.
    """
    if image.dtype == np.uint8:
        return False
    least, greatest = image.min(), image.max()
    is_whole = np.allclose(image, image.astype(int))
    if least < 0 or greatest > (255 if is_whole else 1):
        raise ValueError(
            f"a picture's values go from {least} to {greatest}; they must be whole numbers from 0 "
            "to 255, or fractions from 0 to 1"
        )
    return not is_whole


def _pad(image: NDArray[Any], background: RGB) -> NDArray[Any]:
    """Make a square, with the picture in its middle."""
    num_channels, height, width = image.shape
    if height == width:
        return image
    if num_channels != len(background):
        raise ValueError(
            f"a picture has {num_channels} channels, but the background {len(background)}; "
            "convert it to RGB"
        )
    side = max(height, width)
    padded = np.empty((num_channels, side, side), image.dtype)
    padded[:] = np.array(background, image.dtype)[:, None, None]
    top, left = (side - height) // 2, (side - width) // 2
    padded[:, top : top + height, left : left + width] = image
    return padded
