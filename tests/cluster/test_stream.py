"""Blocks on their way out of Ray Data, and what of them stays behind."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
import pytest
import ray

from dsvl_pipeline.cluster import connect, stream

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def same(batch: pa.Table) -> pa.Table:
    """Pass a batch on."""
    return batch


def test_nothing_of_a_block_that_left_stays_in_the_driver() -> None:
    """A shard has a hundred thousand of them, and Ray keeps kilobytes of each at every stage."""
    connect.configure()
    dataset = ray.data.range(60, override_num_blocks=60)
    dataset = dataset.map_batches(same, batch_size=None, num_cpus=0.5).map_batches(same, num_cpus=1)
    running = stream.Running(dataset)
    seen, stages = 0, dict[str, list[Any]]()
    for blocks in stream.blocks_of(running, threading.Event()):
        seen += len(blocks)
        for executor in running.executors:
            for operator in executor._topology or ():
                stages[operator.name] = getattr(operator, "_output_blocks_stats", [])
    assert seen == 60
    assert max(len(stats) for stats in stages.values()) > 0  # or Ray keeps them elsewhere now
    assert max(len(stats) for stats in stages.values()) <= 30
