"""What the tests of the public classes share: checkpoints of both families, pictures, chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FAMILIES = ["single", "hybrid"]


def family_name(family: str, kind: str) -> str:
    """``DeepseekVLHybridProcessor`` and the like."""
    return f"DeepseekVL{'Hybrid' if family == 'hybrid' else ''}{kind}"


def write_pictures(directory: Path) -> list[str]:
    """Three pictures of different shapes; returns their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for index, (width, height) in enumerate([(90, 60), (40, 120), (64, 64)]):
        path = directory / f"picture {index}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        paths.append(str(path))
    return paths


def user(text: str, *urls: str) -> list[dict[str, Any]]:
    """A chat of one message."""
    images = [{"type": "image", "url": url} for url in urls]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def answer(text: str) -> list[dict[str, Any]]:
    """What the assistant says to it."""
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
