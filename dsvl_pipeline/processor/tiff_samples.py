"""Samples of TIFFs that Pillow refuses or shows wrongly.

Pillow reads TIFFs of 8-bit samples well, and most compressions. What it gets wrong are other
samples: min-is-white of 16 bits, 10 to 14 bits, signed, unsigned 32 bits, floats. Those are read
here, from the arrays that `tiff_strips` unpacks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsvl_pipeline.processor.tiff import Tags, floats_of, number_of, numbers_of
from dsvl_pipeline.processor.tiff_layout import (
    BY_PILLOW,
    FLOAT,
    IS_CMYK,
    IS_ICC_LAB,
    IS_LAB,
    IS_PALETTE,
    IS_YCBCR,
    LOSSLESS,
    UNSIGNED,
    WHITE_IS_ZERO,
    Layout,
    layout_of,
    photometric_of,
    samples_of,
    subsampling_of,
    unknown_layout,
)
from dsvl_pipeline.processor.tiff_strips import row_slices, unpack


def read_samples(data: bytes, tags: Tags) -> Image.Image:
    """Decode the first page of a file whose samples Pillow does not show as they are meant.

    Returns:
        A picture of a mode that Pillow converts to RGB, as it is stored: not turned.

    Raises:
        ImageError: With code ``image_samples``: nothing here knows such samples.
    """
    if not {256, 257} <= tags.keys() or not {273, 324} & tags.keys():
        raise OSError("the header is damaged or cut off")
    compression = number_of(tags, 259, 1)
    if compression in BY_PILLOW:
        raise unknown_layout(samples_of(tags))
    if compression not in LOSSLESS:
        raise unknown_layout(f"compression {compression}")
    if photometric_of(tags) == IS_YCBCR:
        return _ycbcr(data, tags)
    layout = layout_of(tags)
    samples = unpack(data, tags, layout)
    if layout.photometric == IS_PALETTE:
        return _by_palette(samples[..., 0], numbers_of(tags, 320, ()), layout)
    if layout.photometric in (IS_LAB, IS_ICC_LAB):
        return _lab(samples, layout)
    black, white = _range(tags, layout, samples[..., : layout.num_colours])
    shown = np.empty((layout.height, layout.width, layout.num_colours), np.uint8)
    for rows in row_slices(samples):
        colours = _scaled(samples[rows, :, : layout.num_colours], black, white)
        if layout.photometric == WHITE_IS_ZERO:
            colours = 255 - colours
        if layout.alpha:
            full = 1.0 if layout.form == FLOAT else 2.0**layout.bits - 1
            alpha = _scaled(samples[rows, :, layout.num_colours, None], 0, full) / 255
            colours = 255 * (1 - alpha) + colours * (1 if layout.alpha == 1 else alpha)
        shown[rows] = np.rint(np.clip(colours, 0, 255))
    if layout.photometric == IS_CMYK:
        return Image.frombytes("CMYK", (layout.width, layout.height), shown.tobytes())
    return Image.fromarray(shown[..., 0] if layout.num_colours == 1 else shown)


def _range(tags: Tags, layout: Layout, colours: NDArray[Any]) -> tuple[float, float]:
    """Return what is shown as 0 and what as 255.

    What the file says itself (SMinSampleValue, SMaxSampleValue, or a MaxSampleValue of fewer bits)
    counts where all samples lie within. Else unsigned samples of up to 16 bits are shares of their
    greatest value, and floats from 0 to 1 of 1. Deeper and signed ones carry no white point: 8 or
    16 bits of them count as such, more than half of the range as all of it, and anything else,
    as other floats, is stretched from its least to its greatest value.
    """
    bits, form = layout.bits, layout.form
    least, most = _extremes(colours)
    lows, highs = floats_of(tags, 340), floats_of(tags, 341)
    if highs:
        low = min(lows) if lows else min(least, 0.0)
        if low < max(highs) and low <= least and most <= max(highs):
            return low, max(highs)
    if form == FLOAT:
        is_share = least >= 0 and most <= 1
        return (0.0, 1.0) if is_share else (least, most if most > least else least + 1)
    told = max(floats_of(tags, 281), default=0.0)
    if form == UNSIGNED and told in {2.0**n - 1 for n in range(9, bits)} and most <= told:
        return 0.0, told
    if form == UNSIGNED and bits <= 16:
        return 0.0, 2.0**bits - 1
    floor = 0.0 if form == UNSIGNED else -(2.0 ** (bits - 1))
    ceiling = floor + 2.0**bits - 1
    if least >= 0:
        if bits > 8 and most <= 255:
            return 0.0, 255.0
        if bits > 16 and most <= 65535:
            return 0.0, 65535.0
        if bits <= 16:  # and signed
            return 0.0, ceiling
    if most - least >= (ceiling - floor) / 2:
        return floor, ceiling
    return least, most if most > least else least + 1


def _extremes(colours: NDArray[Any]) -> tuple[float, float]:
    least, most = np.inf, -np.inf
    for rows in row_slices(colours):
        band = colours[rows]
        if band.dtype.kind == "f":
            band = band[np.isfinite(band)]
        if band.size:
            least, most = min(least, float(band.min())), max(most, float(band.max()))
    return (least, most) if least <= most else (0.0, 0.0)


def _scaled(samples: NDArray[Any], black: float, white: float) -> NDArray[np.float64]:
    """Bring samples to 0 to 255; what is no number is black."""
    numbers = np.nan_to_num(samples.astype(np.float64), posinf=white, neginf=black)
    return np.clip((numbers - black) * (255 / (white - black)), 0, 255)


def _by_palette(indices: NDArray[Any], entries: tuple[int, ...], layout: Layout) -> Image.Image:
    if len(entries) < 3 << layout.bits:
        raise OSError("truncated: the palette is too short")
    colours = np.array(entries[: 3 << layout.bits], np.uint32).reshape(3, -1).T
    shift = 8 if colours.max(initial=0) > 255 else 0
    return Image.fromarray((colours >> shift).astype(np.uint8)[indices])


def _ycbcr(data: bytes, tags: Tags) -> Image.Image:
    """Read YCbCr that is stored by units of pixels: the luma of each, then what they share.

    Source: TIFF 6.0, section 21.
    """
    (across, down), is_planar = subsampling_of(tags), number_of(tags, 284, 1) == 2
    weights, bits = floats_of(tags, 529), numbers_of(tags, 258, (8,))
    if (
        not {across, down} <= {1, 2, 4}
        or (is_planar and (across, down) != (1, 1))
        or set(bits) != {8}
        or number_of(tags, 277, 3) != 3
        or (weights and not np.allclose(weights, (0.299, 0.587, 0.114), atol=1e-3))
    ):
        raise unknown_layout(
            f"YCbCr of {'/'.join(map(str, bits))} bits, {across} by {down} pixels to a colour"
        )
    width, height, num = number_of(tags, 256, 0), number_of(tags, 257, 0), across * down
    layout = Layout(
        width=-(-width // across), height=-(-height // down), photometric=IS_YCBCR,
        form=UNSIGNED, bits=8, num_samples=num + 2, alpha=0, is_planar=is_planar,
        unit=(across, down),
    )  # fmt: skip
    units = unpack(data, tags, layout)
    blocks = units[..., :num].reshape(layout.height, layout.width, down, across)
    luma = blocks.transpose(0, 2, 1, 3).reshape(layout.height * down, -1)
    shared = units[..., num:].repeat(down, axis=0).repeat(across, axis=1)
    samples = np.dstack([luma, shared])[:height, :width]
    ranges = floats_of(tags, 532)
    if len(ranges) == 6:  # black and white of luma; of colours, none and most
        for sample, (zero, full) in enumerate(((0, 255), (128, 255), (128, 255))):
            black, white = ranges[2 * sample : 2 * sample + 2]
            if (black, white) != (zero, full) and white > black:
                table = (np.arange(256) - black) * ((full - zero) / (white - black)) + zero
                samples[..., sample] = np.rint(table.clip(0, 255)).astype(np.uint8)[
                    samples[..., sample]
                ]
    return Image.frombytes("YCbCr", (width, height), samples.tobytes())


def _lab(samples: NDArray[Any], layout: Layout) -> Image.Image:
    """Return CIE or ICC L*a*b* of 8 or 16 bits as Pillow reads it: a* and b* signed."""
    shift = layout.bits - 8
    lab = (samples[..., :3].view(f"u{samples.dtype.itemsize}") >> shift).astype(np.uint8)
    if layout.photometric == IS_ICC_LAB:  # where 128 is zero
        lab[..., 1:] ^= 0x80
    return Image.frombytes("LAB", (layout.width, layout.height), lab.tobytes())
