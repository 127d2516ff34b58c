"""A whole job on a GPU: Ray gives it to the engine, and the answers are those of a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from dsvl_pipeline.doctor.job import check_job
from dsvl_pipeline.doctor.machine import check_gpu
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.table.reader import read_table

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]


def demo(output: Path, **variables: str) -> tuple[pa.Table, str]:
    """Run the demo in a process of its own; give its rows in order, and what it printed."""
    command = "from dsvl_pipeline.cli.main import main; raise SystemExit(main())"
    settings = [f"output.uri={output}", "model.dtype=float32", "cluster.price_per_gpu_hour=3"]
    done = subprocess.run(
        [sys.executable, "-c", command, "run", "configs/demo.yaml"]
        + [word for setting in settings for word in ("--set", setting)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_table(str(output))
    return rows.sort_by(
        [(n, "ascending") for n in ("row_id", "page_index", "prompt_id")]
    ), done.stdout


def test_the_demo_says_the_same_as_on_a_cpu(tmp_path: Path) -> None:
    """Page by page and picture by picture, in float32."""
    on_gpu, printed = demo(tmp_path / "gpu")
    on_cpu, _ = demo(tmp_path / "cpu", CUDA_VISIBLE_DEVICES="")
    print(printed)
    names = ["row_id", "page_index", "prompt_id", "status", "error_code", "text"]
    assert on_gpu.num_rows > 40
    assert on_gpu.select(names).equals(on_cpu.select(names))
    assert "engines busy" in printed
    assert " USD per 1,000 rows" in printed


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_the_doctor_finds_nothing_wrong_with_it(tmp_path: Path, quantization: str) -> None:
    """Neither with the card nor with what a job wants of it."""
    found = check_gpu()
    print(found.text)
    assert found.grade == "ok"
    settings = [f"output.uri={tmp_path}", f"engine.quantization={quantization}"]
    job = load_job(ROOT / "configs" / "demo.yaml", settings)
    assert [one for one in check_job(job) if one.grade == "problem"] == []
