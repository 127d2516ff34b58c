"""Wanted rows against committed ones, shard by shard: what is missing, and what may stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline import keys
from dsvl_pipeline.stages.rows import plain_rows, prompt_digest_of, work_table
from dsvl_pipeline.table.schema import is_among, logical_key, without_pages


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One shard's wanted rows against its committed ones; all of its rows are in memory.

    Attributes:
        todo: Of `work_schema`: what has to run.
        kept: Committed rows that are up to date, with the columns they were read with.
        stale: Committed rows that leave the table.
        staying: Committed rows that nobody asks for any more, and that stay.
    """

    todo: pa.Table
    kept: pa.Table
    stale: pa.Table
    staying: pa.Table


def compare(
    wanted: pa.Table,
    committed: pa.Table,
    *,
    recipe: str,
    asked: Collection[str],
    is_fresh: bool = False,
    drops_vanished: bool = False,
) -> Comparison:
    """Return what of one shard is missing, up to date, stale, or not asked for any more.

    Args:
        wanted: Of `work_schema`.
        committed: The shard's committed rows, at least their `schema.KEY_COLUMNS`.
        recipe: See `keys.recipe_digest`.
        asked: The job's prompt ids; rows of other prompts stay as they are.
        is_fresh: Whether everything runs again.
        drops_vanished: Whether rows leave the table whose input is no longer there.
    """
    final = committed.filter(_is_final(committed)) if not is_fresh else committed.slice(0, 0)
    has_input = pc.is_in(committed["row_id"], pc.unique(wanted["row_id"]))
    is_asked = pc.is_in(committed["prompt_id"], pa.array(sorted(asked), pa.string()))
    is_concerned = pc.and_(has_input, is_asked)
    if drops_vanished:
        # What is concerned and not current leaves the table, and of these nothing is current.
        is_concerned = pc.or_(is_concerned, pc.invert(has_input))
    concerned, staying = _divided(committed, is_concerned)
    gone = _answered_before(wanted, committed)
    if gone.num_rows:
        wanted = wanted.filter(pc.invert(is_among(wanted, gone)))
    documents, simple = _divided(wanted, pc.is_null(wanted["row_key"]))
    known, unknown = _divided(simple, pc.is_in(_identity(simple), _identity(final)))
    good, missing = [_identity(known)], [unknown]
    if documents.num_rows:
        unread, pages = _unread(documents, final, recipe)
        missing.append(unread)
        good.append(pages)
    current = pa.chunked_array([chunk for g in good for chunk in g.chunks], pa.binary())
    is_current = pc.is_in(_identity(concerned), current)
    if gone.num_rows:
        is_current = pc.or_(is_current, is_among(without_pages(concerned), gone))
    kept, stale = _divided(concerned, is_current)
    return Comparison(todo=pa.concat_tables(missing), kept=kept, stale=stale, staying=staying)


def _divided(rows: pa.Table, mask: pa.ChunkedArray) -> tuple[pa.Table, pa.Table]:
    """Return the rows for which a mask is true, and the others."""
    return rows.filter(mask), rows.filter(pc.invert(mask))


def _is_final(committed: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether it is answered for good: no error that may pass, no double.

    What stands twice (see `run.completeness`) is answered again, which replaces both.
    """
    retry = pc.fill_null(committed["is_retryable"], False)
    is_final = pc.invert(pc.and_(pc.equal(committed["status"], "error"), retry))
    return pc.and_(is_final, pc.invert(_is_doubled(committed)))


def _is_doubled(committed: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether another one has its logical key."""
    key = logical_key(committed)
    if pc.count_distinct(key).as_py() == len(key):
        return pa.chunked_array([pa.repeat(pa.scalar(False), len(key))])
    counts = pc.value_counts(key)
    return pc.is_in(key, counts.field("values").filter(pc.greater(counts.field("counts"), 1)))


def _answered_before(wanted: pa.Table, committed: pa.Table) -> pa.Table:
    """Return the work rows whose file is gone, but that were answered while it was there.

    All that is committed of them stays, whatever runs again: there is nothing to replace it with.
    """
    gone = wanted.filter(pc.equal(wanted["content_id"], b""))
    if not gone.num_rows:
        return gone
    answers = committed.filter(pc.not_equal(committed["status"], "error"))
    return gone.filter(is_among(gone, without_pages(answers)))


def _identity(rows: pa.Table) -> pa.ChunkedArray:
    """Return the logical key and row key of each row as one binary value."""
    return pc.binary_join_element_wise(
        logical_key(rows), pc.cast(rows["row_key"], pa.binary()), b"\x00"
    )


def _unread(documents: pa.Table, final: pa.Table, recipe: str) -> tuple[pa.Table, pa.ChunkedArray]:
    """Return documents with pages that lack an answer, and identities of pages that have one.

    A committed page says how many pages its document has, so a complete one is never opened. A row
    without a page says that it could not be opened, which settles it until it changes; the pages
    that were read before stay. So does the one row of a TIFF with a single page, but not one that
    was made when only the first of its pages was wanted.
    """
    ids = pc.unique(documents["row_id"])
    of_documents = final.filter(pc.is_in(final["row_id"], ids))
    committed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in of_documents.to_pylist():
        committed.setdefault((row["row_id"], row["prompt_id"]), []).append(row)
    todo: list[dict[str, Any]] = []
    good: list[dict[str, Any]] = []
    for row in plain_rows(documents):
        content_id, digest = row["content_id"], prompt_digest_of(row)
        before = committed.get((row["row_id"], row["prompt_id"]), [])
        current = [
            r
            for r in before
            if r["row_key"] == keys.row_key(content_id, r["page_index"], digest, recipe)
            and not is_first_of_many(r)
        ]
        pages = [r["page_index"] for r in current]
        sizes = {r["num_pages"] for r in current if r["page_index"] is not None}
        if len(sizes) > 1:  # it was replaced, and nothing tells which of its pages are of today
            current, pages, sizes = [], [], set()
        good.extend(current)
        num_pages = next(iter(sizes), None)
        if None not in pages and (num_pages is None or len(pages) < num_pages):
            todo.append(row | {"done_pages": sorted(pages), "num_pages": num_pages})
    identities = _identity(pa.Table.from_pylist(good, schema=final.schema))
    return work_table(todo, documents), identities


def is_first_of_many(row: Mapping[str, Any]) -> bool:
    """Return whether a committed row is about the first page of a TIFF that has others."""
    return row["page_index"] is None and (row.get("num_frames") or 0) > 1
