"""Manifests in each format: good lines, bad lines, bad files."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.columns import column_of
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.keys import content_id_from, content_id_of_many, row_id_for
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.formats import lines, parquet, text_lines
from dsvl_pipeline.sources.open import Input, open_input

COLUMNS = {"id": "sku", "image": "image", "prompt": "question"}
GOOD = [
    {"sku": "s1", "image": "a.jpg", "question": "What?", "category": 'x, "y"\nz', "n": "1"},
    {
        "sku": "s2",
        "image": "s3://bucket/b.jpg",
        "question": "Äöü 漢字 😀",
        "category": "",
        "n": "2",
    },
    {"sku": "s3", "image": "/abs/c.jpg", "question": "", "category": "y", "n": "3"},
]


def write(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write a manifest of the format that the suffix names."""
    records = list(records)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif ".jsonl" in path.name:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def source(path: Path | str, **settings: Any) -> Input:
    """The input of a job with this manifest."""
    settings = {"columns": COLUMNS, **settings}
    return open_input(InputConfig.model_validate({"manifest": str(path), **settings}))


def rows(path: Path | str, **settings: Any) -> list[Row]:
    """All rows of a manifest."""
    return list(source(path, **settings).rows())


def failures(path: Path, **settings: Any) -> dict[str, tuple[str, str]]:
    """Code and message by row id, of the rows that failed."""
    return {
        row.row_id: (row.failure.code, row.failure.message)
        for row in rows(path, **settings)
        if row.failure is not None
    }


FORMATS = ["m.parquet", "m.jsonl", "m.csv", "m.jsonl.gz", "m.csv.gz"]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    """Only how a column's type is known differs."""
    found = rows(write(tmp_path / name, GOOD), carry=["category", "n"])
    assert [row.row_id for row in found] == ["s1", "s2", "s3"]
    assert [row.sources for row in found] == [
        (f"{tmp_path}/a.jpg",),  # beside the manifest
        ("s3://bucket/b.jpg",),
        ("/abs/c.jpg",),
    ]
    assert [row.prompt for row in found] == ["What?", "Äöü 漢字 😀", None]
    assert [row.carry for row in found] == [('x, "y"\nz', "1"), ("", "2"), ("y", "3")]
    # Neither local file exists; what a store holds is not asked.
    assert [row.content_id for row in found] == [b"", content_id_from(uri="s3://bucket/b.jpg"), b""]
    assert all(row.kind == "image" and row.failure is None for row in found)


