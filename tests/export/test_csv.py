"""What a CSV copy gives back to those who read it: the very values that went in."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest

from dsvl_pipeline.cli.main import main
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.export.export import export
from tests.tables import write_table

TEXTS = {
    "bare-cr": "line one\rline two",
    "only-cr": "\r",
    "crlf": "x\r\ny",
    "lf": "\nx\n",
    "other-line-ends": "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g",
    "nul": "nul\0x",
    "only-nul": "\0",
    "quote": 'q"uote',
    "only-quotes": '""',
    "backslash-quote": 'ends in \\"',
    "comma": "a,b;c|d",
    "empty": "",
    "spaces": "  lead and trail ",
    "only-space": " ",
    "tab": "\ttab\t",
    "formula": "=1+1",
    "plus": "+49 30 1234",
    "minus": "-1",
    "at": "@SUM(A1)",
    "not-available": "NA",
    "null": "null",
    "nan": "NaN",
    "backslash-n": "\\N",
    "leading-zeros": "007",
    "exponent": "1e5",
    "many-digits": "12345678901234567890",
    "date": "2026-01-02",
    "truth": "true",
    "comment": "#not a comment",
    "bom": "\ufeffbom",
    "escape": "\x1b[31mred\x9b0m",
    "wide": "多 \U0001f600 e\u0301",
    "json": '["a", 1]',
}
NULL = "nothing"  # the id of a row without a text


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export each text as a text, as a carried value and within an id."""
    folder = tmp_path_factory.mktemp("csv")
    rows: list[dict[str, Any]] = [
        {"row_id": name, "text": text, 'carried "x",\ny': text} for name, text in TEXTS.items()
    ]
    rows += [{"row_id": NULL, "text": None}, {"row_id": "id\r\n=,\x00 \u2028", "text": "id"}]
    carry = pa.schema([('carried "x",\ny', pa.string())])
    write_table(str(folder / "table"), rows, carry)
    assert export(str(folder / "table"), str(folder / "rows.csv")) == len(rows)
    return folder / "rows.csv"


def read_csv_module(path: Path) -> list[dict[str, Any]]:
    """Null and an empty text are one to it."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]


def read_pandas(path: Path, engine: str) -> list[dict[str, Any]]:
    """Likewise."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, engine=engine)  # type: ignore[call-overload]
    return [{k: v or None for k, v in row.items()} for row in frame.to_dict("records")]


def read_pyarrow(path: Path) -> list[dict[str, Any]]:
    """Knows null from an empty text where it is told."""
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file))
    table = pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    return table.to_pylist()  # type: ignore[no-any-return]


def read_duckdb(path: Path) -> list[dict[str, Any]]:
    """Likewise."""
    found = duckdb.read_csv(str(path), header=True, all_varchar=True, allow_quoted_nulls=False)
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


