"""The pipeline's benchmark without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import pipeline_gpu


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_the_script_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoint, JPEGs, the engine alone and the job: every figure is written."""
    out = tmp_path / "figures.json"
    arguments = ["--tiny", "--rows", "24", "--alone", "8", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["pipeline_gpu", *arguments])
    pipeline_gpu.main()
    figures = json.loads(out.read_text())["figures"]
    assert figures["pipeline"]["rows"] == 24
    assert figures["alone"]["rows_per_s"] > 0
    assert figures["share_of_engine"]["share"] > 0


def test_start_and_end_do_not_count_in_the_steady_state() -> None:
    """Ten seconds before the first row, and a slow last tenth."""
    seen = [(10.0 + number / 50, number) for number in range(1, 181)]
    seen += [(13.6 + number, 180 + number) for number in range(1, 21)]
    assert pipeline_gpu.steady_rate(seen) == pytest.approx(50)
