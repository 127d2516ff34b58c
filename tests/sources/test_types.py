"""Carried columns of manifests: types that differ by file, values that Python cannot hold."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.columns import column_of
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.sources.open import Input, open_input


def write(path: Path, **columns: pa.Array) -> Path:
    """Write a manifest with an image and, counted through all files, an id for each row."""
    num_rows = len(next(iter(columns.values())))
    images = pa.array([f"{path.stem}-{n}.png" for n in range(num_rows)])
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def source(path: Path, *carry: str) -> Input:
    """The input of a job that carries some columns of these files."""
    settings = {"manifest": str(path), "columns": {"image": "image"}, "carry": carry}
    return open_input(InputConfig.model_validate(settings))


def carried(path: Path, column: str = "c") -> pa.Array:
    """What is carried from all rows, in the type that the table will have."""
    opened = source(path, column)
    kind = opened.carry_schema.field(column).type
    return column_of([row.carry[0] for row in opened.rows()], kind).combine_chunks()


def refused(path: Path, column: str = "c") -> str:
    """The message that a job with these files is stopped with."""
    with pytest.raises(ConfigError) as caught:
        list(source(path, column).rows())
    return str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        (pa.nulls(1), pa.array(["cat"]), pa.array([None, "cat"])),
        (pa.array(["cat"]), pa.nulls(1), pa.array(["cat", None])),
        (pa.array([1]), pa.array([1.5]), pa.array([1.0, 1.5])),
        (pa.array([1.5]), pa.array([1]), pa.array([1.5, 1.0])),
        (pa.array([1], pa.int32()), pa.array([2**40]), pa.array([1, 2**40])),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.array(["a", "b"])),
        (
            pa.array([1], pa.timestamp("ms")),
            pa.array([2000], pa.timestamp("ns")),
            pa.array([1000, 2], pa.timestamp("us")),
        ),
        (
            pa.array([{"w": 1}]),
            pa.array([{"h": "x", "w": 0.5}]),
            pa.array([{"w": 1.0, "h": None}, {"w": 0.5, "h": "x"}]),
        ),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["t"]]), pa.array([[], ["t"]])),
    ],
    ids=lambda value: str(value.type),
)
def test_files_of_one_manifest_meet_in_the_type_that_holds_all(
    first: pa.Array, second: pa.Array, wanted: pa.Array, tmp_path: Path
) -> None:
    """What wrote them guessed the type from the rows of each; the first file's is not the law."""
    write(tmp_path / "a.parquet", c=first)
    write(tmp_path / "b.parquet", c=second)
    assert carried(tmp_path / "*.parquet").equals(wanted)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1]), pa.array(["n/a"])),
        (pa.array([True]), pa.array([1])),
        (pa.array([{"w": 1}]), pa.array([{"w": "wide"}])),
        (pa.array([[1]]), pa.array([1])),
        (pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "UTC"))),
    ],
    ids=lambda value: str(value.type),
)
def test_types_without_a_common_one_are_refused_by_name(
    first: pa.Array, second: pa.Array, tmp_path: Path
) -> None:
    """Both files, the column and both types; before anything is started."""
    write(tmp_path / "a.parquet", c=first)
    write(tmp_path / "b.parquet", c=first)
    write(tmp_path / "c.parquet", c=second)
    message = refused(tmp_path / "*.parquet")
    assert f"'c' holds {first.type} in {tmp_path}/a.parquet" in message
    assert f"but {second.type} in {tmp_path}/c.parquet" in message


def test_a_whole_number_that_becomes_another_as_a_float_is_refused(tmp_path: Path) -> None:
    """The types go together, this value does not: silent loss otherwise."""
    write(tmp_path / "a.parquet", c=pa.array([1.5]))
    write(tmp_path / "b.parquet", c=pa.array([1, 2**53 + 1]))
    message = refused(tmp_path / "*.parquet")
    assert f"int64 in {tmp_path}/b.parquet and double in {tmp_path}/a.parquet" in message
    assert str(2**53 + 1) in message


def test_a_file_without_rows_has_no_say_in_the_type(tmp_path: Path) -> None:
    """Writers give empty files whatever type they like."""
    write(tmp_path / "a.parquet", c=pa.array([], pa.string()))
    write(tmp_path / "b.parquet", c=pa.array([7]))
    assert carried(tmp_path / "*.parquet").equals(pa.array([7]))


def test_two_formats_are_refused_with_a_file_of_each(tmp_path: Path) -> None:
    """The message says which ones."""
    write(tmp_path / "a.parquet", price=pa.array([10]))
    (tmp_path / "b.csv").write_text("image,price\na.png,n/a\n")
    message = refused(tmp_path / "*", "price")
    assert f"{tmp_path}/b.csv and {tmp_path}/a.parquet" in message


def test_a_csv_column_is_text_whatever_its_rows_hold(tmp_path: Path) -> None:
    """A later file or line with "n/a" among numbers changes nothing, and 007 stays 007."""
    (tmp_path / "a.csv").write_text("image,c\na.png,10\nb.png,007\n")
    (tmp_path / "b.csv").write_text("image,c\nc.png,n/a\nd.png,\n")
    assert carried(tmp_path / "*.csv").equals(pa.array(["10", "007", "n/a", ""]))


