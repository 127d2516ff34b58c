"""Small finished tables, for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dsvl_pipeline.table import part
from dsvl_pipeline.table.schema import output_schema
from dsvl_pipeline.table.writer import TableWriter


def write_table(
    uri: str, rows: Sequence[Mapping[str, Any]], carry: pa.Schema | None = None
) -> None:
    """Commit rows to a new table of one shard; columns that a row does not give are null."""
    usual = {"prompt_id": "read", "status": "ok", "row_key": bytes(16)}
    table = pa.Table.from_pylist([{**usual, **row} for row in rows], output_schema(carry))
    with TableWriter.open(uri, num_shards=1, run_id="r1", recipe="00") as writer:
        receipt = part.write_part(uri, table, shard=0, lease=writer.lease_number, metadata={})
        writer.commit([receipt])
        writer.finish()
