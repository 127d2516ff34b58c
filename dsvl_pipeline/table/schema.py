"""The output row as an Arrow schema, and the keys that tell rows apart.

What each column means is told in `table.columns`.

Strings are plain strings, not Arrow dictionaries: the files are dictionary-encoded all the same
(`REPEATED` costs under a byte a row and column), and every reader can filter, join and group them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.fields import FieldType
from dsvl_pipeline.table.columns import COLUMNS, LINEAGE, OCCASION, RESULT, Column

LOGICAL_KEY = ("row_id", "page_index", "prompt_id")
"""Unique in a table."""

KEY_COLUMNS = (
    *LOGICAL_KEY,
    "row_key",
    "status",
    "is_retryable",
    "num_pages",
    "num_frames",
)
"""What a plan needs to know of a committed row."""

OUR_COLUMNS = frozenset(one.name for one in COLUMNS)
"""Whatever else a table has is the user's: what is carried, and fields of answers."""
REPEATED = tuple(
    one.name
    for one in COLUMNS
    if one.type == pa.string() and one.name not in ("row_id", "text", "error_message")
)
"""Columns with few values in a part; only these are dictionary-encoded in the files."""

_FIELD_TYPES: Mapping[FieldType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}


def output_schema(
    carry: pa.Schema | None = None, fields: Mapping[str, FieldType] = MappingProxyType({})
) -> pa.Schema:
    """Return the schema of a table's rows.

    Args:
        carry: The carried columns, which stand between the result and its lineage.
        fields: Of answers that satisfy a JSON schema; they stand after the result.

    Raises:
        ConfigError: A carried column or a field has the name of one of ours, or both share one.
    """
    carried = list(carry) if carry is not None else []
    taken = sorted(OUR_COLUMNS.intersection(field.name for field in carried))
    if taken:
        raise ConfigError(
            f"input.carry names {', '.join(map(repr, taken))}, but the output has "
            "columns of that name; rename them in the manifest or leave them out"
        )
    taken = sorted((OUR_COLUMNS | {field.name for field in carried}).intersection(fields))
    if taken:
        raise ConfigError(
            f"a prompt's schema has the properties {', '.join(map(repr, taken))}, but the output "
            "has other columns of that name; rename them in the schema"
        )
    typed = [pa.field(name, _FIELD_TYPES[kind]) for name, kind in fields.items()]
    return pa.schema([*_arrow(RESULT), *typed, *carried, *_arrow((*LINEAGE, *OCCASION))])


def _arrow(columns: Iterable[Column]) -> list[pa.Field]:
    return [pa.field(one.name, one.type) for one in columns]


def logical_key(rows: pa.Table) -> pa.ChunkedArray:
    """Return each row's logical key as one binary value, for ``is_in`` and sorting.

    Joins are no substitute: they never match the null ``page_index`` of images.
    """
    page = pc.fill_null(rows["page_index"].cast(pa.string()), "-")
    prompt_id = rows["prompt_id"].cast(pa.string())
    # The length tells where the prompt's id ends and the row's begins, whatever they hold.
    length = pc.fill_null(pc.binary_length(prompt_id).cast(pa.string()), "-")
    pieces = [page, length, pc.fill_null(prompt_id, ""), rows["row_id"].cast(pa.string())]
    keys = pc.binary_join_element_wise(*(piece.cast(pa.binary()) for piece in pieces), b"\x00")
    return keys if isinstance(keys, pa.ChunkedArray) else pa.chunked_array([keys])


def is_among(rows: pa.Table, keys: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether its logical key is among those of another table."""
    return pc.is_in(logical_key(rows), value_set=logical_key(keys).combine_chunks())


def without_pages(rows: pa.Table) -> pa.Table:
    """Return rows as if they had no page: the logical key is then that of the whole document."""
    at = rows.column_names.index("page_index")
    return rows.set_column(at, "page_index", pa.nulls(rows.num_rows, rows.schema.field(at).type))
