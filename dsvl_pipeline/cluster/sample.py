"""Rows that are answered for nothing but to see how long it takes."""

from __future__ import annotations

import contextlib
import threading

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from dsvl_pipeline.cluster import graph, ledger, stream
from dsvl_pipeline.cluster.connect import Scale
from dsvl_pipeline.cluster.ray_errors import explaining
from dsvl_pipeline.stages.config import StageConfig

_LAST_WORD_S = 30.0


def answer(todo: pa.Table, config: StageConfig, scale: Scale) -> tuple[int, dict[str, float]]:
    """Answer some rows with the job's engines, and keep none of the answers.

    Args:
        todo: Of `rows.work_schema`, at least one row; a document is read to its last page.
        config: Of the job.
        scale: How much of the cluster to use.

    Returns:
        How many rows came out, and what the engines counted (`ledger.total`).

    Raises:
        RunStoppedError: Ray could not go on.
    """
    reports = ledger.Reports()
    with explaining():
        dataset = graph.answers(
            ray.data.from_arrow(todo),
            config,
            scale,
            reports.ledger,
            max_images=pc.max(pc.list_value_length(todo["sources"])).as_py() or 0,
            has_documents=todo["row_key"].null_count > 0,
        )
        running = stream.Running(dataset)
        with contextlib.closing(stream.blocks_of(running, threading.Event())) as results:
            num_rows = sum(rows for blocks in results for _, rows in blocks)
        report = reports.last(_LAST_WORD_S)
        reports.close()
    return num_rows, report[0] if report else {}
