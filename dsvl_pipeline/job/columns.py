"""Carried columns: their values in other types, without loss.

Values stay in Arrow all the way: Python has no date after the year 9999, and no longer duration
than 2.7 million years, but a manifest may.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.job.column_types import (
    SIMPLE,
    TEXT,
    UTC,
    common_type,
    is_bytes_type,
    is_list_type,
    is_nested_type,
    is_text_type,
    portable_type,
)


def holding_all(
    kinds: Iterable[pa.DataType], columns: Iterable[pa.Array | pa.ChunkedArray] = ()
) -> pa.DataType:
    """Return the type that holds the values of all columns: a common type, or text.

    Whole numbers are floats only where none of them is changed by it.

    Args:
        kinds: Types of columns that may hold any value of their type.
        columns: Columns of which only the values that are there matter.
    """
    kinds, columns = list(kinds), list(columns)
    found = {*kinds, *(column.type for column in columns)}
    common = reduce(lambda a, b: common_type(a, b) or TEXT, sorted(found, key=str), pa.null())
    if any(_may_not_fit(kind, common) for kind in kinds):
        return TEXT
    try:
        for column in columns:
            convert(column, common)
    except pa.ArrowInvalid:
        return TEXT
    return common


def convert(column: pa.Array | pa.ChunkedArray, wanted: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Return a column in a portable type, with the same values; only times are cut, to µs.

    Raises:
        pa.ArrowInvalid: A value does not fit.
        pa.ArrowNotImplementedError: The types have nothing to do with each other.
    """
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([convert(chunk, wanted) for chunk in column.chunks], wanted)
    column = _plain(column)
    if column.type == wanted:
        return column
    if is_text_type(wanted):
        return as_text(column).cast(wanted)
    return pc.cast(column, options=pc.CastOptions(wanted, allow_time_truncate=True))


def as_text(column: pa.Array) -> pa.Array:
    """Return a column as strings: numbers as they are written, bytes in hex, lists as JSON."""
    column = _plain(column)
    if pa.types.is_null(column.type) or not (
        is_nested_type(column.type) or is_bytes_type(column.type)
    ):
        return _text(column)
    values = python_values(column)
    texts = [None if v is None else v if isinstance(v, str) else _json(v) for v in values]
    return pa.array(texts, pa.string())


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return values for people and JSON: as text what Python cannot hold, and bytes in hex."""
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in python_values(chunk)]
    column = _plain(column)
    kind = column.type
    if pa.types.is_struct(kind):
        inner = [python_values(child) for child in column.flatten()]
        rows = zip(*inner, strict=True)
        names = [field.name for field in kind]
        return [
            dict(zip(names, row, strict=True)) if is_valid else None
            for row, is_valid in zip(rows, column.is_valid().to_pylist(), strict=True)
        ]
    if pa.types.is_map(kind):
        keys, items = python_values(column.keys), python_values(column.items)
        return _cut([list(pair) for pair in zip(keys, items, strict=True)], column)
    if is_list_type(kind):
        if pa.types.is_fixed_size_list(kind):
            column = column.cast(pa.list_(kind.value_type))
        return _cut(python_values(column.values), column)
    if is_bytes_type(kind):
        return [None if value is None else value.hex() for value in column.to_pylist()]
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError, pa.ArrowInvalid):
        return [_python_value(value) for value in column]


class Cell(NamedTuple):
    """One value that stays in Arrow: its column, its place there, and about how large it is."""

    column: pa.Array
    at: int
    num_bytes: int


def cells(column: pa.Array) -> list[Any]:
    """Return a column's values one by one, as `column_of` takes them back.

    Values of simple types are Python's own. Each of the others is a `Cell`.
    """
    if any(is_one(column.type) for is_one in SIMPLE):
        return list(column.to_pylist())
    num_bytes = column.nbytes // max(len(column), 1)
    return [Cell(column, at, num_bytes) for at in range(len(column))]


def column_of(values: Iterable[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column of cells, and of values that `pa.array` takes."""
    pieces = []
    for _, group in itertools.groupby(values, lambda v: id(v.column) if type(v) is Cell else None):
        run = list(group)
        if type(run[0]) is Cell:
            pieces.append(run[0].column.take(pa.array([cell.at for cell in run])))
        else:
            pieces.append(pa.array(run, kind))
    return pa.chunked_array(pieces, kind)


