"""A driver that loses its Ray cluster: exit code 3, and what was committed is there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dsvl_pipeline.table.reader import read_table
from tests.jobs import fake_job, write_manifest

pytestmark = pytest.mark.ray

NUM_ROWS = 60
# Ray waits for a minute by default; how it ends then is the same.
QUICK = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "2",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "2",
}


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """One in which a driver starts a Ray of its own."""
    folder = Path(tempfile.mkdtemp(prefix="dsvl-"))
    others = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    yield (
        others
        | QUICK
        | {
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": os.getcwd(),
        }
    )
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("lost", ["raylet", "gcs_server"])
def test_a_lost_cluster_ends_with_code_3(
    tmp_path: Path, environment: dict[str, str], lost: str
) -> None:
    """Ray ends the process itself, with a code that means something else here."""
    output = tmp_path / "table"
    job = fake_job(write_manifest(str(tmp_path / "in"), NUM_ROWS), str(output), mean_delay_s=1.0)
    job["output"] |= {"rows_per_part": 5, "seconds_per_part": 1}
    job["cluster"] |= {"rows_per_batch": 5, "batches_in_flight": 1}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    command = [sys.executable, "-m", "tests.quick_ray", "run", str(tmp_path / "job.yaml")]
    driver = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not list((output / "data").rglob("*.parquet")):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    started = psutil.Process(driver.pid).children(recursive=True)
    (victim,) = (process for process in started if process.name() == lost)
    victim.kill()
    said, _ = driver.communicate(timeout=900)
    assert driver.returncode == 3, said
    assert "dsvl: stopped: " in said
    assert "the same command goes on" in said or "run the same command again" in said
    assert "is a bug" not in said
    for process in started:  # Ray's agents look for their GCS for a minute
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    rows = read_table(str(output)).column("row_id").to_pylist()
    assert len(rows) == len(set(rows)) < NUM_ROWS
