"""Types of users' columns, and changes of type that lose nothing."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from dsvl_pipeline.job import column_types, columns

TOKYO = pa.timestamp("us", "Asia/Tokyo")
DAY_10183 = 3_000_000


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ((pa.int64(), pa.float64()), pa.float64()),
        ((pa.int32(), pa.float32()), pa.float64()),
        ((pa.null(), pa.string()), pa.string()),
        ((pa.list_(pa.null()), pa.list_(pa.int8())), pa.list_(pa.int8())),
        ((pa.int32(), pa.int64()), pa.int64()),
        ((pa.uint32(), pa.int32()), pa.int64()),
        ((pa.date32(), pa.timestamp("us")), pa.timestamp("us")),
        ((TOKYO, pa.timestamp("us", "Europe/Berlin")), pa.timestamp("us", "UTC")),
        ((pa.decimal128(10, 2), pa.decimal128(12, 6)), pa.decimal128(14, 6)),
        ((pa.decimal128(10, 2), pa.int64()), pa.decimal128(22, 2)),
        ((pa.decimal128(38, 0), pa.decimal128(38, 38)), pa.decimal256(76, 38)),
        ((pa.string(), pa.large_string()), pa.large_string()),
        ((pa.list_(pa.int32(), 2), pa.list_(pa.int64())), pa.list_(pa.int64())),
        (
            (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.string()), ("a", pa.float64())])),
            pa.struct([("a", pa.float64()), ("b", pa.string())]),
        ),
        ((pa.string(), pa.int64()), None),
        ((pa.bool_(), pa.int8()), None),
        ((pa.binary(), pa.string()), None),
        ((pa.decimal128(10, 2), pa.float64()), None),
        ((TOKYO, pa.timestamp("us")), None),
        ((pa.date32(), TOKYO), None),
        ((pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string())])), None),
        ((pa.struct([("a", pa.int8())]), pa.list_(pa.int8())), None),
    ],
)
def test_two_types_have_a_common_one_where_none_of_their_values_is_changed_by_it(
    kinds: tuple[pa.DataType, pa.DataType], wanted: pa.DataType | None
) -> None:
    """In whatever order the files come; a struct's fields may come in another one."""
    assert column_types.common_type(*kinds) == wanted
    other = column_types.common_type(*reversed(kinds))
    assert other == wanted or {f.name for f in other} == {f.name for f in wanted}


def test_whole_numbers_that_floats_cannot_hold_are_refused_at_any_depth() -> None:
    """9007199254740993 would silently become ...992."""
    for values, wanted in (
        ([2**53 + 1], pa.float64()),
        ([[2**53 + 1]], pa.list_(pa.float64())),
        ([{"a": [2**53 + 1]}], pa.struct([("a", pa.list_(pa.float64()))])),
    ):
        with pytest.raises(pa.ArrowInvalid):
            columns.convert(pa.array(values), wanted)
    assert columns.convert(pa.array([2**53]), pa.float64()).to_pylist() == [2.0**53]


INT, FLOAT = pa.int64(), pa.float64()


def _types(values: list[Any]) -> str:
    return " ".join(str(getattr(value, "type", value)) for value in values)


