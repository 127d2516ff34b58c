"""The row that travels from the plan to the table: its shape at each stage.

The columns that the table keeps are declared in `table.columns`; those that end on the way are
declared here. Which of them a stage's rows have follows from where each is filled:

- the work row (`work_schema`) is one prompt for one input, or for a document before it is opened;
- the prepared row (`PREPARED`, `image_columns`) has pixels and tokens as well;
- the output row is `table.schema.output_schema`.

Pixels are lists of fixed-size ``uint8`` lists: any number of images a row, one flat buffer a
block, and no copy on either side of the object store (rows of ragged tensors cost a copy each).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsvl_pipeline import keys
from dsvl_pipeline.job.columns import column_of
from dsvl_pipeline.records import ImageInput, Row
from dsvl_pipeline.table.columns import COLUMNS, Column

CARRY = "carry."
"""Prefix of carried columns until the output row is made: their names are the user's."""
_PLACE = "place"

_ASKED = (
    Column(
        "kind", pa.string(), "`image`, `document` or `tiff`, as `records.Row` has it.", ("plan",)
    ),
    Column(
        "sources", pa.list_(pa.string()), "What to read, with the credentials to do it.", ("plan",)
    ),
    Column(
        "content_id",
        pa.binary(),
        "Identifies the content (`dsvl_pipeline.keys`); empty for a file that is gone.",
        ("plan",),
    ),
    Column("prompt", pa.string(), "The text to ask.", ("plan",), "rows that are bad as they are"),
    Column(
        "schema",
        pa.string(),
        "JSON schema that the answer must satisfy.",
        ("plan",),
        "prompts without one",
    ),
    Column(
        "regex",
        pa.string(),
        "Regular expression that the answer must match; not besides a schema.",
        ("plan",),
        "prompts without one",
    ),
    Column(
        "done_pages",
        pa.list_(pa.int32()),
        "Pages of a document that need not run again.",
        ("plan", "pages"),
    ),
)
_SEEN = (
    Column(
        "is_blank",
        pa.bool_(),
        "Whether the page is empty, so that the model is not asked.",
        ("preprocess",),
        "bad rows",
    ),
    Column(
        "defect_code",
        pa.string(),
        "What the page lacks that is shown all the same; becomes the answer's `error_code`.",
        ("preprocess",),
        "whole pages",
    ),
    Column(
        "defect_message", pa.string(), "The same for people.", ("preprocess",), "as `defect_code`"
    ),
)
_FOR_ENGINE = (
    Column(
        "prompt_ids",
        pa.list_(pa.int32()),
        "Tokens of the prompt, image tokens expanded.",
        ("preprocess",),
        "bad rows",
    ),
    Column(
        "draft_ids",
        pa.list_(pa.int32()),
        "Tokens of the text that the page itself has, as a guess at the answer.",
        ("preprocess",),
        "without `input.document.draft`",
    ),
)
PIXELS = {
    "digests": "Digest of each picture: equal digest, equal pixels.",
    "high_res": "Each picture for SAM, `uint8[S, S, 3]`; absent for single-tower models.",
    "low_res": "Each picture for SigLIP, `uint8[S, S, 3]`.",
}
"""Columns of `image_columns` and their meanings; how wide they are is the model's affair."""

_ALL = (*COLUMNS, *_ASKED, *_SEEN, *_FOR_ENGINE)
WORK = tuple(one for one in _ALL if {"plan", "pages"} & set(one.filled))
"""Columns of a work row, but for those that are carried."""
PREPARED = tuple(one for one in _ALL if "preprocess" in one.filled and one not in WORK)
"""Columns that preprocessing adds, but for `PIXELS`."""

_UNASKED: dict[str, Any] = {one.name: None for one in WORK} | {"prompt_id": "", "done_pages": []}


def work_schema(carry: pa.Schema) -> pa.Schema:
    """Return the schema of work rows: one (row, prompt), or one (document, prompt) not yet opened.

    ``row_key`` is null for documents (their pages have keys, not they). A page that is done is in
    ``done_pages``, and ``num_pages`` says of how many.
    """
    return pa.schema(
        [
            *((one.name, one.type) for one in WORK),
            *((CARRY + field.name, field.type) for field in carry),
        ]
    )


