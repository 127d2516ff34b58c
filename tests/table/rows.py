"""Small output rows for the tests of the table."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dsvl_pipeline import keys
from dsvl_pipeline.table.part import Receipt, write_part
from dsvl_pipeline.table.schema import LOGICAL_KEY, output_schema
from dsvl_pipeline.table.writer import TableWriter

SCHEMA = output_schema(pa.schema([("category", pa.string())]))


def image_rows(answers: dict[str, str], status: str = "ok") -> pa.Table:
    """One row for each id, asked one prompt; equal answers have equal keys."""
    row_keys = [
        keys.row_key(row_id.encode(), None, keys.prompt_digest(text), "recipe")
        for row_id, text in answers.items()
    ]
    partial = pa.table(
        {
            "text": list(answers.values()),
            "row_id": list(answers),
            "row_key": pa.array(row_keys, pa.binary(16)),
            "status": [status] * len(answers),
            "error_code": ["boom" if status == "error" else None] * len(answers),
            "prompt_id": ["caption"] * len(answers),
            "category": ["shoes"] * len(answers),
        }
    )
    return _complete(partial)


def page_rows(document: str, pages: Sequence[int], num_pages: int, prompt_id: str) -> pa.Table:
    """Some pages of a document."""
    partial = pa.table(
        {
            "row_id": [document] * len(pages),
            "page_index": pa.array(pages, pa.int32()),
            "num_pages": [num_pages] * len(pages),
            "status": ["ok"] * len(pages),
            "error_code": pa.nulls(len(pages), pa.string()),
            "prompt_id": [prompt_id] * len(pages),
        }
    )
    return _complete(partial)


def open_table(uri: str, run_id: str = "run", num_shards: int = 1) -> TableWriter:
    """A writer whose lease expires soon after its driver's death."""
    return TableWriter.open(uri, num_shards=num_shards, run_id=run_id, recipe="recipe", lease_s=1.0)


def write(writer: TableWriter, rows: pa.Table, shard: int = 0) -> Receipt:
    """Write rows as a part of the writer's."""
    return write_part(
        writer.uri, rows, shard=shard, lease=writer.lease_number, metadata={"run": "run"}
    )


def keys_of(rows: pa.Table) -> pa.Table:
    """The logical keys of rows, as `TableWriter.commit` takes them."""
    return rows.select(LOGICAL_KEY)


def _complete(rows: pa.Table) -> pa.Table:
    """Add the columns that are missing, as nulls, in their order and types."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)
