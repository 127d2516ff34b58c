"""The attention kernels at the 7B's sizes, in several tiles, against the card and torch's own.

    python -m benchmarks.kernels [--only decode,prefill,rotate,grid,image,launch] [--write]

Every row is printed as it comes; one that fails says so and the next follows. The rows marked with
``*`` are what the project uses. Inputs are larger than any cache, or the cache is cleared before
each run. ``error`` is the relative difference to the section's first row with the same inputs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.results import gpu_versions, write_results
from dsvl_pipeline.ops.image_attention import attend_image
from dsvl_pipeline.ops.kernels import (
    decode_attention,
    image_attention,
    prefill_attention,
    rotary,
)
from dsvl_pipeline.ops.kernels.attention_tiles import Tiles
from dsvl_pipeline.ops.values import SharedPages

DEVICE, BF16, FLOAT8 = "cuda", torch.bfloat16, torch.float8_e4m3fn
H, D, PAGE = 32, 128, 64
SCALE = D**-0.5


class Table:
    """Rows so far; each is printed as it is added."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.wanted: Tensor | None = None

    def section(self, title: str) -> None:
        """Start with other inputs."""
        self.wanted = None
        print(f"\n{title}", flush=True)

    def add(
        self,
        name: str,
        run: Callable[..., Any],
        *arguments: Any,
        work: float,
        unit: str,
        is_used: bool = False,
    ) -> None:
        """Time one variant, of ``work`` bytes or operations per run."""
        from triton.testing import do_bench

        label = f"{'*' if is_used else ' '} {name:58}"
        try:
            found = run(*arguments)
            error = self._error(found) if isinstance(found, Tensor) else None
            ms: float = do_bench(lambda: run(*arguments), warmup=5, rep=30, return_mode="median")
        except Exception as failure:  # one variant that does not fit must not end the table
            torch.cuda.synchronize()
            print(f"{label} failed: {type(failure).__name__}: {str(failure)[:160]!r}", flush=True)
            self.rows.append({"name": name, "failed": str(failure)[:400]})
            return
        rate = work / ms / (1e6 if unit == "GB/s" else 1e9)
        shown = "" if error is None else f"   error {error:.1e}"
        print(f"{label} {ms:8.4f} ms {rate:8.3f} {unit}{shown}", flush=True)
        self.rows.append({"name": name, "ms": ms, unit: rate, "error": error})

    def _error(self, found: Tensor) -> float:
        found = found.float()
        if self.wanted is None:
            self.wanted = found
        difference = (found.flatten() - self.wanted.flatten()).norm()
        return float(difference / self.wanted.norm())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by comma")
    parser.add_argument("--write", action="store_true", help="write a results file as well")
    args = parser.parse_args()
    gpu = gpu_versions()
    print(gpu)
    started = time.monotonic()
    table = Table()
    torch.manual_seed(0)
    with torch.inference_mode():
        for name in args.only.split(","):
            SECTIONS[name](table)
            torch.cuda.empty_cache()
    print(f"\n{time.monotonic() - started:.0f} s")
    if args.write:
        device = gpu["name"].split()[-1].lower()
        write_results("kernels", {"rows": table.rows}, device=device, gpu=gpu)


