"""Lines of Parquet manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job import column_types, columns
from dsvl_pipeline.sources.formats.line import (
    BAD_TEXT,
    BAD_TIME,
    FREE_EXPANSION_BYTES,
    MAX_BATCH_BYTES,
    MAX_EXPANSION,
    Line,
    UnfitError,
)
from dsvl_pipeline.wording import amount

# A Parquet batch is decoded whole before its size can be known, and the footer lies about it: few
# rows at a time bound what one long value, repeated by a dictionary, can expand to.
PARQUET_ROWS_PER_BATCH = 512


def open_parquet(name: str, file: BinaryIO) -> pq.ParquetFile:
    """Open a manifest, or say why it cannot be."""
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        parquet.schema_arrow.names  # noqa: B018 - decoded when they are asked for
    except UnicodeDecodeError:
        raise ConfigError(
            f"manifest {name}: the name of a column is not UTF-8; write it anew with other names"
        ) from None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ConfigError(f"manifest {name} is not a readable Parquet file: {error}") from None
    return parquet


def parquet_batches(
    name: str, file: BinaryIO, columns: Sequence[str], carry: Mapping[str, pa.DataType]
) -> Iterator[list[Line]]:
    """Read batches of lines; a line that does not fit says so itself."""
    parquet = open_parquet(name, file)
    budget = FREE_EXPANSION_BYTES + MAX_EXPANSION * file.seek(0, 2)
    first = 1
    names = [*columns, *carry]
    batches = parquet.iter_batches(PARQUET_ROWS_PER_BATCH, columns=list(dict.fromkeys(names)))
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                break
            budget -= batch.nbytes
            if budget < 0 or batch.nbytes > MAX_BATCH_BYTES:
                raise ConfigError(
                    f"manifest {name}: near row {first} it expands beyond what a manifest needs "
                    f"(at most {MAX_EXPANSION} times its size, and {MAX_BATCH_BYTES >> 20} MiB in "
                    f"{PARQUET_ROWS_PER_BATCH} rows); keep only ids, URIs and texts in it"
                )
            values = [_python_values(batch.column(c)) for c in columns]
            values += [_carried_values(c, batch.column(c), kind) for c, kind in carry.items()]
        except UnfitError:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise ConfigError(
                f"manifest {name} is damaged: reading on from row {first} failed: {error}"
            ) from None
        rows = zip(*values, strict=True) if values else ((),) * batch.num_rows
        yield [_parquet_line(number, row, names) for number, row in enumerate(rows, first)]
        first += batch.num_rows
    if first - 1 != parquet.metadata.num_rows:
        raise ConfigError(
            f"manifest {name} is damaged: its footer promises "
            f"{amount(parquet.metadata.num_rows, 'row')}, "
            f"but it holds {first - 1:,}"
        )


def _python_values(column: pa.Array) -> list[Any]:
    try:
        return cast("list[Any]", column.to_pylist())
    except UnicodeDecodeError:
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return BAD_TEXT


def _carried_values(name: str, column: pa.Array, wanted: pa.DataType) -> list[Any]:
    """Return the values of a carried column in its type, those of no use as what stands for them.

    Raises:
        UnfitError: One does not fit, because the type is that of another file.
    """
    try:
        return _in_type(column, wanted)
    except (pa.ArrowException, UnicodeDecodeError, OverflowError):
        return [_carried_value(name, column.slice(at, 1), wanted) for at in range(len(column))]


def _in_type(column: pa.Array, wanted: pa.DataType) -> list[Any]:
    column = columns.convert(column, wanted)
    if pa.types.is_nested(wanted):
        # Text within is not decoded on its way; what lies beside a slice does not matter.
        column = column.take(pa.array(np.arange(len(column))))
        column.validate(full=True)
    return columns.cells(column)


def _carried_value(name: str, column: pa.Array, wanted: pa.DataType) -> Any:
    try:
        return _in_type(column, wanted)[0]
    except UnicodeDecodeError:
        return BAD_TEXT
    except (pa.ArrowException, OverflowError) as error:
        if "UTF8" in str(error):
            return BAD_TEXT
        if column_types.portable_type(column.type) != wanted:
            raise UnfitError(name, str(error)) from None
        return BAD_TIME


def _parquet_line(number: int, row: tuple[Any, ...], columns: Sequence[str]) -> Line:
    # By identity: values of Arrow are equal to nothing else.
    for column, value in zip(columns, row, strict=True):
        if value is BAD_TEXT:
            return Line(number, (), f"column {column!r} holds bytes that are not UTF-8")
        if value is BAD_TIME:
            problem = f"column {column!r} holds a time or duration beyond what microseconds count"
            return Line(number, (), f"{problem}; expected one within 290,000 years of 1970")
    return Line(number, row)
