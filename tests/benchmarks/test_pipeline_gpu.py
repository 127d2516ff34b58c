"""The pipeline's benchmark without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.pipeline_gpu import steady_rate


@pytest.mark.ray
def test_the_script_runs_on_a_cpu(tmp_path: Path) -> None:
    """Checkpoint, JPEGs, the engine alone and the job: every figure is written."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.pipeline_gpu", "--tiny", "--rows", "24"]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=240)
    figures = json.loads(out.read_text())["figures"]
    assert figures["pipeline"]["rows"] == 24
    assert figures["alone"]["rows_per_s"] > 0
    assert figures["share_of_engine"]["share"] > 0


def test_start_and_end_do_not_count_in_the_steady_state() -> None:
    """Ten seconds before the first row, and a slow last tenth."""
    seen = [(10.0 + number / 50, number) for number in range(1, 181)]
    seen += [(13.6 + number, 180 + number) for number in range(1, 21)]
    assert steady_rate(seen) == pytest.approx(50)
