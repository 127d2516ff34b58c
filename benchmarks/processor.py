"""JPEG bytes to pictures for both towers: this project against the reference processor.

    python -m benchmarks.processor [--images 40]

Both run in this process, one thread each, taking turns image by image, over the same seeded
1600 x 1200 JPEGs at the 7B's sizes (1024 and 384 px). Ours ends with two uint8 arrays and their
digest, which is what crosses to the engine; the reference with ``pixel_values`` and
``high_res_pixel_values`` as its processor makes them: loaded by ``load_image``, float32 tensors.
That both hold the same pictures is checked first. Times are processor time of the one thread,
which other programs on the machine disturb less than the clock's.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.results import write_results
from dsvl_pipeline import hub
from dsvl_pipeline.model.image_config import ImageConfig, read_image_config
from dsvl_pipeline.processor import decode, image
from dsvl_pipeline.records import ImageInput

WIDTH, HEIGHT = 1600, 1200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="number of JPEGs")
    count: int = parser.parse_args().images
    config = _real_sizes(read_image_config(hub.resolve("demo")))
    reference = _reference(config)
    files = [_photo(seed) for seed in range(count)]
    _check(files[0], config, reference)

    runs: dict[str, Callable[[bytes], object]] = {
        "reference": reference,
        "ours": partial(_ours, config),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for data in [files[0], *files]:
        for name, run in runs.items():
            started = time.thread_time()
            run(data)
            seconds[name].append(time.thread_time() - started)
    per_image = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    parts = _parts(files, config)
    ratio = per_image["reference"] / per_image["ours"]

    print(f"{count} JPEGs of {WIDTH} x {HEIGHT}, {len(files[0]) / 1024:.0f} KiB each; medians")
    for name, found in per_image.items():
        print(f"{name:12s} {1000 * found:7.1f} ms {1 / found:7.1f} images/s")
    print(f"{'ratio':12s} {ratio:7.2f}")
    for name, found in parts.items():
        print(f"  {name:10s} {1000 * found:7.1f} ms")
    write_results(
        "processor",
        {
            "images": count,
            "size_px": [WIDTH, HEIGHT],
            "mean_file_bytes": statistics.mean(map(len, files)),
            "images_per_s": {name: 1 / found for name, found in per_image.items()},
            "ratio": ratio,
            "parts_ms": {name: 1000 * found for name, found in parts.items()},
        },
    )


def _ours(config: ImageConfig, data: bytes) -> ImageInput:
    return image.image_input(
        decode.decode(data), config, source_digest=hashlib.sha256(data).digest()[:16]
    )


def _photo(seed: int) -> bytes:
    """A JPEG with what photos have: gradients, edges and sensor noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / random.uniform(20, 300) + y / random.uniform(20, 300)) for _ in range(3)]
    pixels = 127 + 80 * np.stack(waves, -1)
    for _ in range(30):
        top, left = random.integers(0, HEIGHT), random.integers(0, WIDTH)
        height, width = random.integers(20, 300, 2)
        pixels[top : top + height, left : left + width] += random.uniform(-60, 60, 3)
    pixels += random.normal(0, 6, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _real_sizes(config: ImageConfig) -> ImageConfig:
    if config.high_res is None:
        raise ValueError("the demo checkpoint has one tower; this benchmark needs two")
    return replace(
        config,
        low_res=replace(config.low_res, side_px=384),
        high_res=replace(config.high_res, side_px=1024),
    )


def _reference(config: ImageConfig) -> Callable[[bytes], Any]:
    import torch
    from transformers.image_utils import load_image
    from transformers.models.deepseek_vl_hybrid import image_processing_pil_deepseek_vl_hybrid

    low, high = config.low_res, config.high_res
    if high is None:
        raise ValueError("this benchmark needs two towers")
    torch.set_num_threads(1)
    processor = image_processing_pil_deepseek_vl_hybrid.DeepseekVLHybridImageProcessorPil(
        size={"height": low.side_px, "width": low.side_px},
        image_mean=list(low.mean),
        image_std=list(low.std),
        resample=low.resample,
        high_res_size={"height": high.side_px, "width": high.side_px},
        high_res_image_mean=list(high.mean),
        high_res_image_std=list(high.std),
        high_res_resample=high.resample,
    )
    return lambda data: processor(load_image(Image.open(io.BytesIO(data))), return_tensors="pt")


def _check(data: bytes, config: ImageConfig, reference: Callable[[bytes], Any]) -> None:
    """Stop if the two do not compute the same."""
    found = _ours(config, data)
    wanted = reference(data)
    pictures = [(found.low_res, config.low_res, "pixel_values")]
    if found.high_res is not None and config.high_res is not None:
        pictures.append((found.high_res, config.high_res, "high_res_pixel_values"))
    for pixels, tower, key in pictures:
        values = np.stack([tower.table[channel][pixels[..., channel]] for channel in range(3)])
        np.testing.assert_array_equal(values, wanted[key][0].numpy())


def _parts(files: list[bytes], config: ImageConfig) -> dict[str, float]:
    """Median seconds of each step of ours."""
    seconds: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        started = time.thread_time()
        result = run()
        seconds.setdefault(name, []).append(time.thread_time() - started)
        return result

    for data in files:
        picture: Image.Image = timed("decode", partial(decode.decode, data))
        timed("digest", partial(hashlib.sha256, data))
        pictures = partial(image.image_input, picture, config, source_digest=b"0")
        timed("both pictures", pictures)
        timed("of it resize", partial(picture.resize, (1024, 768), Image.Resampling.BICUBIC))
    return {name: statistics.median(found) for name, found in seconds.items()}


if __name__ == "__main__":
    main()
