"""Parquet, JSONL and CSV files as bounded batches of lines, each either values or a problem.

A line that cannot be read is a `Line` with a problem, so that it becomes one error row. A file
that cannot be read raises `ConfigError`: planning reads manifests before anything is started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import BinaryIO, Literal, cast

import pyarrow as pa

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.sources.formats.line import LINES_PER_BATCH, MAX_TEXT_BYTES, Line
from dsvl_pipeline.sources.formats.parquet import open_parquet, parquet_batches
from dsvl_pipeline.sources.formats.text_lines import (
    TextLines,
    csv_lines,
    jsonl_lines,
    parse_csv,
    parse_json,
)

SUFFIXES = (".parquet", ".jsonl", ".csv", ".jsonl.gz", ".csv.gz")

NUM_LINES_SAMPLED = 10_000


def read_schema(name: str, file: BinaryIO) -> pa.Schema:
    """Return the columns of a manifest file; those of the text formats have type null.

    JSONL has no header: its columns are the keys of the first lines.

    Raises:
        ConfigError: The file is damaged or not of the format that its suffix names.
    """
    match format_of(name):
        case "parquet":
            return open_parquet(name, file).schema_arrow
        case "csv":
            rows = parse_csv(TextLines(name, file))
            names = tuple(next((row for _, row, _ in rows if row), ()))
            if len(set(names)) != len(names):
                twice = next(n for n in names if names.count(n) > 1)
                raise ConfigError(f"manifest {name}: its header has the column {twice!r} twice")
        case _:
            keys: dict[str, None] = {}
            text = TextLines(name, file)
            for number, raw in islice(text, NUM_LINES_SAMPLED):
                record, _ = parse_json(number, raw, is_strict=False)
                keys.update(dict.fromkeys(record or {}))
                if text.num_bytes > MAX_TEXT_BYTES:
                    break
            names = tuple(keys)
    return pa.schema([(n, pa.null()) for n in names])


def read_lines(
    name: str,
    file: BinaryIO,
    columns: Sequence[str],
    carry: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> Iterator[list[Line]]:
    """Read the named columns of a manifest file, in bounded batches.

    Args:
        name: Location for messages; its suffix says the format.
        file: At its start; Parquet needs it seekable.
        columns: What to read. All must exist, save in JSONL, where a missing key is None.
        carry: What else to read, and the types that those columns of a Parquet file are converted
            to. Their values are those of `columns.cells`.

    Raises:
        ConfigError: The file is damaged, or expands beyond what a manifest needs.
        UnfitError: A carried value does not fit its type.
    """
    if format_of(name) == "parquet":
        yield from parquet_batches(name, file, columns, carry)
        return
    columns = [*columns, *carry]
    reader = csv_lines if format_of(name) == "csv" else jsonl_lines
    text = TextLines(name, file)
    batch, start = list[Line](), 0
    for line in reader(text, columns):
        batch.append(line)
        if len(batch) == LINES_PER_BATCH or text.num_bytes - start > MAX_TEXT_BYTES:
            yield batch
            batch, start = [], text.num_bytes
    if batch:
        yield batch


def format_of(name: str) -> Literal["parquet", "jsonl", "csv"]:
    """Return the format that the suffix names."""
    if not name.lower().endswith(SUFFIXES):
        raise ConfigError(
            f"manifest {name}: the suffix must be .parquet, .jsonl or .csv (.gz for the last two)"
        )
    suffix = name.lower().removesuffix(".gz").rpartition(".")[2]
    return cast('Literal["parquet", "jsonl", "csv"]', suffix)


def types_of(name: str, file: BinaryIO) -> pa.Schema | None:
    """Return the columns of a Parquet file; None for one without rows.

    Raises:
        ConfigError: The file is damaged.
    """
    parquet = open_parquet(name, file)
    return parquet.schema_arrow if parquet.metadata.num_rows else None
