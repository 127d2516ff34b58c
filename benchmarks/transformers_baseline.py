"""`transformers.generate` on the same shape and the same lengths, at several batch sizes.

    python -m benchmarks.transformers_baseline --out FILE [--tiny] [--static] [--batches 32,64,96]

`benchmarks.engine` runs it as a process of its own, so that all its memory is free again after it.
It is treated generously: all rows of a batch are equally long, and ids and normalised pictures lie
on the device before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import FULL, IMAGE_TOKEN_ID, TINY, fill_randomly, read_shape
from benchmarks.workloads import CAPTIONS, MIXED, NUM_QUESTION_IDS, NUM_SYSTEM_IDS

# A second measurement of a batch size that is no more than this much slower than the best.
_NEAR = 1.15


def main() -> None:
    """Measure; after each figure write all so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="tiny shape on the CPU")
    parser.add_argument("--static", action="store_true", help="also the compiled static cache")
    parser.add_argument("--mixed", action="store_true", help="also what mixed lengths need")
    parser.add_argument("--batches", default="64,32,96", help="sizes with the dynamic cache")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = "cpu" if args.tiny else args.device
    tokens = 1 / 16 if args.tiny else 1.0
    baseline = Baseline(TINY if args.tiny else FULL, device, args.out)
    num_new = CAPTIONS.scaled(1, tokens=tokens).new_tokens
    sizes = [int(size) for size in args.batches.split(",")]
    baseline.warm_up(sizes[0])
    for size in sizes:
        baseline.measure_dynamic(size, num_new)
    best = baseline.best_dynamic()
    if best is None:
        raise SystemExit("no batch size ran")
    baseline.measure_prefill(best)
    if args.mixed:
        lengths = MIXED.scaled(1, tokens=tokens).lengths().tolist()
        baseline.measure_long(best, max(lengths[:best]))
        baseline.derive_mixed(best, num_new, lengths)
    if args.static:
        baseline.measure_static(sizes[0], num_new)