@pytest.mark.parametrize(
    ("kinds", "values", "wanted"),
    [
        ([], [], pa.null()),
        ([pa.int32(), FLOAT], [], FLOAT),
        ([INT, FLOAT], [], pa.string()),
        ([pa.list_(INT), pa.list_(FLOAT)], [], pa.string()),
        ([pa.map_(pa.string(), INT), pa.map_(pa.string(), FLOAT)], [], pa.string()),
        ([INT, pa.string()], [], pa.string()),
        ([pa.large_string(), pa.string()], [], pa.large_string()),
        ([pa.list_(INT), pa.struct([("a", INT)])], [], pa.string()),
        ([pa.null(), pa.date32(), pa.null()], [], pa.date32()),
        ([pa.date32(), pa.timestamp("us")], [], pa.string()),
        ([FLOAT], [pa.array([2**53, None])], FLOAT),
        ([FLOAT], [pa.array([2**53 + 1])], pa.string()),
        ([INT], [pa.array([1.0])], pa.string()),
        ([], [pa.array([1.5]), pa.array([1]), pa.nulls(1)], FLOAT),
        ([], [pa.array([[1.5]]), pa.array([[2**53 + 1]])], pa.string()),
        ([], [pa.array([1.5]), pa.array([], INT)], FLOAT),
        ([], [pa.chunked_array([[1], [2**53 + 1]]), pa.array([1.5])], pa.string()),
        ([], [pa.array([DAY_10183], pa.date32()), pa.array([0], pa.timestamp("us"))], None),
        ([pa.int32()], [pa.array([2**40])], INT),
        ([pa.string()], [pa.array([b"x"])], pa.string()),
    ],
    ids=lambda value: _types(value) if isinstance(value, list) else str(value),
)
def test_a_type_holds_whatever_others_may_hold_and_the_values_that_are_known(
    kinds: list[pa.DataType], values: list[Any], wanted: pa.DataType | None
) -> None:
    """A float is none for 64-bit numbers of which nobody knows how large they are."""
    wanted = wanted or pa.timestamp("us")
    assert columns.holding_all(kinds, values) == wanted
    assert columns.holding_all(kinds[::-1], values[::-1]) == wanted
    for column in values:
        columns.convert(column, wanted)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (pa.array(["a", None], pa.string_view()), pa.string()),
        (pa.array([b"a", None], pa.binary_view()), pa.binary()),
        (pa.array([[1], None, [], [2, 3]], pa.list_view(pa.int64())), pa.list_(pa.int64())),
        (
            pa.array([["a"], None], pa.large_list_view(pa.string_view())),
            pa.large_list(pa.string()),
        ),
        (
            pa.array([{"v": ["x"]}, None], pa.struct([("v", pa.list_(pa.string_view()))])),
            pa.struct([("v", pa.list_(pa.string()))]),
        ),
        (
            pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string_view())),
            pa.map_(pa.string(), pa.string()),
        ),
        (pa.array([["a", "b"], None], pa.list_(pa.string_view(), 2)), pa.list_(pa.string())),
        (pa.array([1, 2, None], pa.list_(pa.int8(), 2).value_type), pa.int8()),
        (pa.array(["a", "a", None]).dictionary_encode(), pa.string()),
        (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), pa.string()),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])), pa.string()),
        (
            pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())),
            pa.int8(),
        ),
        (pa.array([b"0" * 16], pa.uuid()), pa.binary(16)),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_what_few_readers_know_becomes_what_it_stands_for(
    array: pa.Array, wanted: pa.DataType
) -> None:
    """Arrow's own casts of list views give invalid arrays; sliced ones begin elsewhere."""
    assert column_types.portable_type(array.type) == wanted
    for one in (array, array.slice(1)):
        found = columns.convert(one, wanted)
        found.validate(full=True)
        assert found.type == wanted
        assert column_types.portable_type(wanted) == wanted
        stored = one.storage if isinstance(one, pa.ExtensionArray) else one
        assert found.to_pylist() == stored.to_pylist()


def test_an_unknown_time_zone_is_told_as_utc() -> None:
    """The moments are the same; polars would refuse the whole file for the name."""
    for zone in ("Mars/Base", "W. Europe Standard Time", "../../etc/passwd"):
        assert column_types.portable_type(pa.timestamp("ns", zone)) == pa.timestamp("us", "UTC")
    for zone in ("Asia/Tokyo", "+09:00", "UTC"):
        assert column_types.portable_type(pa.timestamp("us", zone)) == pa.timestamp("us", zone)


def test_times_are_cut_to_microseconds_but_never_wrap_around() -> None:
    """A cast that allows the one allows the other as well, unless it is told."""
    found = columns.convert(pa.array([1999], pa.timestamp("ns")), pa.timestamp("us"))
    assert found.cast(pa.int64()).to_pylist() == [1]
    for kind, wanted in (
        (pa.timestamp("ms"), pa.timestamp("us")),
        (pa.duration("s"), pa.duration("us")),
    ):
        with pytest.raises(pa.ArrowInvalid, match="out of bounds"):
            columns.convert(pa.array([2**60], kind), wanted)


ODD = [
    (pa.array([DAY_10183, None, 0], pa.date32()), ["10183-09-21", None, datetime.date(1970, 1, 1)]),
    (pa.array([-800_000], pa.date32()), ["-0221-09-04"]),
    (pa.array([253402300799999999], TOKYO), ["9999-12-31 23:59:59.999999Z"]),
    (pa.array([-62135596800000001], pa.timestamp("us")), ["0000-12-31 23:59:59.999999"]),
    (pa.array([2**60], pa.duration("ms")), [str(2**60)]),
    (pa.array([[DAY_10183], None], pa.list_(pa.date32())), [["10183-09-21"], None]),
    (
        pa.array([{"d": DAY_10183}, None], pa.struct([("d", pa.date32())])),
        [{"d": "10183-09-21"}, None],
    ),
    (
        pa.array([[("k", DAY_10183)], None], pa.map_(pa.string(), pa.date32())),
        [[["k", "10183-09-21"]], None],
    ),
    (pa.array([b"\x00\xff", None]), ["00ff", None]),
    (pa.array([Decimal("1.25")], pa.decimal256(60, 2)), [Decimal("1.25")]),
]


