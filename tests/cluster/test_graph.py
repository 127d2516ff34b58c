"""The graph of a shard on a real Ray that counts a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dsvl_pipeline.cluster import graph, ledger, stream
from dsvl_pipeline.run.prepare import prepare
from tests.jobs import fake_job, parse, write_manifest
from tests.quick_ray import quick_ray

pytestmark = pytest.mark.ray


@pytest.fixture
def _cluster_with_a_gpu() -> Iterator[None]:
    """A cluster that takes this machine's word for its GPU; the fake engine asks nothing of it."""
    import ray

    ray.shutdown()
    with quick_ray():
        ray.init("local", num_cpus=3, num_gpus=1, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("_cluster_with_a_gpu")
def test_an_engine_on_a_gpu_gets_whole_blocks(tmp_path: Path) -> None:
    """Ray wants a batch size for GPUs, and would join or split blocks to reach it."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 37), str(tmp_path / "out"))
    prepared = prepare(parse(job), limit=None, is_fresh=False, stop=threading.Event())
    try:
        (plan,) = prepared.shards
        scale = replace(prepared.scale, num_gpus=1, replicas=1)
        dataset = graph.build(plan, prepared.config, scale, ledger.start())
        sizes = [
            num_rows
            for blocks in stream.blocks_of(stream.Running(dataset), threading.Event())
            for _, num_rows in blocks
        ]
    finally:
        prepared.close()
    assert sorted(sizes) == [5, 16, 16]
    engine = dataset._logical_plan.dag
    assert engine.ray_remote_args["num_gpus"] == 1
    assert (engine.batch_size, engine.min_rows_per_bundled_input) == (None, None)