LATE = pa.array([0, 3_000_000], pa.date32())


@pytest.mark.parametrize(
    "column",
    [
        LATE,
        pa.array([1, -800_000], pa.date32()),
        pa.array([1, 253402300799999999], pa.timestamp("us", "Asia/Tokyo")),
        pa.array([1, -62135596800000001], pa.timestamp("us")),
        pa.array([1, 2**62], pa.duration("us")),
        pa.array([1, 2**40], pa.time64("us")),
        pa.StructArray.from_arrays([LATE], ["d"]),
        pa.ListArray.from_arrays([0, 1, 2], LATE),
    ],
    ids=lambda value: str(value.type),
)
def test_values_beyond_python_are_carried_as_they_are(column: pa.Array, tmp_path: Path) -> None:
    """9999-12-31 in local time is how exports say "for ever"; the row is as good as any."""
    path = write(tmp_path / "m.parquet", c=column)
    assert carried(path).equals(column)


def test_a_time_that_microseconds_cannot_count_is_an_error_row(tmp_path: Path) -> None:
    """It would wrap around to another time; its neighbours are carried."""
    late = pa.array([1000, 2**60, None], pa.timestamp("ms"))
    path = write(tmp_path / "m.parquet", c=late)
    good, bad, empty = source(path, "c").rows()
    found = column_of([good.carry[0], empty.carry[0]], pa.timestamp("us"))
    assert found.to_pylist() == [datetime.datetime(1970, 1, 1, 0, 0, 1), None]
    assert bad.failure is not None
    assert bad.failure.message.startswith(f"{path}:2: column 'c' holds a time or duration beyond")


def test_text_that_is_not_utf8_is_found_within_lists_and_structs(tmp_path: Path) -> None:
    """Nothing decodes it on its way, and no reader of the table could."""
    bad = pa.array([b"ok", b"\xff"]).view(pa.string())
    column = pa.StructArray.from_arrays([bad], ["name"])
    path = write(tmp_path / "m.parquet", c=column)
    good, failed = source(path, "c").rows()
    assert good.failure is None
    assert failed.failure is not None
    assert "holds bytes that are not UTF-8" in failed.failure.message


def test_a_column_that_stands_twice_is_refused_where_it_is_named(tmp_path: Path) -> None:
    """Which of them is meant cannot be told; one that nobody names does no harm."""
    table = pa.table([["a.png"], ["x"], ["y"]], names=["image", "c", "c"])
    pq.write_table(table, tmp_path / "m.parquet")
    message = refused(tmp_path / "m.parquet")
    assert "has the column 'c', which input.carry names, 2 times" in message
    assert len(list(source(tmp_path / "m.parquet").rows())) == 1


def test_a_time_zone_that_is_no_text_is_refused_where_it_is_carried(tmp_path: Path) -> None:
    """Arrow keeps it as bytes, and every look at it raises."""
    zoned = pa.array([1], pa.timestamp("us", "Asia/Tokyo"))
    path = write(tmp_path / "m.parquet", c=zoned)
    encoded = pq.ParquetFile(path).metadata.metadata[b"ARROW:schema"]
    schema = base64.b64decode(encoded).replace(b"Asia/Tokyo", b"Asia/\xff\xfekyo")
    path.write_bytes(path.read_bytes().replace(encoded, base64.b64encode(schema)))
    assert "time zone has a name that is not UTF-8" in refused(path)
    assert len(list(source(path).rows())) == 1


def test_a_key_that_stands_twice_in_a_json_object_is_an_error_row(tmp_path: Path) -> None:
    """Python takes the last, others the first; within what is carried, too."""
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"image": "a", "c": 1, "c": 2}\n{"image": "b", "c": {"k": 1, "k": 1}}\n{"image": "d"}\n'
    )
    first, second, good = source(path, "c").rows()
    for row, key in ((first, "c"), (second, "k")):
        assert row.failure is not None
        assert f"found the key {key!r} twice in one object" in row.failure.message
    assert good.failure is None


def test_a_date_is_no_id(tmp_path: Path) -> None:
    """One clear message, whatever the dates are."""
    path = write(tmp_path / "m.parquet", day=LATE)
    settings: dict[str, Any] = {"manifest": str(path), "columns": {"image": "image", "id": "day"}}
    with pytest.raises(ConfigError, match=r"'day' holds date32\[day\], but input.columns.id needs"):
        open_input(InputConfig.model_validate(settings))


@pytest.mark.parametrize("kind", [pa.list_view, pa.large_list_view, lambda k: pa.list_(k, 2)])
def test_images_may_be_lists_of_any_kind(kind: Any, tmp_path: Path) -> None:
    """And their names strings of any kind."""
    images = pa.array([["a.png", "b.png"]], kind(pa.string_view()))
    pq.write_table(pa.table({"image": images}), tmp_path / "m.parquet")
    [row] = source(tmp_path / "m.parquet").rows()
    assert row.sources == (f"{tmp_path}/a.png", f"{tmp_path}/b.png")
