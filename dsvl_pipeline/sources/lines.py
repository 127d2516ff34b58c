"""Parquet, JSONL and CSV files as bounded batches of lines, each either values or a problem.

A line that cannot be read is a `Line` with a problem, so that it becomes one error row. A file
that cannot be read raises `ConfigError`: planning reads manifests before anything is started.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsvl_pipeline import columns as users
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.wording import amount

SUFFIXES = (".parquet", ".jsonl", ".csv", ".jsonl.gz", ".csv.gz")
LINES_PER_BATCH = 4096
NUM_LINES_SAMPLED = 10_000
MAX_LINE_BYTES = 16 << 20
# Values take up to twenty times their text: what is read on after so much waits for the next batch.
MAX_TEXT_BYTES = 16 << 20
# A Parquet batch is decoded whole before its size can be known, and the footer lies about it: few
# rows at a time bound what one long value, repeated by a dictionary, can expand to.
PARQUET_ROWS_PER_BATCH = 512
MAX_BATCH_BYTES = 64 << 20
# Manifests (ids, URIs, prompts) expand 3 to 30 times; a bomb of 463 bytes makes gigabytes.
MAX_EXPANSION = 1000
MAX_GZIP_EXPANSION = 200
FREE_EXPANSION_BYTES = 64 << 20

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class Line(NamedTuple):
    """One line (of Parquet: row) of a manifest file.

    Attributes:
        number: From 1; the header of a CSV file is line 1.
        values: Of the wanted columns, in their order; empty where there is a problem.
        problem: What was found and expected, for people.
    """

    number: int
    values: tuple[Any, ...]
    problem: str | None = None


class UnfitError(ValueError):
    """A value does not fit the type that the files of a manifest have in common.

    Attributes:
        column: Its name.
    """

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(problem)
        self.column = column


_BAD_TEXT = object()  # stands for a value that is not valid UTF-8
_BAD_TIME = object()  # stands for one that microseconds cannot count


def read_schema(name: str, file: BinaryIO) -> pa.Schema:
    """Give the columns of a manifest file; those of the text formats have type null.

    JSONL has no header: its columns are the keys of the first lines.

    Raises:
        ConfigError: The file is damaged or not of the format that its suffix names.
    """
    match format_of(name):
        case "parquet":
            return _open_parquet(name, file).schema_arrow
        case "csv":
            rows = _parse_csv(_TextLines(name, file))
            names = tuple(next((row for _, row, _ in rows if row), ()))
            if len(set(names)) != len(names):
                twice = next(n for n in names if names.count(n) > 1)
                raise ConfigError(f"manifest {name}: its header has the column {twice!r} twice")
        case _:
            keys: dict[str, None] = {}
            text = _TextLines(name, file)
            for number, raw in islice(text, NUM_LINES_SAMPLED):
                record, _ = _parse_json(number, raw, is_strict=False)
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
        yield from _parquet_batches(name, file, columns, carry)
        return
    columns = [*columns, *carry]
    reader = _csv_lines if format_of(name) == "csv" else _jsonl_lines
    text = _TextLines(name, file)
    batch, start = list[Line](), 0
    for line in reader(text, columns):
        batch.append(line)
        if len(batch) == LINES_PER_BATCH or text.num_bytes - start > MAX_TEXT_BYTES:
            yield batch
            batch, start = [], text.num_bytes
    if batch:
        yield batch


def format_of(name: str) -> Literal["parquet", "jsonl", "csv"]:
    """Tell the format by the suffix."""
    if not name.lower().endswith(SUFFIXES):
        raise ConfigError(
            f"manifest {name}: the suffix must be .parquet, .jsonl or .csv (.gz for the last two)"
        )
    suffix = name.lower().removesuffix(".gz").rpartition(".")[2]
    return cast('Literal["parquet", "jsonl", "csv"]', suffix)


# ------------------------------------------------------------------ Parquet


def _open_parquet(name: str, file: BinaryIO) -> pq.ParquetFile:
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


def types_of(name: str, file: BinaryIO) -> pa.Schema | None:
    """Give the columns of a Parquet file; None for one without rows.

    Raises:
        ConfigError: The file is damaged.
    """
    parquet = _open_parquet(name, file)
    return parquet.schema_arrow if parquet.metadata.num_rows else None


def _parquet_batches(
    name: str, file: BinaryIO, columns: Sequence[str], carry: Mapping[str, pa.DataType]
) -> Iterator[list[Line]]:
    parquet = _open_parquet(name, file)
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
        return _BAD_TEXT


def _carried_values(name: str, column: pa.Array, wanted: pa.DataType) -> list[Any]:
    """Give the values of a carried column in its type, those of no use as what stands for them.

    Raises:
        UnfitError: One does not fit, because the type is that of another file.
    """
    try:
        return _in_type(column, wanted)
    except (pa.ArrowException, UnicodeDecodeError, OverflowError):
        return [_carried_value(name, column.slice(at, 1), wanted) for at in range(len(column))]


def _in_type(column: pa.Array, wanted: pa.DataType) -> list[Any]:
    column = users.convert(column, wanted)
    if pa.types.is_nested(wanted):
        # Text within is not decoded on its way; what lies beside a slice does not matter.
        column = column.take(pa.array(np.arange(len(column))))
        column.validate(full=True)
    return users.cells(column)


def _carried_value(name: str, column: pa.Array, wanted: pa.DataType) -> Any:
    try:
        return _in_type(column, wanted)[0]
    except UnicodeDecodeError:
        return _BAD_TEXT
    except (pa.ArrowException, OverflowError) as error:
        if "UTF8" in str(error):
            return _BAD_TEXT
        if users.portable_type(column.type) != wanted:
            raise UnfitError(name, str(error)) from None
        return _BAD_TIME


def _parquet_line(number: int, row: tuple[Any, ...], columns: Sequence[str]) -> Line:
    # By identity: values of Arrow are equal to nothing else.
    for column, value in zip(columns, row, strict=True):
        if value is _BAD_TEXT:
            return Line(number, (), f"column {column!r} holds bytes that are not UTF-8")
        if value is _BAD_TIME:
            problem = f"column {column!r} holds a time or duration beyond what microseconds count"
            return Line(number, (), f"{problem}; expected one within 290,000 years of 1970")
    return Line(number, row)


# ------------------------------------------------------------- text formats


class _TextLines:
    """Numbered raw lines; None for one beyond ``MAX_LINE_BYTES``, which is skipped.

    Attributes:
        name: Of the file, for messages.
        num_bytes: How many were read so far, decompressed.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name, self._file = name, file
        self._most_bytes: float = math.inf
        if name.lower().endswith(".gz"):
            size = file.seek(0, 2)
            file.seek(0)
            self._most_bytes = FREE_EXPANSION_BYTES + MAX_GZIP_EXPANSION * size
            self._file = cast("BinaryIO", gzip.GzipFile(fileobj=file))
        self.num_bytes = 0

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        number = 0
        try:
            while raw := self._read(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                if len(raw) <= MAX_LINE_BYTES:
                    yield number, raw
                    continue
                while raw and not raw.endswith(b"\n"):
                    raw = self._read(MAX_LINE_BYTES)
                yield number, None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConfigError(
                f"manifest {self.name} is damaged: reading on after line {number} failed: {error}"
            ) from None

    def _read(self, most: int) -> bytes:
        raw = self._file.readline(most)
        self.num_bytes += len(raw)
        if self.num_bytes > self._most_bytes:
            raise ConfigError(
                f"manifest {self.name}: it expands beyond what a manifest needs (at most "
                f"{MAX_GZIP_EXPANSION} times its size); if that is intended, give it without .gz"
            )
        return raw


_TOO_LONG = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"found the byte 0x{error.object[error.start]:02x}, expected UTF-8 text"


def _jsonl_lines(text: _TextLines, columns: Sequence[str]) -> Iterator[Line]:
    for number, raw in text:
        if raw is not None and raw.isspace():
            continue
        record, problem = _parse_json(number, raw)
        if record is None:
            yield Line(number, (), problem)
        else:
            yield Line(number, tuple(map(record.get, columns)))


class _TwiceError(Exception):
    """An object has a key twice; which value is meant?"""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return record


_STRICT = json.JSONDecoder(object_pairs_hook=_object)  # to make one takes as long as a line does


def _parse_json(
    number: int, raw: bytes | None, *, is_strict: bool = True
) -> tuple[dict[str, Any] | None, str]:
    if raw is None:
        return None, _TOO_LONG
    try:
        text = raw.decode()
        record = _STRICT.decode(text) if is_strict else json.loads(text)
        # Escapes can spell half a character, which no UTF-8 file could then hold.
        if "\\u" in text and _SURROGATE_ESCAPE.search(text):
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return None, _not_utf8(error)
    except UnicodeEncodeError:
        return (
            None,
            "found half of a surrogate pair (\\ud800 to \\udfff), expected whole characters",
        )
    except _TwiceError as error:
        return None, f"found the key {str(error)!r} twice in one object, expected it once"
    except json.JSONDecodeError as error:
        return None, (
            f"found no valid JSON ({error.msg}, column {error.colno}), expected one object per line"
        )
    except (ValueError, RecursionError) as error:
        return None, f"found no usable JSON ({error}), expected one object per line"
    if not isinstance(record, dict):
        return None, f"found a JSON {type(record).__name__}, expected one object per line"
    return record, ""


def _csv_lines(text: _TextLines, columns: Sequence[str]) -> Iterator[Line]:
    rows = _parse_csv(text)
    header: Sequence[str] = next((row for _, row, _ in rows if row), ())
    places = [header.index(column) for column in columns]
    # itemgetter gives a bare value for one place
    pick = itemgetter(*places) if len(places) > 1 else lambda row: tuple(row[p] for p in places)
    for number, row, problem in rows:
        if problem is not None:
            yield Line(number, (), problem)
        elif len(row) != len(header):
            yield Line(
                number,
                (),
                f"found {amount(len(row), 'field')}, expected {len(header)} as in the header",
            )
        else:
            yield Line(number, pick(row))


def _parse_csv(text: _TextLines) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield (number of the first line, fields, problem) of each record; blank lines are skipped."""
    problem: str | None = None
    quote_line, is_in_quotes, is_at_end, start = 0, False, False, 0

    def texts() -> Iterator[str]:
        nonlocal problem, quote_line, is_in_quotes, is_at_end
        for number, raw in text:
            # A quote that is never closed would take the rest of the file into memory; a line that
            # is too long by itself was skipped, and is a row's matter.
            if raw is not None and number > first and text.num_bytes - start > MAX_LINE_BYTES:
                raise ConfigError(
                    f"manifest {text.name}: the record that begins in line {first} is longer than "
                    f"{MAX_LINE_BYTES >> 20} MiB; is a quote in it never closed?"
                )
            if raw is None:
                problem = _TOO_LONG
                yield "\n"
                continue
            if num_quotes := raw.replace(b'""', b"").count(b'"'):  # a doubled one is text
                is_in_quotes ^= num_quotes % 2 == 1
                quote_line = number if is_in_quotes else 0
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                problem = _not_utf8(error)
                yield raw.decode(errors="replace")
        is_at_end = True

    reader = csv.reader(texts(), strict=True)
    while True:
        first, row, is_in_quotes, start = reader.line_num + 1, [], False, text.num_bytes
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            until = f" (up to line {reader.line_num})" if reader.line_num > first else ""
            problem = f"found no valid CSV{until}: {error}"
            if is_at_end:
                problem = (
                    f"the quote opened in line {quote_line} is never closed; nothing after it "
                    f"was read{until}"
                )
        if row or problem:
            yield first, row, problem
        problem = None