def work_row(row: Row, carry_names: Sequence[str]) -> dict[str, Any]:
    """Return the columns of a work row that its input row determines."""
    failure = row.failure
    return _UNASKED | {
        "row_id": row.row_id,
        "kind": row.kind,
        "sources": list(row.sources),
        "content_id": row.content_id,
        "error_code": failure.code if failure else None,
        "error_message": failure.message if failure else None,
        "is_retryable": failure.is_retryable if failure else False,
        # A bad line carries nothing.
        **dict(zip((CARRY + name for name in carry_names), row.carry, strict=failure is None)),
    }


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return a table of work rows as `work_row` begins them."""
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        is_carried = field.name.startswith(CARRY)
        columns.append(
            column_of(values, field.type) if is_carried else pa.array(values, field.type)
        )
    return pa.table(columns, schema=schema)


def plain_rows(work: pa.Table) -> list[dict[str, Any]]:
    """Return work rows without their carried columns, of which Python cannot hold all values."""
    plain = work.drop_columns([name for name in work.column_names if name.startswith(CARRY)])
    rows: list[dict[str, Any]] = plain.to_pylist()
    for place, row in enumerate(rows):
        row[_PLACE] = place
    return rows


def work_table(rows: Sequence[Mapping[str, Any]], work: pa.Table) -> pa.Table:
    """Return a table of rows that were made from `plain_rows`, each with what its origin carries.

    Args:
        rows: In any order and number; keys beyond the columns are left out.
        work: What they were made from.
    """
    plain = pa.schema([field for field in work.schema if not field.name.startswith(CARRY)])
    table = pa.Table.from_pylist(rows, schema=plain)
    places = pa.array([row[_PLACE] for row in rows], pa.int64())
    for field in work.schema:
        if field.name.startswith(CARRY):
            table = table.append_column(field, work[field.name].take(places))
    return table.select(work.column_names)


def without_request(prepared: pa.Table) -> pa.Table:
    """Return prepared rows without what only the engine needs of them."""
    names = {*(one.name for one in _FOR_ENGINE), *PIXELS}
    return prepared.drop_columns([name for name in prepared.column_names if name in names])


def prompt_digest_of(row: Mapping[str, Any]) -> bytes:
    """Digest what a work row asks: its prompt, and what the answer must satisfy."""
    return keys.prompt_digest(row["prompt"], schema=row["schema"], regex=row["regex"])


def image_columns(rows: Sequence[Sequence[ImageInput]]) -> dict[str, pa.Array]:
    """Pack each row's images into the columns ``digests``, ``high_res`` and ``low_res``.

    ``high_res`` is left out for single-tower models.
    """
    offsets = pa.array(np.cumsum([0, *map(len, rows)]), pa.int32())
    images = [image for row in rows for image in row]
    digests = pa.array([image.digest for image in images], pa.binary())
    columns = {
        "digests": pa.ListArray.from_arrays(offsets, digests),
        "low_res": _pixel_column(offsets, [image.low_res for image in images]),
    }
    high_res = [image.high_res for image in images if image.high_res is not None]
    if len(high_res) == len(images):
        columns["high_res"] = _pixel_column(offsets, high_res)
    return columns


def images_of(block: pa.Table) -> list[tuple[ImageInput, ...]]:
    """Undo `image_columns` without copying a pixel; the arrays are read-only views."""
    digests = block["digests"].to_pylist()
    low_res = _pixels_by_row(block, "low_res")
    if "high_res" not in block.column_names:
        high_res: list[list[NDArray[np.uint8] | None]] = [[None] * len(row) for row in low_res]
    else:
        high_res = [list(row) for row in _pixels_by_row(block, "high_res")]
    return [
        tuple(
            ImageInput(digest=digest, high_res=high, low_res=low)
            for digest, high, low in zip(*row, strict=True)
        )
        for row in zip(digests, high_res, low_res, strict=True)
    ]


def _pixel_column(offsets: pa.Array, images: Sequence[NDArray[np.uint8]]) -> pa.Array:
    size = images[0].size if images else 0
    flat = np.stack(images).reshape(-1) if images else np.empty(0, np.uint8)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(flat), size or 1)
    return pa.ListArray.from_arrays(offsets, pixels)


def _pixels_by_row(block: pa.Table, name: str) -> list[list[NDArray[np.uint8]]]:
    column = block[name]
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    size = column.type.value_type.list_size
    side = round((size / 3) ** 0.5)
    flat = column.values.values.to_numpy(zero_copy_only=True)
    pixels = flat[: len(flat) // size * size].reshape(-1, size)
    starts = column.offsets.to_numpy()
    return [
        [pixels[i].reshape(side, side, 3) for i in range(starts[row], starts[row + 1])]
        for row in range(len(column))
    ]