READERS = {
    "csv": (read_csv_module, False),
    "pandas": (lambda path: read_pandas(path, "c"), False),
    "pandas-python": (lambda path: read_pandas(path, "python"), False),
    "pyarrow": (read_pyarrow, True),
    "duckdb": (read_duckdb, True),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_back_is_what_went_in(copy: Path, reader: str) -> None:
    """A bare CR once made three rows of two, and took the others' columns apart."""
    read, knows_empty = READERS[reader]
    rows = {row["row_id"]: row for row in read(copy)}
    wanted = {name: text if knows_empty else text or None for name, text in TEXTS.items()}
    assert {name: rows[name]["text"] for name in TEXTS} == wanted
    assert {name: rows[name]['carried "x",\ny'] for name in TEXTS} == wanted
    assert rows[NULL]["text"] is None
    assert rows["id\r\n=,\x00 \u2028"]["text"] == "id"
    assert len(rows) == len(TEXTS) + 2


def test_the_bytes_do_not_depend_on_pythons_csv(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer leaves a bare CR without quotes before 3.13: no export may go through it.

    Every text is in quotes with quotes doubled, whatever it holds, which any version of any reader
    of RFC 4180 takes back.
    """
    for name in ("writer", "DictWriter"):
        monkeypatch.delattr(csv, name)
    export(str(copy.parent / "table"), str(tmp_path / "again.csv"))
    data = (tmp_path / "again.csv").read_bytes()
    assert data == copy.read_bytes()
    for text in TEXTS.values():
        quoted = text.replace('"', '""')
        assert f',"ok","{quoted}",'.encode() in data


VALUES: dict[str, tuple[pa.DataType, Any, str | None]] = {
    "list": (pa.list_(pa.string()), ["a,b", 'c"\r', None], '["a,b", "c\\"\\r", null]'),
    "struct": (pa.struct([("x", pa.int64())]), {"x": 1}, '{"x": 1}'),
    "nested": (
        pa.list_(pa.struct([("x", pa.float64()), ("b", pa.binary())])),
        [{"x": math.nan, "b": b"\0"}],
        '[{"x": null, "b": "00"}]',
    ),
    "map": (pa.map_(pa.string(), pa.float64()), [("k", math.inf)], '[["k", null]]'),
    "binary": (pa.binary(), b"\x00\xff=", "00ff3d"),
    "time": (
        pa.timestamp("us", "UTC"),
        datetime(2026, 1, 2, tzinfo=UTC),
        "2026-01-02T00:00:00+00:00",
    ),
    "day": (pa.date32(), date(1, 1, 1), "0001-01-01"),
    "nan": (pa.float64(), math.nan, None),
    "infinity": (pa.float64(), -math.inf, "-inf"),
    "float": (pa.float64(), 0.1 + 0.2, "0.30000000000000004"),
    "negative-zero": (pa.float64(), -0.0, "-0.0"),
    "whole": (pa.float64(), 1.0, "1.0"),
    "long": (pa.int64(), -(2**63), "-9223372036854775808"),
    "truth": (pa.bool_(), False, "False"),
    "decimal": (pa.decimal128(10, 2), Decimal("-1.10"), "-1.10"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_of_every_type_are_exact(tmp_path: Path, kind: str) -> None:
    """Lists and structs as JSON, bytes in hex, times in ISO 8601, floats whole; NaN as null."""
    of_type, value, text = VALUES[kind]
    rows = [{"row_id": "a", "value": value}, {"row_id": "b", "value": None}]
    write_table(str(tmp_path / "table"), rows, pa.schema([("value", of_type)]))
    export(str(tmp_path / "table"), str(tmp_path / "rows.csv"))
    for name, (read, _) in READERS.items():
        assert [row["value"] for row in read(tmp_path / "rows.csv")] == [text, None], name


def test_numbers_are_numbers_to_readers_that_guess(tmp_path: Path) -> None:
    """Only texts are in quotes."""
    rows = [{"row_id": "a", "text": "1", "latency_s": 0.1, "page_index": 3}]
    write_table(str(tmp_path / "table"), rows)
    export(str(tmp_path / "table"), str(tmp_path / "rows.csv"))
    frame = pd.read_csv(tmp_path / "rows.csv")
    found = duckdb.read_csv(str(tmp_path / "rows.csv"))
    assert (frame["latency_s"][0], frame["page_index"][0]) == (0.1, 3)
    assert found.select("latency_s", "page_index").fetchall() == [(0.1, 3)]


HARMLESS = ["plain", "a=1", "'quoted", "", "1-1", "多=1"]
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    " =1",
    "\x00=1",
    "\u00a0@x",
    "＝1",
    "＠x",
]


def test_a_spreadsheet_gets_no_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who opens strangers' texts must not run them; numbers stay numbers, also below zero."""
    carry = pa.schema([("=cmd", pa.string()), ("number", pa.float64())])
    rows = [
        {"row_id": f"{i:02}", "text": text, "=cmd": text, "number": -1.5}
        for i, text in enumerate(FORMULAS + HARMLESS)
    ]
    write_table(str(tmp_path / "table"), rows, carry)
    assert main(["export", str(tmp_path / "table"), str(tmp_path / "x.csv"), "--spreadsheet"]) == 0
    found = read_duckdb(tmp_path / "x.csv")
    assert [row["text"] for row in found] == [f"'{text}" for text in FORMULAS] + HARMLESS
    assert [row["'=cmd"] for row in found] == [row["text"] for row in found]
    assert {row["number"] for row in found} == {"-1.5"}


def test_only_csv_is_for_spreadsheets(tmp_path: Path) -> None:
    """An option without an effect would be believed."""
    with pytest.raises(ConfigError, match=r"--spreadsheet is for CSV, not for \.jsonl"):
        export(str(tmp_path / "table"), str(tmp_path / "x.jsonl"), is_for_spreadsheet=True)


def test_lines_of_jsonl_are_lines_to_every_reader(tmp_path: Path) -> None:
    """U+2028 may stand in JSON as it is, but some take it for the end of a line."""
    rows = [{"row_id": name, "text": text} for name, text in TEXTS.items()]
    write_table(str(tmp_path / "table"), rows)
    export(str(tmp_path / "table"), str(tmp_path / "rows.jsonl"))
    lines = (tmp_path / "rows.jsonl").read_bytes().decode().splitlines()
    assert {row["row_id"]: row["text"] for row in map(json.loads, lines)} == TEXTS


def test_a_name_makes_no_heading_in_markdown(tmp_path: Path) -> None:
    """One section per input, also of an input whose name holds line ends."""
    rows = [
        {"row_id": "a\n# b\u2028c", "text": None},
        {"row_id": "z", "status": "error", "error_code": "x", "error_message": "one\n# two"},
    ]
    write_table(str(tmp_path / "table"), rows)
    export(str(tmp_path / "table"), str(tmp_path / "rows.md"))
    assert (tmp_path / "rows.md").read_text(encoding="utf-8") == (
        "# a # b c\n\n## read (ok)\n\n\n\n# z\n\n## read (error)\n\n> x: one # two\n"
    )
