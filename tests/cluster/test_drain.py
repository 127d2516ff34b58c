"""Nodes that are told to go, as spot nodes are: nothing is answered twice, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from dsvl_pipeline.errors import RunStoppedError
from dsvl_pipeline.run.run import run_job
from dsvl_pipeline.table.reader import counts, read_table
from dsvl_pipeline.table.verify import verify
from tests.cluster import generated
from tests.fault.cluster import LocalCluster, wait_until
from tests.jobs import fake_job, parse, write_manifest
from tests.quick_ray import quick_ray

pytestmark = pytest.mark.ray

LIMIT_S = 240
"""Machines are shared; what takes longer hangs."""

DRAIN_S = 14
"""Twice what three batches take, one in the engine and two that wait, and their part."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the engines were asked, test after test."""
    return tmp_path_factory.mktemp("generated") / "log"


@pytest.fixture(scope="module")
def cluster(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head that this process is connected to."""
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        # Workers are forked from a process that imports it.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("DSVL_TEST_ALSO_PRELOADED", generated.__name__)
        # Sockets below it have short names or none.
        patch.setenv("RAY_TMPDIR", os.environ.get("RAY_TMPDIR", "/tmp/ray-drain"))
        patch.setenv(generated.LOG, str(log))
        patch.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", str(DRAIN_S))
        Path(os.environ["RAY_TMPDIR"]).mkdir(exist_ok=True)
        with quick_ray():
            cluster = LocalCluster(num_cpus=2)
        ray.init(cluster.address, logging_level="WARNING")
        yield cluster
        ray.shutdown()
        cluster.close()


@pytest.fixture
def node(cluster: LocalCluster) -> Iterator[subprocess.Popen[bytes]]:
    """A second node, as KubeRay starts it: the process that the kubelet sends its SIGTERM."""
    options = f"--address={cluster.address} --num-cpus=2 --object-store-memory=200000000"
    start = [sys.executable, "-m", "tests.quick_ray", "ray", "start", "--block", *options.split()]
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2, LIMIT_S)
        yield process
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def slow_job(folder: Path, num_rows: int) -> dict[str, Any]:
    """Two engines of twenty rows a second each, whose blocks are too large to travel inline."""
    source = write_manifest(str(folder / "in"), num_rows)
    manifest = Path(source["manifest"])
    draw = random.Random(0)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines = [json.dumps(row | {"notes": draw.randbytes(8000).hex()}) for row in rows]
    manifest.write_text("\n".join(lines))
    source["carry"] = ["notes"]
    job = fake_job(source, str(folder / "out"), mean_delay_s=0.25)
    job["cluster"] |= {"replicas": 2, "rows_per_batch": 16, "batches_in_flight": 1}
    return job


def in_the_middle(
    log: Path, action: Callable[[], None], *, num_engines: int = 2, num_rows: int = 32
) -> threading.Thread:
    """Do something as soon as each engine was asked so many rows."""
    before = generated.engines(log)

    def wait() -> None:
        def is_halfway() -> bool:
            asked = generated.engines(log) - before
            return sum(num >= num_rows for num in asked.values()) == num_engines

        if wait_until(is_halfway, LIMIT_S):
            action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_drained_node_costs_no_answer_twice(
    node: subprocess.Popen[bytes], log: Path, tmp_path: Path
) -> None:
    """The node is gone, with its object store, long before its answers' part would be full."""
    ended_s = 0.0

    def drain() -> None:
        nonlocal ended_s
        node.send_signal(signal.SIGTERM)
        node.wait(LIMIT_S)
        ended_s = time.monotonic()

    thread = in_the_middle(log, drain)
    summary = run_job(parse(slow_job(tmp_path, 480)))
    end_s = time.monotonic()
    thread.join()
    assert summary.ok == 480
    assert end_s - ended_s > 1, "the run must outlive the node, or nothing was tried"
    twice = [name for name, num in generated.requests(log).items() if num > 1]
    assert not twice, f"{len(twice)} of 480 rows were generated again"
    assert set(read_table(summary.output_uri)["attempt"].to_pylist()) == {1}
    assert not verify(summary.output_uri).problems


@pytest.mark.usefixtures("node")  # parts are written where there is time
def test_a_driver_on_a_drained_node_commits_and_ends(
    cluster: LocalCluster, log: Path, tmp_path: Path
) -> None:
    """KubeRay's retry is a new cluster: what is not committed in time is computed again."""
    here = ray.get_runtime_context().get_node_id()
    job = slow_job(tmp_path, 600)
    job["cluster"] |= {"replicas": 1}

    def drain() -> None:
        reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        gcs = ray._raylet.GcsClient(address=cluster.address)
        gcs.drain_node(here, reason, "a notice", int(time.time() * 1000) + 10_000)

    # Most of these are answered then, and there is time to write their part on a busy machine.
    thread = in_the_middle(log, drain, num_engines=1, num_rows=96)
    with pytest.raises(RunStoppedError, match="the driver's node is being drained"):
        run_job(parse(job))
    thread.join()
    table = str(tmp_path / "out")
    assert 0 < counts(table).ok < 600
    assert not verify(table).problems
