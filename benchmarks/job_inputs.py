"""What a benchmark's job reads: a checkpoint with random weights, and distinct JPEGs."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tools.demo_checkpoint import files

SYSTEM_TEXT = files.CHAT_TEMPLATE.split("{%")[0].strip()
_NUM_PICTURES = 32


def write_checkpoint(folder: Path, tiny: bool) -> dict[str, Any]:
    """Write weights, configs, tokenizer and processor as transformers does."""
    import torch
    from transformers import DeepseekVLHybridConfig, DeepseekVLHybridForConditionalGeneration

    from benchmarks.shapes import FULL, TINY, fill_randomly

    began = time.perf_counter()
    config = TINY if tiny else FULL
    if (folder / "config.json").exists():  # --folder was given again
        return {"seconds": 0.0}
    settings = {name: value for name, value in config.items() if name != "model_type"}
    with torch.device("cpu" if tiny else "cuda"):
        model: Any = DeepseekVLHybridForConditionalGeneration(DeepseekVLHybridConfig(**settings))
    model = model.to(torch.bfloat16)
    fill_randomly(model, seed=0)
    model.save_pretrained(folder, max_shard_size="2GB")
    _processor(config).save_pretrained(folder)
    return {"seconds": time.perf_counter() - began}


def draw(folder: Path, rows: int, *, tiny: bool) -> dict[str, Any]:
    """Write seeded JPEGs: a few pictures, each many times with another number in a corner."""
    began = time.perf_counter()
    folder.mkdir(exist_ok=True)
    size = (160, 120) if tiny else (1600, 1200)
    tasks = [
        (folder, seed, range(seed, rows, _NUM_PICTURES), size) for seed in range(_NUM_PICTURES)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        num_bytes = sum(pool.map(_draw_numbered, tasks))
    return {
        "size_px": list(size),
        "mean_file_bytes": num_bytes / rows,
        "seconds": time.perf_counter() - began,
    }


def _processor(config: Mapping[str, Any]) -> Any:
    """The demo's processor in another size; the words of the system text are tokens."""
    from transformers import PreTrainedTokenizerFast

    words = [f" {word}" for word in SYSTEM_TEXT.split()] + [" image", "Describe", "User:"]
    processor = files.processor()
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=files.byte_tokenizer(sorted(set(words))),
        bos_token=files.BOS,
        eos_token=files.EOS,
        pad_token=files.EOS,
        extra_special_tokens={"image_token": files.IMAGE},
        clean_up_tokenization_spaces=False,
    )
    low_px = config["vision_config"]["image_size"]
    high_px = config["high_res_vision_config"]["image_size"]
    processor.image_processor.size = {"height": low_px, "width": low_px}
    processor.image_processor.high_res_size = {"height": high_px, "width": high_px}
    processor.num_image_tokens = (low_px // config["vision_config"]["patch_size"]) ** 2
    return processor


def _draw_numbered(task: tuple[Path, int, range, tuple[int, int]]) -> int:
    folder, seed, numbers, (width, height) = task
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / random.uniform(20, 300) + y / random.uniform(20, 300)) for _ in range(3)]
    pixels = 127 + 80 * np.stack(waves, -1) + random.normal(0, 6, (height, width, 3))
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    num_bytes = 0
    for number in numbers:
        ImageDraw.Draw(picture).rectangle((0, 0, 80, 16), fill="black")
        ImageDraw.Draw(picture).text((2, 2), f"{number:06d}", fill="white")
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(buffer.getvalue())
        num_bytes += buffer.tell()
    return num_bytes
