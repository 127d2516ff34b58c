"""Why one row would run, or would not, without running anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline import keys
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.plan import carried, reasons
from dsvl_pipeline.plan.committed import Committed, read_committed
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.run.preview import table_or_empty
from dsvl_pipeline.run.wanted import Wanted, read_job
from dsvl_pipeline.table.lineage import known_run
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.wording import hint


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


def explain(job: JobConfig, row_id: str, *, fresh: bool = False) -> list[Explanation]:
    """Return why a row would run or not, under each of its prompts.

    Raises:
        ConfigError: The job is wrong, or neither its input nor its table has such a row.
    """
    wanted = read_job(job, stop=threading.Event())
    spool = wanted.spool(row for row in wanted.rows if row.row_id == row_id)
    try:
        snapshot, num_shards = table_or_empty(wanted.job.output.uri)
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
    compared = wanted.compare(rows, committed, is_fresh=fresh, is_partial=False)
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


def _committed(snapshot: Snapshot, shard: int, row_id: str) -> Committed:
    """Return what is committed of one row, read part by part: a shard may be large."""
    columns = (*reasons.EXPLAINING_COLUMNS, "error_code", "run_id", "produced_at")
    return read_committed(snapshot, shard, columns, row_id)


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
    """Yield the settings that differ between a committed row's recipe and the one of now."""
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
