"""From drawings to what the towers see, on the GPU: colours, turning, blur, noise, bars.

Letters: ``B`` pictures, ``S`` edge of the high-resolution picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.demo_checkpoint.drawing import SIDE

_BARS = (122, 116, 104)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def develop(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Make the pixel values of a batch (see `batches.assemble`).

    Returns:
        ``float32[B, 3, S / 2, S / 2]`` for SigLIP and ``float32[B, 3, S, S]`` for SAM, both of
        whole bytes, as the processor makes them.
    """
    pixels = _colour(batch["canvas"], batch["palette"].float() / 255, batch["is_scene"])
    grid = F.affine_grid(batch["theta"], list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    blur, noise, *shading = batch["spoiling"][:, :, None, None, None].unbind(1)
    pixels = _blur(_blur(pixels, blur), blur)
    places = (torch.arange(SIDE, device=pixels.device) + 0.5) / SIDE * 2 - 1
    pixels = pixels * (1 + shading[0] * places + shading[1] * places[:, None])
    grain = torch.randn(pixels.shape[0], 1, SIDE, SIDE, device=pixels.device)
    pixels = _whole_bytes(pixels + noise * grain)
    left, top, right, bottom = batch["frame"][:, :, None, None, None].unbind(1)
    edge = torch.arange(SIDE, device=pixels.device)
    is_inside = (edge >= left) & (edge < right) & (edge[:, None] >= top) & (edge[:, None] < bottom)
    pixels = torch.where(is_inside, pixels, _channels(_BARS, pixels) / 255)
    high_res = (pixels - _channels(_CLIP_MEAN, pixels)) / _channels(_CLIP_STD, pixels)
    return (halve(pixels) - 0.5) / 0.5, high_res


def halve(pixels: Tensor) -> Tensor:
    """Halve pictures as Pillow's bilinear filter does: 1, 3, 3, 1 eighths along each edge."""
    x = F.pad(pixels, (0, 0, 1, 1), mode="replicate")
    x = (x[:, :, :-2:2] + 3 * (x[:, :, 1:-1:2] + x[:, :, 2::2]) + x[:, :, 3::2]) / 8
    x = F.pad(x, (1, 1, 0, 0), mode="replicate")
    x = (x[..., :-2:2] + 3 * (x[..., 1:-1:2] + x[..., 2::2]) + x[..., 3::2]) / 8
    return _whole_bytes(x)


def _colour(canvas: Tensor, palette: Tensor, is_scene: Tensor) -> Tensor:
    """Mix paper and ink of pages, look up colours of scenes: ``[B, 3, S, S]``."""
    values = canvas[:, None]
    colours = palette[:, :, :, None, None].unbind(1)
    page = colours[0] + (colours[1] - colours[0]) * (values.float() / 255)
    scene = colours[0]
    for index, colour in enumerate(colours[1:], start=1):
        scene = torch.where(values == index, colour, scene)
    return torch.where(is_scene[:, None, None, None], scene, page)


def _blur(pixels: Tensor, amount: Tensor) -> Tensor:
    """Mix every pixel with its neighbours: not at all at 0, by 1, 2, 1 quarters at 1."""
    side, middle = amount / 4, 1 - amount / 2
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    rows = side * (padded[:, :, :-2] + padded[:, :, 2:]) + middle * padded[:, :, 1:-1]
    return side * (rows[..., :-2] + rows[..., 2:]) + middle * rows[..., 1:-1]


def _whole_bytes(pixels: Tensor) -> Tensor:
    return (pixels.clamp(0, 1) * 255).round() / 255


def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return like.new_tensor(values)[:, None, None]
