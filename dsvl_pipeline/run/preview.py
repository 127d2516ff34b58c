"""What a run would do, without doing it: nothing is written, and no lease is taken."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline import keys
from dsvl_pipeline.cluster import connect
from dsvl_pipeline.errors import ConfigError, NotFoundError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.plan import carried, compare, reasons
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.run import prediction
from dsvl_pipeline.run.prediction import Measured, Prediction
from dsvl_pipeline.run.wanted import Wanted, drops_vanished, read_job
from dsvl_pipeline.sources.skips import Skipped
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lineage import known_run
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.table.writer import refuse_strangers
from dsvl_pipeline.wording import hint


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why one row would run under one prompt, or would not.

    Attributes:
        prompt_id: Which prompt; empty for a row that is bad as it stands.
        pages: Pages that this is about; none for images.
        is_run: Whether it would run.
        reason: In a few words.
        details: What differs, or what the committed row says.
    """

    prompt_id: str
    pages: tuple[int, ...]
    is_run: bool
    reason: str
    details: tuple[str, ...]


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
    wanted = read_job(job, stop=threading.Event())
    spool = wanted.spool(itertools.islice(wanted.rows, limit))
    try:
        snapshot, num_shards = _table(wanted.job.output.uri)
        num_shards = num_shards or wanted.num_shards(spool)
        to_run, to_keep = Counter[str](), Counter[str]()
        num_replaced = num_dropped = num_shards_to_run = 0
        unread = Counter[str]()
        samples, carry = list[pa.Table](), list[carried.Found]()
        for shard, rows in spool.shards(num_shards):
            there = carried.read_committed(snapshot, shard, reasons.EXPLAINING_COLUMNS)
            compared = _compare(wanted, rows, there.rows, limit=limit, fresh=fresh)
            found = reasons.reasons_to_run(compared, there.rows, wanted.recipe)
            to_run.update(reason for _, reason in found)
            of_shard = wanted.find_carried(there, rows, compared)
            carry.append(of_shard.without_rows())
            to_keep.update(reasons.count_to_keep(compared, rows, of_shard.changed))
            stale = compared.stale
            has_input = pc.is_in(stale["row_id"], pc.unique(rows["row_id"]))
            num_here = pc.sum(has_input).as_py() or 0
            num_replaced += num_here
            num_dropped += stale.num_rows - num_here
            files = compared.todo.filter(pc.is_null(compared.todo["row_key"]))
            for kind in ("document", "tiff"):
                of_kind = files.filter(pc.equal(files["kind"], kind))
                unread[kind] += pc.count_distinct(of_kind["row_id"]).as_py()
            num_shards_to_run += bool(compared.todo.num_rows)
            samples.append(prediction.spread(compared.todo, -(-sample // num_shards)))
    finally:
        spool.close()
    schema = carried.table_schema(wanted.schema, carry)
    measured: Measured | None = None
    if num_shards_to_run and sample:
        measured = prediction.measure(wanted, prediction.spread(pa.concat_tables(samples), sample))
    elif num_shards_to_run:
        measured = prediction.measured_before(wanted)
    return Preview(
        to_run=dict(to_run.most_common()),
        num_documents=unread["document"],
        num_tiffs=unread["tiff"],
        to_keep=dict(to_keep.most_common()),
        num_replaced=num_replaced,
        num_dropped=num_dropped,
        num_shards=num_shards,
        num_rewritten_parts=sum(
            len(carried.rewrites(one, schema, is_partial=limit is not None)) for one in carry
        ),
        prediction=None
        if measured is None
        else prediction.predict(
            measured,
            num_inputs=to_run.total(),
            num_shards=num_shards_to_run,
            replicas=wanted.scale.replicas,
            has_gpu=wanted.scale.num_gpus > 0,
            cluster=wanted.job.cluster,
        ),
        skipped=wanted.source.skipped,
    )


def explain(job: JobConfig, row_id: str, *, fresh: bool = False) -> list[Explanation]:
    """Say why a row would run or not, under each of its prompts.

    Raises:
        ConfigError: The job is wrong, or neither its input nor its table has such a row.
    """
    wanted = read_job(job, stop=threading.Event())
    spool = wanted.spool(row for row in wanted.rows if row.row_id == row_id)
    try:
        snapshot, num_shards = _table(wanted.job.output.uri)
        shard = keys.shard_of(row_id, num_shards or 1)
        ((_, rows),) = spool.shards(1)
    finally:
        spool.close()
    there = _committed(snapshot, shard, row_id)
    committed = there.rows
    skipped = () if rows.num_rows else tuple(_of_those_skipped(wanted, row_id))
    if not (rows.num_rows or committed.num_rows or skipped):
        near = hint(row_id, (row.row_id for row in wanted.source.rows()))
        raise ConfigError(
            f"--explain {row_id}: neither the job's input nor its table has a row of this id; "
            f"{near}it is the id column of the manifest, or the URI of the file, as `dsvl export` "
            "shows it"
        )
    compared = _compare(wanted, rows, committed, limit=None, fresh=fresh)
    found = wanted.find_carried(there, rows, compared)
    changes: tuple[str, ...] = ()
    if len(found.changed):
        before = there.users_row(int(found.changed[0]))
        changes = tuple(carried.changes(before, rows.slice(0, 1), wanted.job.fields))
    return [
        *skipped,
        *_of_those_to_run(wanted, compared, committed, job.output.uri),
        *_of_those_to_keep(compared, rows, found, changes),
        *_of_those_to_drop(compared, rows),
    ]


def _of_those_skipped(wanted: Wanted, name: str) -> Iterator[Explanation]:
    for setting, reason, uri in wanted.source.why_skipped(name):
        yield Explanation(
            prompt_id="",
            pages=(),
            is_run=False,
            reason=f"{setting} skips it: {reason}",
            details=() if uri == name else (uri,),
        )


def _table(uri: str) -> tuple[Snapshot, int | None]:
    """The table as it is, and its number of shards; None if there is no table yet."""
    try:
        return read_snapshot(uri), read_format(uri).num_shards
    except NotFoundError:
        refuse_strangers(uri)  # as a run would
        return Snapshot(uri=uri, parts={}), None


def _committed(snapshot: Snapshot, shard: int, row_id: str) -> carried.Committed:
    """What is committed of one row, read part by part: a shard may be large."""
    columns = (*reasons.EXPLAINING_COLUMNS, "error_code", "run_id", "produced_at")
    return carried.read_committed(snapshot, shard, columns, row_id)


def _compare(
    wanted: Wanted, rows: pa.Table, committed: pa.Table, *, limit: int | None, fresh: bool
) -> Comparison:
    return compare.compare(
        rows,
        committed,
        recipe=wanted.recipe,
        asked=wanted.asked,
        is_fresh=fresh,
        drops_vanished=drops_vanished(wanted.job, limit),
    )


def _of_those_to_run(
    wanted: Wanted, compared: Comparison, committed: pa.Table, uri: str
) -> Iterator[Explanation]:
    before = {row["prompt_id"]: row for row in reversed(committed.to_pylist())}
    for row, reason in reasons.reasons_to_run(compared, committed, wanted.recipe):
        old = before.get(row["prompt_id"])
        details = []
        if old is not None:
            details.append(_committed_as(old))
            if old["recipe"] not in (None, wanted.recipe):
                details.extend(_recipe_changes(uri, old["run_id"], wanted.recipe_parts))
        if row["done_pages"]:
            done = ", ".join(str(page + 1) for page in row["done_pages"])
            details.append(f"up to date are its pages {done}")
        if row["kind"] == "tiff":
            details.append("a TIFF: a row for each of its pages, which a run counts")
        if row["error_message"] is not None:
            details.append(f"it becomes an error row: {row['error_message']}")
        yield Explanation(
            prompt_id=row["prompt_id"], pages=(), is_run=True, reason=reason, details=tuple(details)
        )


def _of_those_to_keep(
    compared: Comparison, rows: pa.Table, found: carried.Found, changes: tuple[str, ...]
) -> Iterator[Explanation]:
    for kept in (compared.kept, compared.staying):
        for prompt_id in pc.unique(kept["prompt_id"]).to_pylist():
            of_prompt = kept.filter(pc.equal(kept["prompt_id"], prompt_id))
            nothing = kept.slice(0, 0)
            is_kept = kept is compared.kept
            one = Comparison(
                todo=compared.todo.slice(0, 0),
                kept=of_prompt if is_kept else nothing,
                stale=nothing,
                staying=nothing if is_kept else of_prompt,
            )
            for reason in reasons.count_to_keep(one, rows, found.changed):
                told = changes if reason == reasons.CARRIED else ()
                yield _not_run(of_prompt, f"kept: {reason}", told)


def _of_those_to_drop(compared: Comparison, rows: pa.Table) -> Iterator[Explanation]:
    if not rows.num_rows and compared.stale.num_rows:
        yield _not_run(compared.stale, "dropped: not in this input, and output.vanished is drop")


def _not_run(committed: pa.Table, reason: str, changes: tuple[str, ...] = ()) -> Explanation:
    pages = sorted(page for page in committed["page_index"].to_pylist() if page is not None)
    return Explanation(
        prompt_id=committed["prompt_id"][0].as_py(),
        pages=tuple(pages),
        is_run=False,
        reason=reason,
        details=(_committed_as(committed.slice(0, 1).to_pylist()[0]), *changes),
    )


def _committed_as(row: dict[str, Any]) -> str:
    status = row["status"] if row["error_code"] is None else f"{row['status']} {row['error_code']}"
    when = f" at {row['produced_at']:%Y-%m-%d %H:%M} UTC" if row["produced_at"] else ""
    return f"committed as {status} by run {row['run_id']}{when}"


def _recipe_changes(uri: str, run_id: str | None, now: dict[str, Any]) -> Iterator[str]:
    """Name the settings that differ between a committed row's recipe and the one of now."""
    run = known_run(uri, run_id)
    if run is None or not run.recipe_parts:
        yield "what of the recipe changed is unknown: the run that made the row left no manifest"
        return
    old, new = _flat(run.recipe_parts), _flat(now)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and (name in old or new[name] is not None):
            yield f"{name} was {old.get(name)!r}, is {new.get(name)!r}"


def _flat(parts: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(parts, dict):
        # A manifest comes back from JSON, which has lists only.
        return {prefix: list(parts) if isinstance(parts, tuple) else parts}
    flat: dict[str, Any] = {}
    for name, value in parts.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat
