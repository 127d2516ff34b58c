"""The engine's benchmark without a GPU: its requests, its arithmetic, and the script as a whole."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kernel_times import summarise
from benchmarks.roofline import Ceilings, request_floor, vision_flops
from benchmarks.shapes import FULL, TINY, read_shape
from benchmarks.transformers_baseline import _parabola
from benchmarks.workloads import CAPTIONS, FOUR_PROMPTS, MIXED, make_requests

CEILINGS = Ceilings(bf16_flops=783e12, fp8_flops=1340e12, copy_bytes=4.29e12)


def test_the_script_runs_on_a_cpu_and_writes_every_row(tmp_path: Path) -> None:
    """Time on a GPU is dear: what can break must break here."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.engine", "--tiny", "--no-transformers"]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=900)
    figures = json.loads(out.read_text())["figures"]
    assert figures["failed"] == {}
    assert set(figures["rows"]) == {
        f"bf16 {name}"
        for name in (
            "vision",
            "captions",
            "mixed",
            "mixed-ends",
            "four-prompts",
            "ocr",
            "ocr-drafts",
        )
    }
    assert all(row["images_per_s"] > 0 for row in figures["rows"].values())
    assert figures["rows"]["bf16 captions"]["distinct_share"] == 1


@pytest.mark.parametrize(("precision", "rate"), [("bf16", 42.0), ("fp8", 72.0)])
def test_the_least_time_of_a_caption_is_the_known_one(precision: str, rate: float) -> None:
    """Against figures that were worked out by hand, from the same ceilings."""
    model = read_shape(FULL).model
    assert vision_flops(model) == pytest.approx(1.41e12, rel=0.02)
    floor = request_floor(
        model, CEILINGS, num_prompt_tokens=624, num_new_tokens=128, precision=precision
    )
    assert 1 / floor.seconds == pytest.approx(rate, rel=0.02)


def test_requests_show_different_pictures_behind_the_same_system_text() -> None:
    """Equal pictures would be encoded once, and the figures would be those of something else."""
    requests = make_requests(CAPTIONS.scaled(0.1), read_shape(TINY))
    digests = {request.images[0].digest for request in requests}
    pictures = {request.images[0].low_res.tobytes() for request in requests}
    assert len(digests) == len(pictures) == len(requests) == 102
    prompts = np.stack([request.prompt_ids for request in requests])
    assert prompts.shape[1] == 24 + 9 + 24
    assert (prompts[:, :33] == prompts[0, :33]).all()
    assert len({prompt.tobytes() for prompt in prompts}) == len(requests)


def test_four_prompts_in_a_row_share_a_picture() -> None:
    """As the pipeline hands them over."""
    requests = make_requests(FOUR_PROMPTS.scaled(0.1), read_shape(TINY))
    digests = [request.images[0].digest for request in requests]
    assert len(requests) % 4 == 0
    assert digests == [digest for digest in digests[::4] for _ in range(4)]
    assert len(set(digests)) == len(requests) / 4


def test_mixed_lengths_have_the_mean_that_the_issue_names() -> None:
    """Log-normal, median 90, sigma 0.6, at most 512: a mean of about 108."""
    lengths = MIXED.lengths()
    assert lengths.max() <= 512
    assert lengths.min() >= 1
    assert lengths.mean() == pytest.approx(108, rel=0.03)
    assert np.median(lengths) == pytest.approx(90, rel=0.05)


def test_a_trace_is_summed_by_kernel_and_overlaps_count_once(tmp_path: Path) -> None:
    """Two streams at once make the device no busier than one."""
    events = [
        {"cat": "kernel", "name": "gemm", "ts": 0, "dur": 4000},
        {"cat": "kernel", "name": "gemm", "ts": 6000, "dur": 4000},
        {"cat": "gpu_memcpy", "name": "copy", "ts": 2000, "dur": 3000},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 9000},
    ]
    path = tmp_path / "trace.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": events}, file)
    found = summarise(path)
    assert found["busy_share"] == pytest.approx(0.9)
    assert found["window_ms"] == pytest.approx(10)
    assert [(k["name"], k["ms"], k["calls"]) for k in found["kernels"]] == [
        ("gemm", 8, 2),
        ("copy", 3, 1),
    ]


def test_the_parabola_goes_through_its_points() -> None:
    """Where two of them fall together it is a line."""
    points = [(1, 2.0), (3, 10.0), (5, 26.0)]  # x ** 2 + 1
    assert [_parabola(points, x) for x in (1, 3, 5, 10)] == pytest.approx([2, 10, 26, 101])
    assert _parabola([(1, 1.0), (3, 3.0), (3, 3.0)], 10) == pytest.approx(10)
