"""What choosing a step's tokens costs on one GPU: the kernels, torch's argmax, the reference.

    python -m benchmarks.sampling [--rows 256]

Microseconds for bf16 logits of a vocabulary of 102,400, in under 20 seconds. The kernels find the
caches cold, which flatters nobody: in the engine the head has just written the logits. The
reference sorts where rows are filtered and draws float64 noise.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.results import gpu_versions, write_results
from dsvl_pipeline.ops.sampling import choose, sample, sample_with_logprobs
from dsvl_pipeline.ops.values import SamplingTensors
from dsvl_pipeline.records import SamplingParams

VOCAB = 102_400
SETTINGS = {
    "greedy": SamplingParams(),
    "temperature": SamplingParams(temperature=1.0),
    "top-p 0.9": SamplingParams(temperature=1.0, top_p=0.9),
    "top-k 50": SamplingParams(temperature=1.0, top_k=50),
    "top-k 50, top-p 0.9": SamplingParams(temperature=1.0, top_k=50, top_p=0.9),
}


@torch.inference_mode()
def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="sequences of a step")
    num_rows = parser.parse_args().rows
    torch.manual_seed(0)
    logits = (3 * torch.randn(num_rows, VOCAB, device="cuda")).bfloat16()
    read = logits.nbytes
    figures: dict[str, Any] = {}

    def show(name: str, us: float, **more: float) -> None:
        figures[name] = {"us": us, "TB/s of one read": read / us / 1e6, **more}
        cells = "  ".join(f"{key} {value:10.4g}" for key, value in figures[name].items())
        print(f"{name:36}  {cells}", flush=True)

    show("torch.argmax", microseconds(partial(logits.argmax, -1)))
    for name, row in SETTINGS.items():
        params = settings(row, num_rows)
        us = microseconds(partial(sample, logits, params))
        same = (sample(logits, params) == choose(logits, params)).float().mean().item()
        show(name, us, reference_us=microseconds(partial(choose, logits, params)), same=same)
    greedy, mixed = (
        settings(SETTINGS["greedy"], num_rows),
        settings(SETTINGS["top-p 0.9"], num_rows),
    )
    show("greedy, with logprobs", microseconds(partial(sample_with_logprobs, logits, greedy)))
    masked = replace(
        greedy,
        allowed=torch.full((num_rows, VOCAB // 32), -1, dtype=torch.int32, device="cuda"),
        seen=torch.zeros(num_rows, VOCAB, dtype=torch.bool, device="cuda"),
    )
    show("greedy, masked", microseconds(partial(sample, logits, masked)))
    penalised = replace(masked, repetition_penalty=masked.repetition_penalty + 0.1)
    show("greedy, masked and penalised", microseconds(partial(sample, logits, penalised)))
    mixed.temperature[4:] = 0
    show("top-p 0.9, all but four rows greedy", microseconds(partial(sample, logits, mixed)))
    name = torch.cuda.get_device_name().split()[-1].lower()
    write_results(f"sampling-{num_rows}", figures, device=name, gpu=gpu_versions())


def microseconds(run: Any) -> float:
    """Median of what the GPU takes, caches emptied before every call."""
    from triton.testing import do_bench

    return 1000 * float(do_bench(run, warmup=10, rep=60, return_mode="median"))


def settings(row: SamplingParams, num_rows: int) -> SamplingTensors:
    """Give every row the same settings and a seed of its own."""

    def column(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((num_rows,), value, dtype=dtype, device="cuda")

    return SamplingTensors(
        temperature=column(row.temperature),
        top_k=column(row.top_k, torch.int64),
        top_p=column(row.top_p, torch.float64),
        min_p=column(row.min_p),
        repetition_penalty=column(row.repetition_penalty),
        seed=torch.arange(num_rows, device="cuda"),
        position=column(7, torch.int64),
        seen=None,
        is_sampled=row.temperature > 0,
        is_filtered=row.top_k > 0 or row.top_p < 1 or row.min_p > 0,
    )


if __name__ == "__main__":
    main()
