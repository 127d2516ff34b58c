"""What a run would do, without doing it: nothing is written, and no lease is taken."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.cluster import connect
from dsvl_pipeline.errors import NotFoundError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.plan import carried, reasons
from dsvl_pipeline.plan.committed import read_committed
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.run import prediction
from dsvl_pipeline.run.prediction import Measured, Prediction
from dsvl_pipeline.run.wanted import Wanted, read_job
from dsvl_pipeline.sources.skips import Skipped
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.table.writer import refuse_foreign_place


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a run would do.

    Attributes:
        to_run: Rows by reason; a document or TIFF is one row per prompt, its pages are unknown.
        num_documents: Documents among them.
        num_tiffs: Pictures among them that may have pages.
        to_keep: Rows of the table that stay, by reason.
        num_replaced: Rows of the table that new answers replace.
        num_dropped: Rows of the table that leave it, because the input has them no more.
        num_shards: Of the table.
        num_rewritten_parts: Parts that are written again, with the answers that they have, because
            carried values or the types of columns changed.
        prediction: What a run would take; None where nothing was measured, or nothing is to run.
        skipped: What the input holds beside its rows.
    """

    to_run: dict[str, int]
    num_documents: int
    num_tiffs: int
    to_keep: dict[str, int]
    num_replaced: int
    num_dropped: int
    num_shards: int
    num_rewritten_parts: int
    prediction: Prediction | None = None
    skipped: tuple[Skipped, ...] = ()


def preview(
    job: JobConfig, *, limit: int | None = None, fresh: bool = False, sample: int = 0
) -> Preview:
    """Count what a run would compute and keep, by reason, and predict what it would take.

    Args:
        job: From `job.reading.load_job`.
        limit: As of a run.
        fresh: As of a run.
        sample: So many of the rows to run are answered, and their answers forgotten, for the
            prediction; 0 predicts from the table's last run, if there is one of the same recipe.

    Raises:
        ConfigError: The job, its input or its output is wrong.
        RunStoppedError: The sample could not be answered.
    """
    if sample:
        connect.check_packages(job)
    wanted, is_partial = read_job(job, stop=threading.Event()), limit is not None
    spool = wanted.spool(itertools.islice(wanted.rows, limit))
    try:
        snapshot, num_shards = table_or_empty(wanted.job.output.uri)
        num_shards = num_shards or wanted.num_shards(spool)
        counts, carry = _Counts(sample=-(-sample // num_shards)), list[carried.Found]()
        for shard, rows in spool.shards(num_shards):
            there = read_committed(snapshot, shard, reasons.EXPLAINING_COLUMNS)
            compared = wanted.compare(rows, there.rows, is_fresh=fresh, is_partial=is_partial)
            found = wanted.find_carried(there, rows, compared)
            carry.append(found.without_rows())
            counts.add(wanted.recipe, rows, there.rows, compared, found)
    finally:
        spool.close()
    return Preview(
        to_run=dict(counts.to_run.most_common()),
        num_documents=counts.unread["document"],
        num_tiffs=counts.unread["tiff"],
        to_keep=dict(counts.to_keep.most_common()),
        num_replaced=counts.num_replaced,
        num_dropped=counts.num_dropped,
        num_shards=num_shards,
        num_rewritten_parts=_num_rewritten(wanted, carry, is_partial=is_partial),
        prediction=_prediction(wanted, counts, sample),
        skipped=wanted.source.skipped,
    )


@dataclass(slots=True, kw_only=True)
class _Counts:
    """What the shards of a preview add up to.

    Attributes:
        sample: Most rows to take of each shard for a prediction.
        unread: Documents and TIFFs to run, by kind.
        num_shards_to_run: Shards with something to answer.
        samples: Work rows of each shard, evenly spread.

    The others are those of `Preview`.
    """

    sample: int
    to_run: Counter[str] = field(default_factory=Counter)
    to_keep: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    num_replaced: int = 0
    num_dropped: int = 0
    num_shards_to_run: int = 0
    samples: list[pa.Table] = field(default_factory=list)

    def add(
        self,
        recipe: str,
        rows: pa.Table,
        committed: pa.Table,
        compared: Comparison,
        found: carried.Found,
    ) -> None:
        """Count one shard."""
        reasons_to_run = reasons.reasons_to_run(compared, committed, recipe)
        self.to_run.update(reason for _, reason in reasons_to_run)
        self.to_keep.update(reasons.count_to_keep(compared, rows, found.changed))
        todo, stale = compared.todo, compared.stale
        has_input = pc.is_in(stale["row_id"], pc.unique(rows["row_id"]))
        num_replaced = pc.sum(has_input).as_py() or 0
        self.num_replaced += num_replaced
        self.num_dropped += stale.num_rows - num_replaced
        files = todo.filter(pc.is_null(todo["row_key"]))
        for kind in ("document", "tiff"):
            of_kind = files.filter(pc.equal(files["kind"], kind))
            self.unread[kind] += pc.count_distinct(of_kind["row_id"]).as_py()
        self.num_shards_to_run += bool(todo.num_rows)
        self.samples.append(prediction.spread(todo, self.sample))


def _num_rewritten(wanted: Wanted, found: list[carried.Found], *, is_partial: bool) -> int:
    schema = carried.table_schema(wanted.schema, found)
    return sum(len(carried.rewrites(one, schema, is_partial=is_partial)) for one in found)


def _prediction(wanted: Wanted, counts: _Counts, sample: int) -> Prediction | None:
    measured: Measured | None = None
    if counts.num_shards_to_run and sample:
        todo = prediction.spread(pa.concat_tables(counts.samples), sample)
        measured = prediction.measure(wanted, todo)
    elif counts.num_shards_to_run:
        measured = prediction.measured_before(wanted)
    if measured is None:
        return None
    return prediction.predict(
        measured,
        num_inputs=counts.to_run.total(),
        num_shards=counts.num_shards_to_run,
        replicas=wanted.scale.replicas,
        has_gpu=wanted.scale.num_gpus > 0,
        cluster=wanted.job.cluster,
    )


def table_or_empty(uri: str) -> tuple[Snapshot, int | None]:
    """Return a table as it is, and its number of shards; None where there is no table yet."""
    try:
        return read_snapshot(uri), read_format(uri).num_shards
    except NotFoundError:
        refuse_foreign_place(uri)  # as a run would
        return Snapshot(uri=uri, parts={}), None