@pytest.mark.parametrize(("array", "wanted"), ODD, ids=lambda value: str(value)[:30])
def test_values_that_python_cannot_hold_are_told_as_text(
    array: pa.Array, wanted: list[Any]
) -> None:
    """For exports and messages: pyarrow raises OverflowError, for all of a batch."""
    assert columns.python_values(array) == wanted
    assert columns.python_values(array.slice(1)) == wanted[1:]
    json.dumps(columns.as_text(array).to_pylist())


@pytest.mark.parametrize("array", [array for array, _ in ODD], ids=str)
def test_values_come_apart_and_together_without_a_change(array: pa.Array) -> None:
    """As they do between a manifest and the work files: of several batches, twice, or bad rows'."""
    values = columns.cells(array)
    assert columns.column_of(values, array.type).combine_chunks().equals(array)
    values = [*values[::-1], None, *columns.cells(array.slice(len(array) - 1)) * 2]
    order = pa.array([*range(len(array))[::-1], None, len(array) - 1, len(array) - 1])
    assert columns.column_of(values, array.type).combine_chunks().equals(array.take(order))
    assert columns.column_of([], array.type).equals(pa.chunked_array([], array.type))


def test_cells_know_about_how_large_they_are() -> None:
    """What is planned is cut where it gets too large for memory, wherever its text stands."""
    column = pa.array([{"note": "x" * 1000}] * 8)
    (size,) = {cell.num_bytes for cell in columns.cells(column.slice(2))}
    assert 1000 <= size < 1100


@pytest.mark.parametrize(
    ("before", "now", "kind", "wanted"),
    [
        ([1, None, None, 2], [1, None, 3, None], pa.int64(), [0, 0, 1, 1]),
        ([0.0, float("nan"), 1.5], [-0.0, float("nan"), 1.5], pa.float64(), [1, 0, 0]),
        (["a", "b", ""], ["a", "B", None], pa.string(), [0, 1, 1]),
        ([None, None], [None, None], pa.null(), [0, 0]),
        (
            [[1], [1, 2], [], None, [None], [3, 4]],
            [[1], [2, 1], None, None, [0], [3]],
            pa.list_(pa.int64()),
            [0, 1, 1, 0, 1, 1],
        ),
        ([[1, 2], None], [[1, 3], None], pa.list_(pa.int64(), 2), [1, 0]),
        (
            [{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}, {"a": 1, "b": ["y"]}],
            [{"a": 1, "b": ["x"]}, {"a": None, "b": None}, None, {"a": 1, "b": ["z"]}],
            pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]),
            [0, 1, 1, 1],
        ),
        (
            [[("k", 1)], [("k", 1)], None],
            [[("k", 1)], [("k", 2)], []],
            pa.map_(pa.string(), pa.int8()),
            [0, 1, 1],
        ),
        ([True, False], [True, True], pa.bool_(), [0, 1]),
        ([Decimal("1.20")], [Decimal("1.2")], pa.decimal128(5, 2), [0]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_differences_are_found_place_by_place(
    before: list[Any], now: list[Any], kind: pa.DataType, wanted: list[int]
) -> None:
    """Arrow compares no lists and no structs, and calls NaN unlike itself."""
    arrays = [pa.array(values, kind) for values in (before, now)]
    assert columns.differs(*arrays).to_pylist() == [bool(one) for one in wanted]
    sliced = columns.differs(*(array.slice(1) for array in arrays)).to_pylist()
    assert sliced == [bool(one) for one in wanted][1:]


def test_a_type_that_parquet_cannot_hold_is_refused() -> None:
    """Before anything starts, and not when the first part is written."""
    for kind in (
        pa.struct([]),
        pa.list_(pa.struct([])),
        pa.month_day_nano_interval(),
        pa.sparse_union([pa.field("a", pa.int8())]),
    ):
        with pytest.raises(ValueError, match="Parquet cannot hold"):
            column_types.portable_type(kind)


def test_fields_of_a_struct_have_names_of_their_own() -> None:
    """By name is how every reader finds them, and how they are compared."""
    twice = pa.struct([("k", pa.int64()), ("x", pa.null()), ("k", pa.string())])
    for kind in (twice, pa.list_(twice), pa.map_(pa.string(), twice)):
        with pytest.raises(ValueError, match="has the field 'k' 2 times"):
            column_types.portable_type(kind)
