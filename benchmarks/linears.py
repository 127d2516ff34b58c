"""What the language model's layers are made of, one by one, on one GPU: rows as they come.

    python -m benchmarks.linears [--only products,rows,layer,towers]

Products in TFLOP/s, in bf16 and with both sides in eight bits (rows already quantised, as the
norms hand them over); passes over rows in TB/s of bytes read and written, beside a copy of as many;
a whole layer without its attention, and the image towers, in milliseconds. Every call finds the
caches cold. A row that fails says why, and the next one follows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.results import write_results
from benchmarks.shapes import FULL, fill_randomly, read_shape
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.model.llama import LlamaLayer
from dsvl_pipeline.model.sam import SamTower
from dsvl_pipeline.model.siglip import SiglipTower
from dsvl_pipeline.ops.activation import silu_mul
from dsvl_pipeline.ops.image_norms import add_layer_norm
from dsvl_pipeline.ops.linear import project
from dsvl_pipeline.ops.norms import add_rms_norm, rms_norm
from dsvl_pipeline.ops.quantize import quantize_rows
from dsvl_pipeline.ops.rotary import rotary_frequencies, rotary_tables

D, INNER, VOCAB = 4096, 11008, 102400
PRODUCTS = {  # name: (outputs, inputs)
    "qkv": (3 * D, D),
    "out": (D, D),
    "gate_up": (2 * INNER, D),
    "down": (D, INNER),
    "lm_head": (VOCAB, D),
}
NUM_ROWS = (128, 256, 512, 1152, 2304, 8192)
NUM_IMAGES = 16

Row = dict[str, Any]


@torch.inference_mode()
def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sections = {"products": products, "rows": rows, "layer": layer, "towers": towers}
    parser.add_argument("--only", default=",".join(sections), help="sections, by comma")
    chosen = parser.parse_args().only.split(",")
    torch.manual_seed(0)
    figures: dict[str, list[Row]] = {}
    for name in chosen:
        print(f"\n{name}", flush=True)
        figures[name] = [show(row) for row in sections[name]()]
    name = torch.cuda.get_device_name()
    write_results("linears", figures, device=name.split()[-1].lower())


def show(row: Row) -> Row:
    """Print one row."""
    cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
    print("  ".join(f"{k} {v:>8}" for k, v in zip(row, cells, strict=True)), flush=True)
    return row


def measure(
    label: Row, run: Callable[[], object], *, num_flops: int = 0, num_bytes: int = 0
) -> Row:
    """Time one thing; a failure becomes part of the row."""
    try:
        ms = milliseconds(run)
        row = {**label, "us": ms * 1000}
        if num_flops:
            row["TFLOP/s"] = num_flops / ms / 1e9
        if num_bytes:
            source, target = torch.empty(2, num_bytes // 2, dtype=torch.uint8, device="cuda")
            copy_ms = milliseconds(partial(target.copy_, source))
            row |= {"TB/s": num_bytes / ms / 1e9, "of a copy": copy_ms / ms}
    except Exception as error:
        return {**label, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    return row


def milliseconds(run: Callable[[], object]) -> float:
    """Median of what the GPU takes; its caches are emptied before every call."""
    from triton.testing import do_bench

    return float(do_bench(run, warmup=10, rep=40, return_mode="median"))


def products() -> Iterator[Row]:
    """TFLOP/s of each projection at the row counts of decode, drafts and prefill."""
    for name, (N, K) in PRODUCTS.items():
        wide = torch.randn(N, K, dtype=torch.bfloat16, device="cuda") * K**-0.5
        small = quantize_rows(wide)
        for M in NUM_ROWS:
            x = torch.randn(M, K, dtype=torch.bfloat16, device="cuda")
            label, num_flops = {"product": name, "rows": M}, 2 * M * N * K
            run = partial(project, x, wide)
            yield measure(label | {"dtype": "bf16"}, run, num_flops=num_flops)
            run = partial(project, quantize_rows(x), small.values, None, small.scale)
            yield measure(label | {"dtype": "fp8"}, run, num_flops=num_flops)
        yield accuracy(name, wide[:4096])


def accuracy(name: str, wide: Tensor) -> Row:
    """Relative errors: of the eight-bit operands, and what bf16 and short sums add to them."""
    x = torch.randn(256, wide.shape[1], dtype=torch.bfloat16, device="cuda")
    rows, weight = quantize_rows(x), quantize_rows(wide)
    exact = x.double() @ wide.double().t()
    rounded = (rows.values.double() * rows.scale) @ (weight.values.double() * weight.scale).t()
    row: Row = {"product": name, "operands' error": relative_error(rounded, exact)}
    for label, is_fast in (("fast sums'", True), ("exact sums'", False)):
        try:
            found = torch._scaled_mm(
                rows.values,
                weight.values.t(),
                scale_a=rows.scale,
                scale_b=weight.scale.t(),
                out_dtype=torch.bfloat16,
                use_fast_accum=is_fast,
            )
            row[label] = relative_error(found, rounded)
        except Exception as failure:
            row[label] = f"failed: {failure}".splitlines()[0]
    return row


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over norm of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def rows() -> Iterator[Row]:
    """TB/s of the passes between projections, and their share of a copy's rate."""
    gain = torch.ones(D, dtype=torch.bfloat16, device="cuda")
    for T in (8192, 256):
        x, delta = torch.randn(2, T, D, dtype=torch.bfloat16, device="cuda").unbind()
        inner = torch.randn(T, INNER, dtype=torch.bfloat16, device="cuda")
        gate_up = torch.randn(T, 2 * INNER, dtype=torch.bfloat16, device="cuda")
        norm, add = partial(rms_norm, x, gain, 1e-6), partial(add_rms_norm, x, delta, gain, 1e-6)
        gate = partial(silu_mul, gate_up)
        passes: dict[str, tuple[int, Callable[[], object]]] = {
            "rms_norm": (4 * D, norm),
            "rms_norm fp8": (3 * D, partial(norm, quantize=True)),
            "add_rms_norm": (8 * D, add),
            "add_rms_norm fp8": (7 * D, partial(add, quantize=True)),
            "silu_mul": (6 * INNER, gate),
            "silu_mul fp8": (5 * INNER, partial(gate, quantize=True)),
            "quantize 4096": (3 * D, partial(quantize_rows, x)),
            "quantize 11008": (3 * INNER, partial(quantize_rows, inner)),
        }
        for name, (row_bytes, run) in passes.items():
            yield measure({"pass": name, "rows": T}, run, num_bytes=row_bytes * T)
    yield from patch_rows()