class Baseline:
    """Transformers' model, and the figures measured so far."""

    def __init__(self, config: Mapping[str, Any], device: str, out: Path) -> None:
        from transformers import DeepseekVLHybridConfig, DeepseekVLHybridForConditionalGeneration

        began = time.perf_counter()
        self._out = out
        self._device = device
        self._shape = read_shape(config)
        self._dtype = torch.float32 if device == "cpu" else torch.bfloat16
        settings = {name: value for name, value in config.items() if name != "model_type"}
        with torch.device(device):
            model: Any = DeepseekVLHybridForConditionalGeneration(
                DeepseekVLHybridConfig(**settings)
            )
        self._model = model.to(self._dtype).eval().requires_grad_(False)
        fill_randomly(model, seed=0)
        # no end of sequence: every row runs to its full length
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0
        self.figures: dict[str, Any] = {"dynamic": {}, "build_s": time.perf_counter() - began}

    def warm_up(self, batch_size: int) -> None:
        self._generate(batch_size, 4)

    def measure_dynamic(self, batch_size: int, num_new: int) -> None:
        """Time one batch; failing (out of memory, most likely) is an outcome too."""
        try:
            seconds = self._generate(batch_size, num_new)
            best = self.best_dynamic()
            if best is None or batch_size / seconds * _NEAR > self.rate(best):
                seconds = min(seconds, self._generate(batch_size, num_new))
        except torch.OutOfMemoryError as error:
            self._note("dynamic_failed", {str(batch_size): str(error)[:200]})
            torch.cuda.empty_cache()
            return
        self.figures["dynamic"][batch_size] = {
            "seconds": seconds,
            "images_per_s": batch_size / seconds,
            "peak_gib": self._peak_gib(),
        }
        self._write(f"dynamic cache, batch {batch_size}: {batch_size / seconds:.2f} images/s")

    def best_dynamic(self) -> int | None:
        """Return the fastest batch size so far."""
        return max(self.figures["dynamic"], key=self.rate, default=None)

    def rate(self, batch_size: int) -> float:
        rate: float = self.figures["dynamic"][batch_size]["images_per_s"]
        return rate

    def measure_prefill(self, batch_size: int) -> None:
        """Time a batch that produces one token: vision and prefill."""
        self._note("prefill", {"batch": batch_size, "seconds": self._generate(batch_size, 1)})

    def measure_long(self, batch_size: int, num_new: int) -> None:
        """Time the first batch of mixed lengths for real: it runs until its longest row."""
        seconds = self._generate(batch_size, num_new)
        self._note("long", {"batch": batch_size, "new_tokens": num_new, "seconds": seconds})

    def derive_mixed(self, batch_size: int, num_new: int, lengths: list[int]) -> None:
        """Batches in order of arrival, each until its longest row.

        The time of a batch is the parabola through the three that were measured (1 token, the
        captions' and the longest row's): a step takes longer the more keys there are.
        """
        long = self.figures["long"]
        points = [
            (1, self.figures["prefill"]["seconds"]),
            (num_new, self.figures["dynamic"][batch_size]["seconds"]),
            (long["new_tokens"], long["seconds"]),
        ]
        seconds = sum(
            _parabola(points, max(lengths[first : first + batch_size]))
            for first in range(0, len(lengths), batch_size)
        )
        rate = len(lengths) / seconds
        self._note("mixed", {"batch": batch_size, "seconds": seconds, "images_per_s": rate})

    def measure_static(self, batch_size: int, num_new: int) -> None:
        """Time the static cache, whose decode step transformers compiles on a GPU."""
        began = time.perf_counter()
        try:
            self._generate(batch_size, num_new, cache_implementation="static")
            compile_s = time.perf_counter() - began
            seconds = self._generate(batch_size, num_new, cache_implementation="static")
        except Exception as error:  # whatever the compiler raises: the dynamic figures stand
            self._note("static_failed", {str(batch_size): f"{type(error).__name__}: {error}"[:300]})
            return
        self._note(
            "static",
            {
                "batch": batch_size,
                "seconds": seconds,
                "images_per_s": batch_size / seconds,
                "first_call_s": compile_s,
                "peak_gib": self._peak_gib(),
            },
        )

    def _generate(self, batch_size: int, num_new: int, **settings: Any) -> float:
        """Return the seconds of one batch."""
        batch = self._inputs(batch_size)
        if self._device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.inference_mode():
            output = self._model.generate(
                **batch, max_new_tokens=num_new, do_sample=False, **settings
            )
        num_produced = output.shape[1] - batch["input_ids"].shape[1]
        produced = output[:, -1].tolist()  # waits for the device
        seconds = time.perf_counter() - began
        if num_produced != num_new or len(produced) != batch_size:
            raise RuntimeError(f"generate gave {num_produced} tokens instead of {num_new}")
        return seconds

    def _inputs(self, batch_size: int) -> dict[str, Tensor]:
        model = self._shape.model
        num_image, num_words = model.num_image_tokens, NUM_SYSTEM_IDS + NUM_QUESTION_IDS
        ids = torch.randint(3, model.text.vocab_size, (batch_size, num_words + num_image))
        ids[:, :NUM_SYSTEM_IDS] = ids[0, :NUM_SYSTEM_IDS]
        ids[:, NUM_SYSTEM_IDS : NUM_SYSTEM_IDS + num_image] = IMAGE_TOKEN_ID
        ids = ids.to(self._device)
        assert model.high_res is not None
        low_px, high_px = model.low_res.image_size_px, model.high_res.image_size_px

        def pictures(side_px: int) -> Tensor:
            size = (batch_size, 3, side_px, side_px)
            return torch.randn(size, device=self._device, dtype=self._dtype)

        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pictures(low_px),
            "high_res_pixel_values": pictures(high_px),
        }

    def _peak_gib(self) -> float | None:
        return None if self._device == "cpu" else torch.cuda.max_memory_allocated() / (1 << 30)

    def _note(self, name: str, figure: dict[str, Any]) -> None:
        self.figures[name] = self.figures.get(name, {}) | figure
        self._write(f"{name}: {figure}")

    def _write(self, message: str) -> None:
        print(f"  transformers, {message}", flush=True)
        self._out.write_text(json.dumps(self.figures, indent=2))


def _parabola(points: list[tuple[int, float]], x: int) -> float:
    """Evaluate the polynomial through the points (Lagrange); points of equal x count once."""
    places = dict(points)
    total = 0.0
    for here, value in places.items():
        for other in places:
            if other != here:
                value *= (x - other) / (here - other)
        total += value
    return total


if __name__ == "__main__":
    main()