def normal(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    """Values around 1."""
    return torch.randn(*shape, device=DEVICE, dtype=BF16).to(dtype)


def starts(lengths: list[int]) -> Tensor:
    """Give ``query_starts``."""
    return F.pad(torch.tensor(lengths, dtype=torch.int32, device=DEVICE).cumsum(0), (1, 0)).int()


def tiles(*cases: tuple[int, int, int, int]) -> list[Tiles]:
    """Give tiles of these queries, keys, warps and stages."""
    return [Tiles(queries=q, keys=k, num_warps=w, num_stages=s) for q, k, w, s in cases]


def with_used(used: Tiles, others: list[Tiles]) -> Iterator[tuple[Tiles, str, bool]]:
    """Give each once with its name, the used one first."""
    for one in (used, *(other for other in others if other != used)):
        name = f"{one.queries:3} x {one.keys:3}, {one.num_warps} warps, {one.num_stages} stages"
        yield one, name, one == used


def decode(table: Table) -> None:
    """256 sequences of about 700 tokens; the copy is what the memory gives at best."""
    table.section("decode: 256 sequences x 640-760 tokens x 32 heads (TB/s of keys and values)")
    source = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    table.add("copy, bytes read and written", target.copy_, source, work=2**31, unit="TB/s")
    del source, target
    lengths = torch.randint(640, 760, (256,), dtype=torch.int32, device=DEVICE)
    pages = torch.randperm(256 * 12, device=DEVICE).view(256, 12).int()
    wide = [normal(256 * 12, H, PAGE, D) for _ in "kv"]
    num_values = float(lengths.sum()) * H * D * 2

    def add(
        name: str,
        kv: list[Tensor],
        q_len: int,
        one: Tiles | None,
        is_used: bool,
        shared: SharedPages | None = None,
    ) -> None:
        q, begins = queries[q_len], starts([q_len] * 256)
        table.add(
            f"{name}, q_len {q_len}",
            decode_attention.decode,
            *(q, *kv, begins, pages, lengths, q_len, SCALE, one, shared),
            work=num_values * kv[0].element_size(),
            unit="TB/s",
            is_used=is_used,
        )

    queries = {q_len: normal(256 * q_len, H, D) for q_len in (1, 8, 17)}
    cases = [(16, 64, w, s) for w, s in ((2, 3), (4, 5), (8, 3))]
    table.wanted = None  # the copy's
    for one, name, is_used in with_used(decode_attention.DECODE, tiles(*cases)):
        add(f"bf16 {name}", wide, 1, one, is_used)
    narrow = [x.to(FLOAT8) for x in wide]
    cases = [(16, 64, w, s) for w, s in ((1, 3), (2, 5), (4, 3), (4, 5), (8, 3))]
    for one, name, is_used in with_used(decode_attention.DECODE_FLOAT8, tiles(*cases)):
        add(f"fp8 {name}", narrow, 1, one, is_used)
    for q_len in (8, 17):
        table.wanted = None
        add("bf16", wide, q_len, None, True)
        add("fp8", narrow, q_len, None, True)

    table.section("decode: 64 x 4 sequences, 9 pages of each 4 the same (TB/s as if read by each)")
    pages[:, :9] = pages.view(64, 4, 12)[:, :1, :9].expand(64, 4, 9).reshape(256, 9)
    shared = SharedPages(
        group_starts=torch.arange(0, 257, 4, dtype=torch.int32, device=DEVICE),
        shared_lens=torch.full((64,), 9 * PAGE, dtype=torch.int32, device=DEVICE),
        max_group_size=4,
    )
    for name, kv in (("bf16", wide), ("fp8", narrow)):
        add(f"{name}, each for itself", kv, 1, None, False)
        add(f"{name}, together", kv, 1, None, True, shared)


def prefill(table: Table) -> None:
    """13 prompts of 624 tokens, whole; then the second halves of prompts of 1248."""
    count, length = 13, 624
    flops = 4.0 * H * D * count * length * (length + 1) / 2
    table.section(f"prefill: {count} x {length} tokens x 32 heads, causal (TFLOP/s)")
    q, k, v = (normal(count * length, H, D) for _ in "qkv")
    begins, width = starts([length] * count), 20
    pages = torch.randperm(count * width, device=DEVICE).view(count, width).int()
    lengths = torch.full((count,), length, dtype=torch.int32, device=DEVICE)
    token = torch.arange(count * length, device=DEVICE)
    at = token % length
    slots = pages[token // length, at // PAGE].long() * PAGE + at % PAGE
    heads, turn = torch.cat((q, k, v), 1), torch.zeros(count * length, D // 2, device=DEVICE)
    kv = {dtype: normal(2, count * width, H, PAGE, D, dtype=dtype) for dtype in (BF16, FLOAT8)}
    for stored in kv.values():  # turned by no angle
        rotary.rotate_and_store(heads, turn + 1, turn, stored[0], stored[1], slots, H)

    def paged(dtype: torch.dtype, one: Tiles | None) -> Tensor:
        k, v = kv[dtype]
        return prefill_attention.prefill(q, k, v, begins, pages, lengths, length, SCALE, one)

    def flash() -> Tensor:
        varlen = torch.ops.aten._flash_attention_forward
        arguments = (q, k, v, begins, begins, length, length, 0.0, True, False)
        found: Tensor = varlen(*arguments, scale=SCALE)[0]
        return found

    work: dict[str, Any] = {"work": flops, "unit": "TFLOP/s"}
    table.add("aten flash varlen, no pages", flash, **work)
    others = tiles((128, 64, 4, 3), (64, 64, 4, 3))
    for one, name, is_used in with_used(prefill_attention.PREFILL, others):
        arguments = (q, k, v, begins, None, None, length, SCALE, one)
        label = f"bf16 without pages {name}"
        table.add(label, prefill_attention.prefill, *arguments, is_used=is_used, **work)
    cases = [
        *((128, 64, w, s) for w, s in ((8, 2), (8, 5), (4, 3), (4, 5))),
        *((64, 64, 4, s) for s in (2, 3, 5)),
        *((128, 128, 8, s) for s in (2, 3)),
        (128, 32, 4, 5),
    ]
    for one, name, is_used in with_used(prefill_attention.PREFILL, tiles(*cases)):
        table.add(f"bf16 {name}", paged, BF16, one, is_used=is_used, **work)
    cases = [(128, 64, 8, 5), (128, 64, 4, 3), (64, 64, 4, 3), (64, 64, 4, 5), (128, 128, 8, 3)]
    for one, name, is_used in with_used(prefill_attention.PREFILL_FLOAT8, tiles(*cases)):
        table.add(f"fp8 {name}", paged, FLOAT8, one, is_used=is_used, **work)

    table.section("prefill behind as many tokens: 13 x 624 of 1248")
    lengths *= 2
    work["work"] = 4.0 * H * D * count * length * (length * 1.5)
    table.add("bf16", paged, BF16, None, is_used=True, **work)
    table.add("fp8", paged, FLOAT8, None, is_used=True, **work)


def rotate(table: Table) -> None:
    """A decode step's tokens and a prefill's."""
    for T in (256, 8192):
        table.section(f"rotate and store: {T} tokens (GB/s read and written)")
        heads, turn = normal(T, 3 * H, D), torch.rand(T, D // 2, device=DEVICE)
        token = torch.arange(T, device=DEVICE)
        slots = torch.randperm(T // PAGE, device=DEVICE)[token // PAGE] * PAGE + token % PAGE
        for dtype in (BF16, FLOAT8):
            kv = normal(2, T // PAGE, H, PAGE, D, dtype=dtype)
            num_bytes = heads.nbytes + T * H * D * (2 + 2 * kv.element_size())
            table.add(
                f"{dtype}",
                rotary.rotate_and_store,
                *(heads, turn, turn, kv[0], kv[1], slots, H),
                work=num_bytes,
                unit="GB/s",
                is_used=True,
            )


def grid(table: Table) -> None:
    """SAM's two kinds of layer for 8 images: 12 heads of 64."""
    cases = ((8, 64, "whole grids, 8 x 4096"), (200, 14, "windows, 200 x 196"))
    for N, G, title in cases:
        L = G * G
        q, k, v = normal(N, L, 3, 12, 64).permute(2, 0, 3, 1, 4)
        rel_pos = normal(2, 2 * G - 1, 64) / 4
        table.section(f"SAM, {title}, with the relative terms (TFLOP/s)")
        used = image_attention.WINDOW if G == 14 else image_attention.GRID
        others = tiles((64, 64, 4, 2), (64, 64, 4, 4), (128, 64, 8, 3), (128, 64, 4, 3))
        if G == 14:
            others += tiles((32, 64, 2, 3), (64, 64, 2, 3))
        for one, name, is_used in with_used(used, others):
            table.add(
                name,
                image_attention.attend_grid,
                *(q, k, v, rel_pos[0], rel_pos[1], one),
                work=4.0 * N * 12 * L * L * 64,
                unit="TFLOP/s",
                is_used=is_used,
            )
        table.add(
            "the relative terms alone, bytes written",
            image_attention.relative_terms,
            *(q, rel_pos[0], rel_pos[1]),
            work=2.0 * N * 12 * L * 2 * G,
            unit="GB/s",
            is_used=True,
        )


def image(table: Table) -> None:
    """SigLIP for 8 and 32 images: 16 heads of 64 over 576 patches."""
    for N in (8, 32):
        table.section(f"SigLIP, {N} images (TFLOP/s)")
        q, k, v = normal(N, 576, 3, 16, 64).permute(2, 0, 3, 1, 4)
        work: dict[str, Any] = {"work": 4.0 * N * 16 * 576 * 576 * 64, "unit": "TFLOP/s"}
        table.add("torch's choice", F.scaled_dot_product_attention, q, k, v, **work)
        table.add("cuDNN preferred", attend_image, q, k, v, is_used=True, **work)


def launch(table: Table) -> None:
    """What a call costs the host where nothing waits for the device."""
    table.section("a call's time on the host (us)")
    q, kv = normal(1, 1, 16), normal(2, 1, 1, 16, 16)
    ones = torch.ones(1, dtype=torch.int32, device=DEVICE)
    begins, pages = starts([1]), torch.zeros(1, 1, dtype=torch.int32, device=DEVICE)
    for _ in range(2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(200):
            decode_attention.decode(q, kv[0], kv[1], begins, pages, ones, 1, SCALE)
        spent = (time.perf_counter() - started) / 200 * 1e6
    print(f"* decode {spent:.1f} us")
    table.rows.append({"name": "decode on the host", "us": spent})


SECTIONS: dict[str, Callable[[Table], None]] = {
    "decode": decode,
    "prefill": prefill,
    "rotate": rotate,
    "grid": grid,
    "image": image,
    "launch": launch,
}

if __name__ == "__main__":
    main()
