"""What a run will take, from what an earlier one took, or a sample of its rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dsvl_pipeline.cluster import sample
from dsvl_pipeline.cluster.metrics import busy_share
from dsvl_pipeline.errors import NotFoundError, RunStoppedError
from dsvl_pipeline.job.sections import ClusterConfig
from dsvl_pipeline.run.wanted import Wanted
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.table.lineage import RunManifest, latest_runs
from dsvl_pipeline.wording import amount

_RUNS_LOOKED_AT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How long rows took that were answered.

    Attributes:
        source: What was measured, in words.
        rows: Rows that were answered; pages counted, where ``inputs`` counts their documents.
        inputs: Rows that went in.
        seconds: From the start to the end.
        replicas: Engines.
        num_shards: How often the engines were started.
        engine: See `ledger.total`.
    """

    source: str
    rows: int
    inputs: int
    seconds: float
    replicas: int
    num_shards: int
    engine: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a run will take.

    Attributes:
        source: What the prediction rests on, in words.
        rows: Rows that will be answered; of documents as many pages as measured ones had.
        new_tokens: Tokens that will be decoded.
        seconds: From the start to the end.
        replicas: Engines.
        has_gpu: Whether each has a GPU, else CPUs.
        gpu_busy: Share of their time in which the engines' devices compute; None if unknown.
        price: What it will cost in ``currency``; None without a price in the job file.
        currency: Of the job file.
    """

    source: str
    rows: int
    new_tokens: int
    seconds: float
    replicas: int
    has_gpu: bool
    gpu_busy: float | None
    price: float | None
    currency: str

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds

    @property
    def gpu_hours(self) -> float:
        """Of all engines, from the start to the end; 0 where they have no GPU."""
        return self.has_gpu * self.replicas * self.seconds / 3600


def predict(
    measured: Measured,
    *,
    num_inputs: int,
    num_shards: int,
    replicas: int,
    has_gpu: bool = True,
    cluster: ClusterConfig,
) -> Prediction:
    """Scale what was measured to a run.

    Every input takes the engine time that the measured ones took on average, and every shard the
    start of its engines. Engines share the rows evenly.

    Args:
        measured: At least one row, by engines that were up for some time.
        num_inputs: Rows to answer; a document counts once for each prompt.
        num_shards: Shards that have rows to answer.
        replicas: Engines that will answer them.
        has_gpu: Whether they have GPUs.
        cluster: Has the price.
    """
    up_s = measured.engine["up_s"]
    start_s = max(0.0, measured.seconds - up_s / measured.replicas) / measured.num_shards
    rows = round(num_inputs * measured.rows / measured.inputs)
    seconds = num_shards * start_s + num_inputs * up_s / measured.inputs / replicas
    return Prediction(
        source=measured.source,
        rows=rows,
        new_tokens=round(rows * measured.engine.get("new_tokens", 0.0) / measured.rows),
        seconds=seconds,
        replicas=replicas,
        has_gpu=has_gpu,
        gpu_busy=busy_share(measured.engine),
        price=cluster.price(replicas, seconds),
        currency=cluster.currency,
    )


def measured_before(wanted: Wanted) -> Measured | None:
    """Return the figures of the table's latest run of the same recipe that answered anything."""
    try:
        for run in latest_runs(wanted.job.output.uri, _RUNS_LOOKED_AT):
            if run.recipe == wanted.recipe and run.figures and run.engine.get("up_s"):
                return _of_run(run)
    except NotFoundError:  # no table yet
        pass
    return None


def _of_run(run: RunManifest) -> Measured:
    figures = run.figures
    rows, replicas = int(figures["rows"]), int(figures["replicas"])
    return Measured(
        source=f"{amount(rows, 'row')} of run {run.run_id} ({run.started_at[:10]}, "
        f"{amount(replicas, 'engine')})",
        rows=rows,
        inputs=int(figures["inputs"]),
        seconds=figures["seconds"],
        replicas=replicas,
        num_shards=int(figures["num_shards"]),
        engine=run.engine,
    )


def spread(rows: pa.Table, num_rows: int) -> pa.Table:
    """Return at most some rows of a table, evenly spread over it."""
    places = np.linspace(0, rows.num_rows, min(num_rows, rows.num_rows), endpoint=False)
    return rows.take(pa.array(places.astype(np.int64)))


def measure(wanted: Wanted, todo: pa.Table) -> Measured:
    """Answer some rows with the job's engines, keep none of the answers, and tell what it took.

    Args:
        wanted: The job.
        todo: Of `rows.work_schema`, at least one row; a document is read to its last page.

    Raises:
        RunStoppedError: Ray could not go on.
    """
    config = StageConfig(
        job=wanted.pinned_job,
        dtype=wanted.scale.dtype,
        recipe=wanted.recipe,
        lineage=dict(wanted.model),
    )
    begun_s = time.monotonic()
    num_rows, engine = sample.answer(todo, config, wanted.scale)
    if not engine.get("up_s"):
        raise RunStoppedError("no engine has answered any row of the sample; see the log above")
    return Measured(
        source=f"a sample of {amount(num_rows, 'row')}, answered just now",
        rows=num_rows,
        inputs=todo.num_rows,
        seconds=time.monotonic() - begun_s,
        replicas=wanted.scale.replicas,
        num_shards=1,
        engine=engine,
    )