@pytest.mark.parametrize("name", FORMATS)
def test_reading_in_small_batches_changes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither order nor numbers of lines hang on the size of a batch."""
    records = [{"sku": f"{n % 40}", "image": f"{n}.jpg", "question": "?"} for n in range(60)]
    records[13]["image"] = ""
    path = write(tmp_path / name, records)
    whole = rows(path)
    monkeypatch.setattr(lines, "LINES_PER_BATCH", 7)
    monkeypatch.setattr(parquet, "PARQUET_ROWS_PER_BATCH", 7)
    assert rows(path) == whole
    codes = [row.failure.code for row in whole if row.failure]
    assert codes == ["no_image", *["duplicate_id"] * 20]


def test_carried_columns_keep_the_types_of_parquet(tmp_path: Path) -> None:
    """Times in microseconds: Python's clock has no more, and pandas is not needed for it."""
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
    values = {"f": 1.5, "b": True, "l": [1, 2], "d": {"k": "v"}, "t": moment, "e": None}
    schema = pa.schema(
        [
            ("image", pa.string()),
            ("f", pa.float32()),
            ("b", pa.bool_()),
            ("l", pa.list_(pa.int16())),
            ("d", pa.struct([("k", pa.string())])),
            ("t", pa.timestamp("ns")),
            ("e", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
    pq.write_table(pa.Table.from_pylist([{"image": "a", **values}], schema), tmp_path / "m.parquet")
    opened = source(tmp_path / "m.parquet", columns={"image": "image"}, carry=list(values))
    [row] = opened.rows()
    kinds = opened.carry_schema.types
    carried = [column_of([v], kind)[0].as_py() for v, kind in zip(row.carry, kinds, strict=True)]
    assert dict(zip(values, carried, strict=True)) == values
    types = [pa.float32(), pa.bool_(), pa.list_(pa.int16()), schema.field("d").type]
    assert kinds == [*types, pa.timestamp("us"), pa.string()]


@pytest.mark.parametrize("name", FORMATS[:3])
def test_a_column_may_serve_twice(name: str, tmp_path: Path) -> None:
    """As id and carried, or as prompt and id."""
    path = write(tmp_path / name, GOOD)
    found = rows(path, columns={**COLUMNS, "prompt": "sku"}, carry=["sku", "image"])
    assert [(row.row_id, row.prompt, row.carry) for row in found] == [
        (good["sku"], good["sku"], (good["sku"], good["image"])) for good in GOOD
    ]


def test_carried_json_values_become_text(tmp_path: Path) -> None:
    """A string stays as it is, everything else is JSON; a missing key is null."""
    path = tmp_path / "m.jsonl"
    records = [{"image": "a", "c": c} for c in ("é", 1, 1.5, True, None, ["é"], {"k": 1})]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*records, {"image": "b"}]))
    opened = source(path, columns={"image": "image"}, carry=["c"])
    assert [row.carry[0] for row in opened.rows()] == [
        "é", "1", "1.5", "true", None, '["é"]', '{"k": 1}', None,
    ]  # fmt: skip
    assert opened.carry_schema == pa.schema([("c", pa.string())])


# ------------------------------------------------------------------ bad lines


def test_bad_json_lines_are_rows(tmp_path: Path) -> None:
    """Each says where it stands, what was found and what was expected."""
    good = b'{"sku": "s%d", "image": "a.jpg"}\n'
    bad = [
        (b'{"sku": "x", "image": ', "no valid JSON"),
        (b'["sku", "x"]', "JSON list"),
        (b'"x"', "JSON str"),
        (b'{"sku": "\xff"}', "byte 0xff, expected UTF-8"),
        (b'{"sku": "\\ud800", "image": "a"}', "surrogate"),
        (b"[" * 100_000, "no usable JSON"),
        (b'{"sku": ' + b"9" * 5000 + b"}", "no usable JSON"),
        (b'{"image": "a.jpg"}', "'sku' holds nothing"),
        (b'{"sku": "", "image": "a.jpg"}', "'sku' holds nothing"),
        (b'{"sku": 1.5, "image": "a.jpg"}', "'sku' holds float 1.5"),
        (b'{"sku": true, "image": "a.jpg"}', "'sku' holds bool True"),
    ]
    path = tmp_path / "m.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + good % 0
        + b"\n  \n"
        + b"\n".join(line for line, _ in bad)
        + b"\n"
        + good % 1
    )
    found = rows(path, columns={"id": "sku", "image": "image"}, carry=[])
    assert [row.row_id for row in found if row.failure is None] == ["s0", "s1"]
    failed = [row for row in found if row.failure is not None]
    for number, ((_, message), row) in enumerate(zip(bad, failed, strict=True), 4):
        assert row.failure is not None
        assert row.failure.code == "manifest_line"
        assert row.failure.message.startswith(f"{path}:{number}: ")
        assert message in row.failure.message
        assert "expected" in row.failure.message
        assert row.row_id == f"{path}#{number}"
        assert row.sources == ()


