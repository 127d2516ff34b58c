"""Lines of JSONL and CSV manifests."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, BinaryIO, cast

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.sources.formats.line import (
    FREE_EXPANSION_BYTES,
    MAX_GZIP_EXPANSION,
    MAX_LINE_BYTES,
    Line,
)
from dsvl_pipeline.wording import amount

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class TextLines:
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


def jsonl_lines(text: TextLines, columns: Sequence[str]) -> Iterator[Line]:
    """Read each line as a JSON object."""
    for number, raw in text:
        if raw is not None and raw.isspace():
            continue
        record, problem = parse_json(number, raw)
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


def parse_json(
    number: int, raw: bytes | None, *, is_strict: bool = True
) -> tuple[dict[str, Any] | None, str]:
    """Read one line; give its object, or what is wrong with it."""
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


def csv_lines(text: TextLines, columns: Sequence[str]) -> Iterator[Line]:
    """Read each record by the names in the first."""
    rows = parse_csv(text)
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


def parse_csv(text: TextLines) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield (number of the first line, fields, problem) of each record; blank lines are skipped."""
    lines = _CsvText(text)
    reader = csv.reader(lines, strict=True)
    while True:
        first, row = lines.begin_record(reader.line_num + 1), list[str]()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            until = f" (up to line {reader.line_num})" if reader.line_num > first else ""
            lines.problem = f"found no valid CSV{until}: {error}"
            if lines.is_at_end:
                lines.problem = (
                    f"the quote opened in line {lines.quote_line} is never closed; nothing after "
                    f"it was read{until}"
                )
        if row or lines.problem:
            yield first, row, lines.problem


class _CsvText:
    """The lines of a CSV file as text, and what is wrong with those of the record that is read.

    Attributes:
        problem: Of the record so far.
        quote_line: Where the quote was opened that is still open.
        is_at_end: Whether all lines were read.
    """

    def __init__(self, text: TextLines) -> None:
        self._text = text
        self._first, self._start = 1, 0
        self._is_in_quotes = False
        self.problem: str | None = None
        self.quote_line, self.is_at_end = 0, False

    def begin_record(self, first: int) -> int:
        """Begin a record, with nothing wrong; give its first line's number back."""
        self._first, self._start = first, self._text.num_bytes
        self._is_in_quotes, self.problem = False, None
        return first

    def __iter__(self) -> Iterator[str]:
        for number, raw in self._text:
            # A quote that is never closed would take the rest of the file into memory; a line that
            # is too long by itself was skipped, and is a row's matter.
            num_bytes = self._text.num_bytes - self._start
            if raw is not None and number > self._first and num_bytes > MAX_LINE_BYTES:
                raise ConfigError(
                    f"manifest {self._text.name}: the record that begins in line {self._first} is "
                    f"longer than {MAX_LINE_BYTES >> 20} MiB; is a quote in it never closed?"
                )
            if raw is None:
                self.problem = _TOO_LONG
                yield "\n"
            else:
                yield self._decoded(number, raw)
        self.is_at_end = True

    def _decoded(self, number: int, raw: bytes) -> str:
        if num_quotes := raw.replace(b'""', b"").count(b'"'):  # a doubled one is text
            self._is_in_quotes ^= num_quotes % 2 == 1
            self.quote_line = number if self._is_in_quotes else 0
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.problem = _not_utf8(error)
            return raw.decode(errors="replace")
