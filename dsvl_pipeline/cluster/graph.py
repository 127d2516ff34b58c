"""The Ray Data graph of one shard: work files in, blocks of answered rows out.

Ray runs a task again where its process or its node was lost. Each stage makes one block of one
block, so that a retry replaces what the first attempt made. Pages are listed, and rows prepared,
anew: each row then in a process of its own, to find the one that kills. Engines are asked again,
and from the second death on alone (`engine_actor`). A part may be written twice, but only the
receipt that reaches the driver is committed (`part_tasks`).
"""

from __future__ import annotations

import functools
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from dsvl_pipeline.cluster.connect import Scale
from dsvl_pipeline.cluster.engine_actor import Generate
from dsvl_pipeline.cluster.ledger import timed
from dsvl_pipeline.cluster.private_ray import map_blocks, task_attempt
from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.pages import list_pages, read_work
from dsvl_pipeline.stages.preprocess import preprocess

_DOCUMENTS_PER_TASK = 8
_MAX_IMAGES_PER_BATCH = 32
# Declared memory also keeps Ray from fusing preprocessing into the engine's actor.
_PREPROCESS_MEMORY_BYTES = 256 << 20


_WHOLE_BLOCK: dict[str, Any] = {
    "batch_size": None,
    "batch_format": "pyarrow",
    "zero_copy_batch": True,
}


def build(plan: ShardPlan, config: StageConfig, scale: Scale, ledger: Any) -> Dataset:
    """Read a shard's work files and answer their rows (`answers`)."""
    work: Dataset = ray.data.from_items(
        list(plan.work_files), override_num_blocks=len(plan.work_files)
    )
    retry_for_s = config.job.limits.store_patience_s
    read = functools.partial(read_work, key=plan.work_key, retry_for_s=retry_for_s)
    work = work.map_batches(read, num_cpus=0.1, **_WHOLE_BLOCK)
    results = answers(
        work,
        config,
        scale,
        ledger,
        max_images=plan.max_images,
        has_documents=plan.num_documents > 0,
    )
    results.set_name(f"{config.job.name}-{plan.shard}")
    return results


def answers(
    work: Dataset,
    config: StageConfig,
    scale: Scale,
    ledger: Any,
    *,
    max_images: int,
    has_documents: bool,
) -> Dataset:
    """List pages, preprocess, generate. Nothing runs until the result is iterated.

    Args:
        work: Rows of `rows.work_schema`.
        config: For the stages.
        scale: How much of the cluster to use.
        ledger: Handle of a `Ledger` actor.
        max_images: Most images in one row.
        has_documents: Whether documents or TIFFs are among the rows, to be opened.
    """
    # A batch is bounded by its images, not its rows: pixels are what fills the object store.
    rows = max(1, min(scale.rows_per_batch, _MAX_IMAGES_PER_BATCH // max(1, max_images)))
    if has_documents:
        work = work.repartition(target_num_rows_per_block=_DOCUMENTS_PER_TASK)
        work = work.map_batches(
            functools.partial(_list_pages, config=config, ledger=ledger), num_cpus=1, **_WHOLE_BLOCK
        )
    work = work.repartition(target_num_rows_per_block=rows)
    requests = work.map_batches(
        functools.partial(_preprocess, config=config, ledger=ledger),
        num_cpus=1,
        memory=_PREPROCESS_MEMORY_BYTES,
        **_WHOLE_BLOCK,
    )
    return _generate(requests, rows, config, scale, ledger)


def _generate(
    requests: Dataset, rows: int, config: StageConfig, scale: Scale, ledger: Any
) -> Dataset:
    """Let engines answer prepared blocks of so many rows."""
    in_flight = scale.batches_in_flight * scale.rows_per_batch // rows
    return map_blocks(
        requests,
        Generate,
        fn_constructor_kwargs={
            "config": config,
            "has_gpu": scale.num_gpus > 0,
            "ledger": ledger,
        },
        compute=ActorPoolStrategy(
            size=scale.replicas,
            max_concurrent_calls_per_actor=in_flight,
            max_tasks_in_flight_per_actor=in_flight + 2,
        ),
        num_gpus=scale.num_gpus,
        num_cpus=1 if scale.num_gpus else config.job.cluster.cpus_per_engine,
        **_WHOLE_BLOCK,
    )


def _list_pages(batch: pa.Table, config: StageConfig, ledger: Any) -> pa.Table:
    with timed(ledger, "list_pages"):
        return list_pages(batch, config=config)


def _preprocess(batch: pa.Table, config: StageConfig, ledger: Any) -> pa.Table:
    """Run as a Ray task; a second attempt follows where the process of the first one died."""
    with timed(ledger, "preprocess"):
        return preprocess(batch, config=config, is_isolated=task_attempt() > 0)