def test_a_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    """json.dumps writes it by default; only half of one is a mistake."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"sku": "\\ud83d\\ude00", "image": "a"}\n')
    assert rows(path, columns={"id": "sku", "image": "image"})[0].row_id == "😀"


def test_values_of_the_wrong_type_keep_the_rows_id(tmp_path: Path) -> None:
    """A redrive by id then finds the row; what it carries is kept too."""
    path = tmp_path / "m.jsonl"
    bad = [
        {"image": 5},
        {"image": [1]},
        {"image": ["a", ""]},
        {"image": {"uri": "a"}},
        {"image": "a", "question": 7},
        {"image": "a", "sha": "12"},
        {"image": ["a", "b"], "sha": "0" * 64},
        {"image": "a", "sha": "g" * 64},
    ]
    path.write_text(
        "".join(json.dumps({"sku": n, "c": "kept", **r}) + "\n" for n, r in enumerate(bad))
    )
    found = rows(path, columns={**COLUMNS, "sha256": "sha"}, carry=["c"])
    assert [row.row_id for row in found] == [str(n) for n in range(len(bad))]
    assert {row.failure.code for row in found if row.failure} == {"manifest_line"}
    assert all(row.failure and row.carry == ("kept",) for row in found)


def test_bad_csv_lines_are_rows(tmp_path: Path) -> None:
    """The header is line 1, and a quoted line break counts."""
    path = tmp_path / "m.csv"
    path.write_bytes(
        b"\xef\xbb\xbfsku,image\r\n"
        b's1,"a\nb.jpg"\r\n'
        b"\r\n"
        b"s2\r\n"
        b"s3,c.jpg,more\r\n"
        b"s4,\xff.jpg\r\n"
        b's5,"d.jpg"x\r\n'
        b"s6,e.jpg\r\n"
        b's7,"a\n""b""\nc.jpg"\r\n'
        b'"s8\r\n8","never closed\r\n'
        b's9,""f"".jpg\r\n'
    )
    found = rows(path, columns={"id": "sku", "image": "image"})
    good = [(row.row_id, row.sources[0]) for row in found if row.failure is None]
    assert good == [
        ("s1", f"{tmp_path}/a\nb.jpg"),
        ("s6", f"{tmp_path}/e.jpg"),
        ("s7", f'{tmp_path}/a\n"b"\nc.jpg'),
    ]
    messages = [row.failure.message for row in found if row.failure]
    for message, (number, text) in zip(
        messages,
        [
            (5, "1 field, expected 2"),
            (6, "3 fields, expected 2"),
            (7, "byte 0xff"),
            (8, "no valid CSV"),
            (
                13,
                "the quote opened in line 14 is never closed; nothing after it was read (up to "
                "line 15)",
            ),
        ],
        strict=True,
    ):
        assert message.startswith(f"{path}:{number}: ")
        assert text in message


def test_a_line_without_an_end_does_not_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is passed over in pieces, and the next line is read."""
    monkeypatch.setattr(text_lines, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "m.jsonl"
    record = '{"sku": "%s", "image": "a", "question": null}\n'
    path.write_text(record % "s0" + record % ("x" * 5000) + record % "s2")
    found = rows(path)
    assert [row.row_id for row in found] == ["s0", f"{path}#2", "s2"]
    assert found[1].failure is not None
    assert "longer than" in found[1].failure.message


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_long_lines_make_small_batches(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of lines of megabytes would fill the driver's memory."""
    records = [{"sku": f"s{n}", "image": "a", "question": "x" * 1000} for n in range(20)]
    path = write(tmp_path / name, records)
    whole = rows(path)
    monkeypatch.setattr(lines, "MAX_TEXT_BYTES", 3000)
    with open(path, "rb") as file:
        sizes = [len(batch) for batch in lines.read_lines(name, file, ["question"])]
    assert sum(sizes) == 20
    assert max(sizes) <= 4
    assert rows(path) == whole


def test_a_csv_record_without_an_end_stops_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field is short, and each has a line break: one record would take the whole file."""
    monkeypatch.setattr(text_lines, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "m.csv"
    path.write_text("sku,image,question\ns0,a,b\n" + '"x\n",' * 400 + "end\n")
    assert "the record that begins in line 3 is longer than" in refused(path)


def test_text_in_parquet_may_lie_about_its_encoding(tmp_path: Path) -> None:
    """Arrow does not check: one bad value must not cost the batch."""
    bad = pa.array([b"a.jpg", b"\xff.jpg", b"c.jpg"]).view(pa.string())
    table = pa.table({"sku": ["s1", "s2", "s3"], "image": bad, "question": ["?"] * 3})
    pq.write_table(table, tmp_path / "m.parquet")
    failed = failures(tmp_path / "m.parquet")
    assert list(failed) == [f"{tmp_path}/m.parquet#2"]
    code, message = failed[f"{tmp_path}/m.parquet#2"]
    assert code == "manifest_line"
    assert "'image' holds bytes that are not UTF-8" in message


@pytest.mark.parametrize("name", ["m.parquet", "m.jsonl"])
def test_a_row_without_an_image_says_so(name: str, tmp_path: Path) -> None:
    """Null, empty and an empty list; with images it may be a list as well."""
    images: list[list[str] | None] = [["a", "b"], None, []]
    records = [{"sku": str(n), "image": i, "question": "?"} for n, i in enumerate(images)]
    path = write(tmp_path / name, records)
    assert {name: code for name, (code, _) in failures(path).items()} == dict.fromkeys(
        ["1", "2"], "no_image"
    )
    assert rows(path)[0].sources == (f"{tmp_path}/a", f"{tmp_path}/b")


def test_a_text_prompt_needs_no_image(tmp_path: Path) -> None:
    """Where the job names no image column."""
    path = write(tmp_path / "m.csv", [{"sku": "s", "question": "What is 1 + 1?"}])
    [row] = rows(path, columns={"id": "sku", "prompt": "question"})
    assert (row.sources, row.prompt, row.failure) == ((), "What is 1 + 1?", None)


# ------------------------------------------------------------------------ ids


@pytest.mark.parametrize("name", FORMATS[:3])
def test_a_repeated_id_is_an_error_row_in_all_files_together(name: str, tmp_path: Path) -> None:
    """The first keeps the id."""
    for stem in ("a", "b"):
        write(tmp_path / f"{stem}{name}", [{"sku": "s", "image": stem, "question": "?"}] * 2)
    found = rows(tmp_path / "*")
    assert [row.row_id for row in found] == ["s", "s#2", "s#3", "s#4"]
    assert [row.failure.code for row in found if row.failure] == ["duplicate_id"] * 3


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    """Parquet and JSON have them; as text they are the same in each format."""
    for name in ("m.parquet", "m.jsonl", "m.csv"):
        path = write(tmp_path / name, [{"sku": 7, "image": "a", "question": "?"}])
        assert rows(path)[0].row_id == "7"


def test_without_an_id_a_row_is_what_it_asks(tmp_path: Path) -> None:
    """Moving a line changes nothing; equal lines are numbered by file."""
    columns = {"image": "image", "prompt": "question"}
    records = [{"image": f"{n}.jpg", "question": "?"} for n in (1, 2, 1)]
    path = write(tmp_path / "m.csv", records)
    ids = [row.row_id for row in rows(path, columns=columns)]
    one, two = ((f"{tmp_path}/{n}.jpg",) for n in (1, 2))
    assert ids == [row_id_for(one, "?"), row_id_for(two, "?"), row_id_for(one, "?", 1)]
    random.shuffle(records)
    write(path, records)
    assert sorted(row.row_id for row in rows(path, columns=columns)) == sorted(ids)


def test_documents_are_named_by_their_uri(tmp_path: Path) -> None:
    """Without what a signed URL must keep to itself, and yet apart."""
    uris = ["a.pdf", "https://host/a.pdf?key=1", "https://host/a.pdf?key=2"]
    path = write(tmp_path / "m.csv", [{"pdf": uri} for uri in uris])
    found = rows(path, columns={"document": "pdf"})
    assert [row.kind for row in found] == ["document"] * 3
    assert [row.sources[0] for row in found] == [f"{tmp_path}/a.pdf", *uris[1:]]
    assert found[0].row_id == f"{tmp_path}/a.pdf"
    assert all(row.row_id.startswith("https://host/a.pdf#") for row in found[1:])
    assert len({row.row_id for row in found}) == 3
    assert "key" not in "".join(row.row_id for row in found)


def test_several_questions_about_one_document_are_several_rows(tmp_path: Path) -> None:
    """Its URI alone would not tell them apart."""
    columns = {"document": "pdf", "prompt": "q"}
    ids = []
    for questions in (["one", "two"], ["two", "one"]):
        path = write(tmp_path / "m.csv", [{"pdf": "a.pdf", "q": q} for q in questions])
        found = rows(path, columns=columns)
        assert not any(row.failure for row in found)
        ids.append({row.prompt: row.row_id for row in found})
    assert ids[0] == ids[1]  # whatever their order
    assert ids[0]["one"] != ids[0]["two"]


def test_content_is_identified_by_the_best_the_manifest_knows(tmp_path: Path) -> None:
    """sha256 before etag before the URI; of several images in their order."""
    sha, other = "A" * 64, "b" * 64
    path = tmp_path / "m.jsonl"
    records = [
        {"image": "x", "sha": sha, "tag": "t"},
        {"image": "y", "tag": "t"},
        {"image": ["x", "y"], "sha": [sha, None], "tag": [None, "t"]},
        {"image": ["y", "x"], "sha": [other, sha]},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = rows(path, columns={"image": "image", "sha256": "sha", "etag": "tag"})
    by_sha = content_id_from(uri="", sha256=sha)
    by_tag = content_id_from(uri="", etag="t")
    assert [row.content_id for row in found] == [
        by_sha,
        by_tag,
        content_id_of_many([by_sha, by_tag]),
        content_id_of_many([content_id_from(uri="", sha256=other), by_sha]),
    ]


def test_a_digest_may_be_bytes_in_parquet(tmp_path: Path) -> None:
    """As it is in many catalogues; it identifies what the hexadecimal one does."""
    table = {"image": ["a"], "sha": pa.array([bytes(range(32))], pa.binary(32))}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    [row] = rows(tmp_path / "m.parquet", columns={"image": "image", "sha256": "sha"})
    assert row.content_id == content_id_from(uri="", sha256=bytes(range(32)).hex())


# ------------------------------------------------------------------ bad files


def refused(path: Path | str, **settings: Any) -> str:
    """The message that a job with this manifest is stopped with."""
    with pytest.raises(ConfigError) as caught:
        rows(path, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS[:3])
def test_a_missing_column_names_the_nearest(name: str, tmp_path: Path) -> None:
    """And says which setting asks for it."""
    path = write(tmp_path / name, GOOD)
    message = refused(path, columns={"image": "imag_url"})
    assert f"{path} has no column 'imag_url', which input.columns.image names" in message
    assert "did you mean 'image'?" in message
    assert "its columns: sku, image, question, category, n" in message
    assert "input.carry names" in refused(path, carry=["categoy"])


@pytest.mark.parametrize(("separator", "word"), [(";", "';'"), ("\t", "tabs")])
def test_a_csv_of_another_separator_is_recognised(
    separator: str, word: str, tmp_path: Path
) -> None:
    """What spreadsheets export in many countries."""
    (tmp_path / "m.csv").write_text(f"sku{separator}image\n1{separator}a.jpg\n")
    assert f"is it separated by {word}?" in refused(tmp_path / "m.csv", columns={"image": "image"})


def test_a_later_file_must_have_the_columns_too(tmp_path: Path) -> None:
    """Its name is in the message, before anything is started."""
    write(tmp_path / "a.csv", GOOD)
    write(tmp_path / "b.csv", [{"other": 1}])
    assert f"{tmp_path}/b.csv has no column 'sku'" in refused(tmp_path / "*.csv")


def test_later_files_are_brought_to_the_types_of_the_first(tmp_path: Path) -> None:
    """Or refused, where that is not possible."""
    columns = {"image": "image"}
    write(tmp_path / "a.parquet", [{"image": "a", "n": 1.5}])
    write(tmp_path / "b.parquet", [{"image": "b", "n": 2}])
    found = rows(tmp_path / "*.parquet", columns=columns, carry=["n"])
    assert [row.carry for row in found] == [(1.5,), (2.0,)]
    write(tmp_path / "c.parquet", [{"image": "c", "n": "three"}])
    assert "c.parquet" in refused(tmp_path / "*.parquet", columns=columns, carry=["n"])


@pytest.mark.parametrize("column", ["id", "image", "prompt"])
def test_a_column_of_a_useless_type_is_named(column: str, tmp_path: Path) -> None:
    """One message for the file, not one for each of its rows."""
    record = {"sku": "s", "image": "a", "question": "?", COLUMNS[column]: 1.5}
    path = write(tmp_path / "m.parquet", [record])
    message = refused(path)
    assert f"column {COLUMNS[column]!r} holds double" in message
    assert f"input.columns.{column} needs" in message


@pytest.mark.parametrize("name", FORMATS[:3])
def test_a_manifest_without_rows_says_so(name: str, tmp_path: Path) -> None:
    """It is not the same as a missing one."""
    path = write(tmp_path / name, GOOD)
    if name == "m.parquet":
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    elif name == "m.csv":
        path.write_text(path.read_text().partition("\n")[0] + "\n\n")
    else:
        path.write_text("\n\n")
    assert "holds no rows" in refused(path)
    if name != "m.parquet":
        path.write_bytes(b"")
        assert "holds no rows" in refused(path)
        write(tmp_path / f"n{name}", GOOD)
        assert len(rows(tmp_path / f"*{name}")) == 3  # an empty file among others is none


def test_a_missing_manifest_says_what_is_there(tmp_path: Path) -> None:
    """The commonest mistake of all."""
    (tmp_path / "n.csv").touch()
    assert "n.csv" in refused(tmp_path / "m*.csv")
    assert "does not exist" in refused(tmp_path / "none" / "m.csv")
    assert "nothing found at" in refused(tmp_path / "m.csv")


def test_a_format_we_do_not_know_is_named(tmp_path: Path) -> None:
    """Also two formats at once, whose carried columns would differ in type."""
    (tmp_path / "m.xlsx").touch()
    assert "suffix must be .parquet, .jsonl or .csv" in refused(tmp_path / "m.xlsx")
    write(tmp_path / "a.csv", GOOD)
    write(tmp_path / "b.jsonl", GOOD)
    assert "several formats (csv, jsonl)" in refused(tmp_path)


def test_a_header_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    """Which of the two is meant cannot be known."""
    (tmp_path / "m.csv").write_text("image,image\na,b\n")
    assert "column 'image' twice" in refused(tmp_path / "m.csv", columns={"image": "image"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no parquet at all",
        lambda data: data[:-20],
        lambda data: data[:100] + bytes(len(data) // 2) + data[100 + len(data) // 2 :],
    ],
)
def test_a_damaged_parquet_file_stops_the_job(damage: Any, tmp_path: Path) -> None:
    """Nothing was started; half a manifest would look like rows that vanished."""
    records = [{"sku": f"s{n}", "image": f"{n}.jpg", "question": "?"} for n in range(2000)]
    path = write(tmp_path / "m.parquet", records)
    path.write_bytes(damage(path.read_bytes()))
    assert "m.parquet" in refused(path)


def test_a_cut_gzip_file_stops_the_job(tmp_path: Path) -> None:
    """Its last lines are missing without any of them being bad."""
    path = write(tmp_path / "m.jsonl.gz", GOOD)
    path.write_bytes(path.read_bytes()[:-12])
    assert "is damaged" in refused(path)
    path.write_bytes(b"no gzip")
    assert "is damaged" in refused(path)


def test_a_parquet_bomb_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long value repeated by a dictionary: kilobytes that expand to gigabytes."""
    monkeypatch.setattr(parquet, "FREE_EXPANSION_BYTES", 1 << 40)  # one batch is too much already
    value = pa.array(["x" * 200_000]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), value.dictionary)
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image": column}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    assert "expands beyond" in refused(path, columns={"image": "image"})


def test_a_bomb_of_short_values_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of millions of numbers from a few bytes would keep the planner busy for hours."""
    monkeypatch.setattr(parquet, "FREE_EXPANSION_BYTES", 1 << 20)
    monkeypatch.setattr(parquet, "MAX_EXPANSION", 10)
    path = tmp_path / "m.parquet"
    table = pa.table({"sku": pa.array([7] * 1_000_000), "question": ["?"] * 1_000_000})
    pq.write_table(table, path, compression="zstd")
    assert "expands beyond" in refused(path, columns={"id": "sku", "prompt": "question"})


def test_a_gzip_bomb_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of it is a gigabyte of lines; the same text is read where it is given whole."""
    monkeypatch.setattr(text_lines, "FREE_EXPANSION_BYTES", 1 << 10)
    text = b'{"sku": 7, "question": "?"}\n' * 10_000
    path, whole = tmp_path / "m.jsonl.gz", tmp_path / "n.jsonl"
    path.write_bytes(gzip.compress(text))
    whole.write_bytes(text)
    columns = {"id": "sku", "prompt": "question"}
    assert "expands beyond" in refused(path, columns=columns)
    assert len(rows(whole, columns=columns)) == 10_000


# ------------------------------------------------------------------- changes


def content_ids(path: Path, **settings: Any) -> list[bytes]:
    """What identifies the content of each row."""
    return [row.content_id for row in rows(path, columns={"image": "image"}, **settings)]


def test_a_local_file_that_was_changed_or_repaired_runs_again(tmp_path: Path) -> None:
    """Size and time tell, in each spelling; what did not change keeps its key."""
    names = ["a.jpg", f"file://{tmp_path}/b%2Ejpg", "late.jpg", "s3://bucket/a.jpg"]
    path = write(tmp_path / "m.csv", [{"image": name} for name in names])
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    before = content_ids(path)
    assert content_ids(path) == before
    (tmp_path / "a.jpg").write_bytes(b"longer")
    os.utime(tmp_path / "b.jpg", ns=(1, 1))
    (tmp_path / "late.jpg").write_bytes(b"there at last")
    changed = [one != other for one, other in zip(before, content_ids(path), strict=True)]
    assert changed == [True, True, True, False]


def test_a_listed_and_a_named_file_have_one_content(tmp_path: Path) -> None:
    """Going from a glob to a manifest must not make rows run again for their content."""
    (tmp_path / "a.jpg").write_bytes(b"a")
    path = write(tmp_path / "m.csv", [{"image": "a.jpg"}])
    [listed] = open_input(InputConfig(images=(f"{tmp_path}/*.jpg",))).rows()
    assert content_ids(path) == [listed.content_id]


def test_a_digest_of_the_manifest_counts_more_than_the_file(tmp_path: Path) -> None:
    """A copy of the same bytes is no change; a row without its digest is looked at."""
    columns = {"image": "image", "sha256": "sha"}
    records = [{"image": "a.jpg", "sha": "0" * 64}, {"image": "a.jpg", "sha": ""}]
    path = write(tmp_path / "m.csv", records)
    before = [row.content_id for row in rows(path, columns=columns)]
    (tmp_path / "a.jpg").write_bytes(b"a")
    after = [row.content_id for row in rows(path, columns=columns)]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_names_that_no_file_can_have_are_files_that_are_gone(tmp_path: Path) -> None:
    """Reading them fails the row; the plan goes on."""
    names = ["nul\0.jpg", "n" * 300, ".", "data:,x"]
    path = write(tmp_path / "m.jsonl", [{"image": name} for name in names])
    found = rows(path, columns={"image": "image"})
    by_uri = [content_id_from(uri=row.sources[0]) for row in found[2:]]  # not files, but there
    assert [row.content_id for row in found] == [b"", b"", *by_uri]


# ------------------------------------------------------------------ messages


def test_a_bad_value_is_shown_without_its_secrets(tmp_path: Path) -> None:
    """Messages are stored in the table, where others read them."""
    path = tmp_path / "m.jsonl"
    uri = "https://u:hunter2secret@host/a.jpg?sig=CANARY"
    path.write_text(json.dumps({"id": "a", "image": {"uri": uri}}) + "\n")
    [(_, message)] = failures(path, columns={"image": "image"}).values()
    assert "column 'image' holds dict of 1, expected a string" in message
    assert "hunter2secret" not in message
    assert "CANARY" not in message
    path.write_text(json.dumps({"image": "a.jpg", "text": 7, "sha": uri}) + "\n")
    [(_, message)] = failures(path, columns={"image": "image", "sha256": "sha"}).values()
    assert "https://host/a.jpg" in message
    assert "hunter2secret" not in message
    assert "CANARY" not in message


def test_a_signed_url_is_no_row_id(tmp_path: Path) -> None:
    """Ids stand in the table as they are; what only looks like a URL stays one."""
    signed = ["https://h/a.jpg?X-Amz-Signature=CANARY", "https://u:CANARY@h/a.jpg"]
    plain = ["https://h/a.jpg?page=2", "https://h/@me/a.jpg", "a?sig=1"]
    path = write(tmp_path / "m.jsonl", [{"id": i, "image": "a.jpg"} for i in signed + plain])
    found = [row.row_id for row in rows(path, columns={"id": "id", "image": "image"})]
    assert [name.partition("#")[0] for name in found[:2]] == ["https://h/a.jpg"] * 2
    assert len(set(found)) == 5
    assert found[2:] == plain
    assert "CANARY" not in str(found)


def test_a_manifest_in_a_directory_that_is_not_utf8_gives_text(tmp_path: Path) -> None:
    """Names and messages become columns of a table, which refuses anything else."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"pixels")
    path = write(folder / "m.jsonl", [{"image": "a.jpg"}, {"image": 5}])
    good, bad = rows(path, columns={"image": "image"})
    assert good.sources == (f"file://{tmp_path}/%FF/a.jpg",)
    assert bad.failure is not None
    for text in (bad.row_id, bad.failure.message, *good.sources):
        text.encode()


def test_a_schema_column_is_checked_where_it_stands(tmp_path: Path) -> None:
    """It is what somebody wrote into a table: text that is no schema is that row's failure."""
    schemas = [' { "type" : "string" } ', "", None, "{", "[1]", '"' + "x" * 200_000 + '"']
    records = [{"sku": str(n), "image": "a", "form": schema} for n, schema in enumerate(schemas)]
    path = write(tmp_path / "m.parquet", records)
    columns = {"id": "sku", "image": "image", "schema": "form"}
    found = rows(path, columns=columns)
    assert [row.schema for row in found[:3]] == ['{"type":"string"}', None, None]
    errors = failures(path, columns=columns)
    assert list(errors) == ["3", "4", "5"]
    assert {code for code, _ in errors.values()} == {"schema_invalid"}
    assert "m.parquet:4: column 'form': the JSON schema is not JSON" in errors["3"][1]


def test_a_schema_of_another_type_is_a_wrong_value(tmp_path: Path) -> None:
    """In JSONL it is easy to write the schema itself in place of its text."""
    path = write(tmp_path / "m.jsonl", [{"sku": "s", "image": "a", "form": {"type": "string"}}])
    columns = {"id": "sku", "image": "image", "schema": "form"}
    [(code, message)] = failures(path, columns=columns).values()
    assert code == "manifest_line"
    assert message.endswith("expected a JSON schema as text")
