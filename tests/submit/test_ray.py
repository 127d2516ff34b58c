"""A job that is handed to a Ray head over its job API runs there to its end, and tells how."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private import ray_constants, services
from ray.cluster_utils import Cluster

from dsvl_pipeline import read_table
from dsvl_pipeline.cli import main
from tests.jobs import fake_job, write_manifest

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 20


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Start a head with its dashboard, in an environment that knows this Python; give its URL."""
    folder = tempfile.mkdtemp(prefix="dsvl-")  # a socket's path must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
        patch.delenv("PYTHONPATH", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        # A dashboard is ten processes, which take their time on a busy machine; three are asked.
        patch.setattr("ray._private.ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S", 240)
        start = services.start_ray_process

        def of_jobs_only(command: list[str], process_type: str, **options: Any) -> Any:
            if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
                command = [*command, "--modules-to-load=JobHead,NodeHead,ReportHead"]
            return start(command, process_type, **options)

        patch.setattr(services, "start_ray_process", of_jobs_only)
        ports = ("dashboard_port", "dashboard_agent_listen_port")
        arguments = {"num_cpus": 3, "include_dashboard": True, "object_store_memory": 200 << 20}
        arguments |= {name: free_port() for name in ports}
        cluster = Cluster(initialize_head=True, head_node_args=arguments)
        try:
            yield f"http://{cluster.webui_url.removeprefix('http://')}"
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def job_file(folder: Path, **changed: object) -> Path:
    """Write a small job of the fake engine, and its pictures, below a folder."""
    job = fake_job(write_manifest(str(folder / "in"), NUM_ROWS), str(folder / "out"))
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job | changed), encoding="utf-8")
    return path


@pytest.mark.ray
def test_dsvl_submit_runs_a_job_and_shows_it(
    head: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same rows as `dsvl run` gives, the same output, the same exit code."""
    path = job_file(tmp_path)
    command = ["submit", str(path), "--target", "ray", "--address", head]
    assert main.main([*command, "--limit", "15"]) == 0
    shown = capfd.readouterr().out
    assert "Ray job test-" in shown
    assert "15 rows" in shown
    assert read_table(str(tmp_path / "out")).num_rows == 15
    # A job that is wrong: what it says and its code come back.
    assert main.main([*command, "--set", "input.columns.id=nowhere"]) == 2
    assert "nowhere" in "".join(capfd.readouterr())


@pytest.mark.ray
def test_ray_job_submit_runs_the_jobs_script(head: str, tmp_path: Path) -> None:
    """The line that the README gives; nothing of Ray is in ``jobs/``."""
    path = job_file(tmp_path)
    command = ["ray", "job", "submit", "--address", head, "--working-dir", ".", "--"]
    script = ["python", "jobs/caption.py", "--config", str(path)]
    result = subprocess.run(
        [*command, *script], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert read_table(str(tmp_path / "out")).num_rows == NUM_ROWS
    for script_file in (ROOT / "jobs").glob("*.py"):
        assert "import ray" not in script_file.read_text(encoding="utf-8")


def test_no_head_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do."""
    command = ["submit", str(job_file(tmp_path)), "--target", "ray"]
    assert main.main([*command, "--address", "http://127.0.0.1:9"]) == 2
    assert "no Ray head answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_a_dry_run_asks_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And shows places as the cluster will be told: in full."""
    path = job_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ["submit", str(path), "--target", "ray", "--address", "http://127.0.0.1:9"]
    assert (
        main.main([*command, "--dry-run", "--set", "output.uri=results", "--limit", "7", "--quiet"])
        == 0
    )
    shown = capsys.readouterr().out
    assert f"uri: {tmp_path}/results" in shown
    assert "run --config job.yaml --limit 7 --quiet\n" in shown