def patch_rows() -> Iterator[Row]:
    """SAM's norms: over the grid, into windows of 14 (70 x 70 with padding), and out of them."""
    N, G, W, width = NUM_IMAGES // 2, 64, 14, 768
    weight, bias = torch.ones(2, width, dtype=torch.bfloat16, device="cuda").unbind()
    x, delta = torch.randn(2, N, G, G, width, dtype=torch.bfloat16, device="cuda").unbind()
    windows = torch.randn(N * 25, W, W, width, dtype=torch.bfloat16, device="cuda")
    norm, plain = partial(add_layer_norm, x), (weight, bias, 1e-6)
    grid_bytes, window_bytes = 2 * x.numel(), 2 * windows.numel()
    passes: dict[str, tuple[int, Callable[[], object]]] = {
        "add_layer_norm": (4 * grid_bytes, partial(norm, delta, *plain)),
        "the same into windows": (
            3 * grid_bytes + window_bytes,
            partial(norm, delta, *plain, window_after=W),
        ),
        "the same out of windows": (
            4 * grid_bytes,
            partial(norm, windows, *plain, window_before=W),
        ),
    }
    for name, (num_bytes, run) in passes.items():
        yield measure({"pass": name, "rows": N * G * G}, run, num_bytes=num_bytes)


def layer() -> Iterator[Row]:
    """A layer whose attention gives back its queries."""
    config = read_shape(FULL).model.text
    num_weights = sum(N * K for name, (N, K) in PRODUCTS.items() if name != "lm_head")

    def attend(heads: Tensor, *_: object) -> Tensor:
        return heads[:, : config.num_heads]

    frequencies = rotary_frequencies(config.head_dim, config.rope_theta).cuda()
    for dtype in ("bf16", "fp8"):
        module = prepare(partial(LlamaLayer, config), dtype)
        for T in (8192, 256):
            hidden, delta = torch.randn(2, T, D, dtype=torch.bfloat16, device="cuda").unbind()
            cos, sin = rotary_tables(torch.arange(T, device="cuda"), frequencies)
            run = partial(module, hidden, delta, cos, sin, attend, 0, None)
            label = {"layer": dtype, "rows": T}
            yield measure(label, run, num_flops=2 * T * num_weights)


def towers() -> Iterator[Row]:
    """The image towers, and how far eight bits are from sixteen."""
    config = read_shape(FULL).model
    low_res, high_res = config.low_res, config.high_res
    assert high_res is not None
    parts: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "siglip": (partial(SiglipTower, low_res), low_res.image_size_px),
        "sam": (partial(SamTower, high_res, low_res.grid_size), high_res.image_size_px),
    }
    for name, (make, side) in parts.items():
        pixels = torch.randn(NUM_IMAGES, 3, side, side, dtype=torch.bfloat16, device="cuda")
        wanted: Tensor | None = None
        for dtype in ("bf16", "fp8"):
            module = prepare(make, dtype)
            label = {"tower": name, "images": NUM_IMAGES, "dtype": dtype}
            row = measure(label, partial(module, pixels))
            if "failed" not in row:
                found = module(pixels)
                wanted = found if wanted is None else wanted
                row |= {"us/image": row["us"] / NUM_IMAGES, "error": relative_error(found, wanted)}
            yield row


def prepare(make: Callable[[], nn.Module], dtype: str) -> nn.Module:
    """Make a module on the GPU with random weights, those of its projections in eight bits."""
    with torch.device("cuda"):
        module = make().to(torch.bfloat16).eval()
    fill_randomly(module, seed=0)
    if dtype == "fp8":
        for part in module.modules():
            if isinstance(part, Linear):
                part.quantize_()
    return module


if __name__ == "__main__":
    main()
