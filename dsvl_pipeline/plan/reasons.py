"""Why rows run, or do not: what `dsvl plan` shows.

A row key is a digest of content, page, prompt and recipe. The committed row keeps its prompt's
digest and its recipe beside the key, so each of the three can be told apart: with them put in
place of what is wanted now, the key comes out as it stands if the content is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dsvl_pipeline import keys
from dsvl_pipeline.plan.committed import AT
from dsvl_pipeline.plan.compare import Comparison, is_first_of_many
from dsvl_pipeline.stages.rows import prompt_digest_of
from dsvl_pipeline.table.schema import KEY_COLUMNS, logical_key

EXPLAINING_COLUMNS = (*KEY_COLUMNS, "prompt_digest", "recipe")
"""What `changed_parts` needs to know of a committed row."""

NEW = "new"
PROMPT_ADDED = "prompt added"
PAGES_MISSING = "pages missing, or failed in a way that may pass"
RETRY = "an error that may pass"
OTHER_PAGES = "its pages besides the first"
FRESH = "up to date, but all run again"
ROW_TURNED = "its line turned bad, or good again"
UP_TO_DATE = "up to date"
CARRIED = "carried values changed"
FINAL_ERROR = "an error that stays until the row changes"
FILE_GONE = "answered before its file vanished"
VANISHED = "not in this input"
NOT_ASKED = "prompt not asked any more"


def changed_parts(
    row: Mapping[str, Any], before: Mapping[str, Any], recipe: str
) -> tuple[str, ...]:
    """Return what of content, prompt and recipe differs from that of a committed row.

    Args:
        row: A work row.
        before: The committed row, of `EXPLAINING_COLUMNS`.
        recipe: Wanted now.
    """
    if row["prompt"] is None:  # bad as it stands: its message is asked for
        digest = keys.prompt_digest(row["error_message"])
    else:
        digest = prompt_digest_of(row)
    old_digest = bytes.fromhex(before["prompt_digest"]) if before["prompt_digest"] else digest
    old_recipe = before["recipe"] or recipe
    page = before["page_index"]
    # A redriven row has its key by the job file's recipe, though another one made it.
    is_same = before["row_key"] in (
        keys.row_key(row["content_id"], page, old_digest, one) for one in (old_recipe, recipe)
    )
    content = "content or rendering" if row["kind"] == "document" else "content"
    parts = [] if is_same else [content]
    if old_digest != digest:
        parts.append("prompt")
    if old_recipe != recipe:
        parts.append("recipe")
    return tuple(parts)


def reasons_to_run(
    compared: Comparison, committed: pa.Table, recipe: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each work row that runs, and why.

    Args:
        compared: Of one shard.
        committed: The rows that it was compared with, of `EXPLAINING_COLUMNS`.
        recipe: Wanted now.
    """
    todo = compared.todo
    names = ["row_id", "kind", "content_id", "prompt_id"]
    names += ["prompt", "schema", "regex", "error_message"]
    of_rows = committed.filter(pc.is_in(committed["row_id"], pc.unique(todo["row_id"])))
    answered = of_rows.filter(pc.not_equal(of_rows["prompt_id"], ""))
    is_known = pc.is_in(todo["row_id"], pc.unique(of_rows["row_id"]))
    is_answered = pc.is_in(todo["row_id"], pc.unique(answered["row_id"]))
    # A document's work row has no page: any of its committed pages says enough.
    at = pc.index_in(_asked(todo), value_set=_asked(of_rows).combine_chunks())
    before = of_rows.to_pylist()
    for row, place, known, was_answered in zip(
        todo.select([*names, "done_pages"]).to_pylist(),
        at.to_pylist(),
        is_known.to_pylist(),
        is_answered.to_pylist(),
        strict=True,
    ):
        if place is not None:
            yield row, _reason(row, before[place], recipe)
        elif not known:
            yield row, NEW
        else:  # a bad row is asked nothing, under the prompt id ""
            yield row, PROMPT_ADDED if was_answered and row["prompt_id"] else ROW_TURNED


def count_to_keep(
    compared: Comparison, wanted: pa.Table, changed: Collection[int] | NDArray[np.int64] = ()
) -> Counter[str]:
    """Count the committed rows of one shard that stay, by reason.

    Args:
        compared: Of the shard.
        wanted: Its work rows.
        changed: Of the rows that get other carried values (`carried.Found`).
    """
    kept, staying = compared.kept, compared.staying
    num_kept = kept.num_rows
    if len(changed):
        kept = kept.filter(pc.invert(pc.is_in(kept[AT], value_set=pa.array(changed, pa.int64()))))
    is_error = pc.equal(kept["status"], "error")
    gone = wanted.filter(pc.equal(wanted["content_id"], b""))
    is_gone = pc.and_(pc.is_in(kept["row_id"], pc.unique(gone["row_id"])), pc.invert(is_error))
    has_input = pc.is_in(staying["row_id"], pc.unique(wanted["row_id"]))
    num_errors, num_gone, num_not_asked = (
        pc.sum(mask).as_py() or 0 for mask in (is_error, is_gone, has_input)
    )
    return +Counter(
        {
            CARRIED: num_kept - kept.num_rows,
            UP_TO_DATE: kept.num_rows - num_errors - num_gone,
            FINAL_ERROR: num_errors,
            FILE_GONE: num_gone,
            NOT_ASKED: num_not_asked,
            VANISHED: staying.num_rows - num_not_asked,
        }
    )


def _reason(row: Mapping[str, Any], before: Mapping[str, Any], recipe: str) -> str:
    if row["done_pages"]:
        return PAGES_MISSING
    if parts := changed_parts(row, before, recipe):
        return " and ".join(parts) + " changed"
    if row["kind"] == "tiff" and is_first_of_many(before):
        return OTHER_PAGES
    return RETRY if before["status"] == "error" and before["is_retryable"] else FRESH


def _asked(rows: pa.Table) -> pa.ChunkedArray:
    """Return row id and prompt id of each row as one value."""
    return logical_key(
        rows.select(["row_id", "prompt_id"]).append_column(
            "page_index", pa.nulls(rows.num_rows, pa.int32())
        )
    )
