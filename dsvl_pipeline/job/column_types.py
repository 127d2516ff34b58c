"""Types of carried columns: types that every Parquet reader knows, and common types."""

from __future__ import annotations

import re
import zoneinfo
from functools import lru_cache

import pyarrow as pa

TEXT, UTC = pa.string(), "UTC"

_OFFSET = re.compile(r"[+-]\d\d:\d\d")

SIMPLE = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
)


def portable_type(found: pa.DataType) -> pa.DataType:
    """Return the type that a carried column of this type has in the output.

    Nanoseconds become microseconds (Python's own clock has no more), dictionaries, views and
    extensions what they stand for, also within lists and structs.

    Raises:
        ValueError: The type cannot stand in a table.
    """
    kind = found
    if isinstance(kind, pa.BaseExtensionType):
        return portable_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return portable_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz=_portable_zone(kind))
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            raise ValueError(f"{kind} has no fields, which Parquet cannot hold")
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{kind} has the field {twice!r} {names.count(twice)} times")
        return pa.struct([(field.name, portable_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(portable_type(kind.key_type), portable_type(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(portable_type(kind.value_type))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(portable_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        inner = portable_type(kind.value_type)
        is_same = inner == kind.value_type
        return pa.list_(inner, kind.list_size) if is_same else pa.list_(inner)
    if pa.types.is_union(kind) or pa.types.is_interval(kind):
        raise ValueError(f"{kind} is a type that Parquet cannot hold")
    return kind


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the portable type that holds the values of two types, or None.

    Whole numbers and floats have a common one, although it does not hold every whole number:
    `convert` refuses those. Decimals and floats have none, nor text and anything else.
    """
    if one == other:
        return one
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _common_struct(one, other)
    if is_list_type(one) and is_list_type(other):
        inner = common_type(one.value_type, other.value_type)
        if inner is None:
            return None
        is_large = pa.types.is_large_list(one) or pa.types.is_large_list(other)
        return pa.large_list(inner) if is_large else pa.list_(inner)
    kinds = (one, other)
    if all(map(pa.types.is_timestamp, kinds)):
        if (one.tz is None) != (other.tz is None):
            return None
        return pa.timestamp("us", tz=one.tz if one.tz == other.tz else one.tz and UTC)
    if any(map(pa.types.is_timestamp, kinds)) and any(map(pa.types.is_date, kinds)):
        zoned = [kind for kind in kinds if pa.types.is_timestamp(kind) and kind.tz is not None]
        return None if zoned else pa.timestamp("us")
    if any(map(pa.types.is_decimal, kinds)):
        return _common_decimal(one, other)
    if any(map(is_bytes_type, kinds)) and not all(map(is_bytes_type, kinds)):
        return None
    schemas = [pa.schema([("it", kind)]) for kind in kinds]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def is_nested_type(kind: pa.DataType) -> bool:
    """Return whether values hold other values."""
    return bool(pa.types.is_nested(kind))


def is_list_type(kind: pa.DataType) -> bool:
    """Return whether this is a list of any kind."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def is_text_type(kind: pa.DataType) -> bool:
    """Return whether this is text, short or large."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes_type(kind: pa.DataType) -> bool:
    """Return whether this is bytes of any kind."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _common_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    kinds: dict[str, pa.DataType] = {}
    for field in (*one, *other):
        kind = common_type(kinds.get(field.name, pa.null()), field.type)
        if kind is None:
            return None
        kinds[field.name] = kind
    return pa.struct(list(kinds.items()))


def _common_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    sizes = []
    for kind in (one, other):
        if pa.types.is_decimal(kind):
            sizes.append((kind.precision - kind.scale, kind.scale))
        elif pa.types.is_integer(kind):
            sizes.append((len(str(2**kind.bit_width)), 0))
        else:
            return None
    (digits, scale), (other_digits, other_scale) = sizes
    scale = max(scale, other_scale)
    precision = max(digits, other_digits) + scale
    if precision > 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _portable_zone(kind: pa.TimestampType) -> str | None:
    """Return a time zone that readers know; the moments are the same in any zone."""
    try:
        zone: str | None = kind.tz
    except UnicodeDecodeError:
        raise ValueError("its time zone has a name that is not UTF-8") from None
    return zone if zone is None or _is_known(zone) else UTC


@lru_cache(maxsize=64)
def _is_known(zone: str) -> bool:
    if _OFFSET.fullmatch(zone):
        return True
    try:
        zoneinfo.ZoneInfo(zone)
    except (KeyError, OSError, ValueError):
        # Where the machine has no time zones at all, nothing can be told.
        return not zoneinfo.available_timezones()
    return True