def differs(before: pa.Array, now: pa.Array) -> pa.Array:
    """Return for each place whether two columns of one portable type differ there: ``bool[N]``.

    NaN is itself, 0.0 is not -0.0, and null is only null.
    """
    kind = before.type
    is_other = pc.not_equal(before.is_valid(), now.is_valid())
    if pa.types.is_null(kind):
        return is_other
    if pa.types.is_struct(kind):
        children = zip(before.flatten(), now.flatten(), strict=True)
        return reduce(pc.or_, (differs(*pair) for pair in children), is_other)
    if pa.types.is_map(kind):
        pairs = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        return differs(*(_map_as_list(column, pairs) for column in (before, now)))
    if is_list_type(kind):
        lengths = [pc.fill_null(pc.list_value_length(c), 0) for c in (before, now)]
        is_other = pc.or_(is_other, pc.not_equal(*lengths))
        like = pc.invert(is_other)
        parents = pc.list_parent_indices(before.filter(like))
        inner = differs(*(c.filter(like).flatten() for c in (before, now)))
        changed = pc.indices_nonzero(like).take(pc.unique(parents.filter(inner)))
        places = pa.array(np.arange(len(before), dtype=np.uint64))
        return pc.or_(is_other, pc.is_in(places, value_set=changed.cast(pa.uint64())))
    if pa.types.is_floating(kind):
        before, now = (column.view(f"uint{kind.bit_width}") for column in (before, now))
    return pc.or_(is_other, pc.fill_null(pc.not_equal(before, now), False))


def _plain(array: pa.Array) -> pa.Array:
    """Return an array without dictionaries, views and extensions; some of Arrow's casts fail."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(array.storage)
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(array))
    if not is_nested_type(kind) or portable_type(kind) == kind:
        return array
    if pa.types.is_struct(kind):
        children = [_plain(child) for child in array.flatten()]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(children, names, mask=array.is_null())
    if pa.types.is_map(kind):
        keys, items = _plain(array.keys), _plain(array.items)
        return pa.MapArray.from_arrays(_offsets(array), keys, items, mask=array.is_null())
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    is_large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    offsets = pc.cumulative_sum(pa.concat_arrays([pa.array([0], lengths.type), lengths]))
    make = pa.LargeListArray if is_large else pa.ListArray
    return make.from_arrays(
        offsets.cast(pa.int64() if is_large else pa.int32()),
        _plain(array.flatten()),
        mask=array.is_null(),
    )


def _text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit, tz=UTC))
    return column.cast(pa.string())


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError, pa.ArrowInvalid):
        return _text(pa.array([value], value.type))[0].as_py()


def _cut(values: list[Any], lists: pa.Array) -> list[Any]:
    """Return the values of all lists, list by list."""
    offsets, is_valid = lists.offsets.to_pylist(), lists.is_valid().to_pylist()
    spans = zip(offsets, offsets[1:], is_valid, strict=False)
    return [values[start:end] if there else None for start, end, there in spans]


def _offsets(lists: pa.Array) -> pa.Array:
    """Return a list's offsets as an array that is no slice, as Arrow needs them with a mask."""
    return pc.add(lists.offsets, pa.scalar(0, lists.offsets.type))


def _map_as_list(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    pairs = pa.StructArray.from_arrays([column.keys, column.items], ["key", "value"])
    lists = pa.ListArray.from_arrays(_offsets(column), pairs, mask=column.is_null())
    return lists.cast(wanted)


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _may_not_fit(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether a type has values that `convert` to a common type refuses."""
    if is_text_type(wanted):
        return False
    if is_list_type(kind):
        return _may_not_fit(kind.value_type, wanted.value_type)
    if pa.types.is_struct(kind):
        return any(_may_not_fit(field.type, wanted.field(field.name).type) for field in kind)
    if pa.types.is_map(kind):
        pairs = ((kind.key_type, wanted.key_type), (kind.item_type, wanted.item_type))
        return any(_may_not_fit(*pair) for pair in pairs)
    if pa.types.is_integer(kind):
        if pa.types.is_floating(wanted):
            return bool(kind.bit_width > {16: 11, 32: 24, 64: 53}[wanted.bit_width])
        return bool(pa.types.is_uint64(kind) and pa.types.is_signed_integer(wanted))
    return bool(pa.types.is_date(kind) and pa.types.is_timestamp(wanted))
