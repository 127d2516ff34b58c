"""A digest that is equal for two tables of the same answers, whenever and where they were made."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.table.columns import OCCASION
from dsvl_pipeline.table.schema import logical_key


def payload_digest(rows: pa.Table) -> str:
    """Digest everything but time and place: equal for two runs of one plan, as 32 hex digits.

    Neither the order of the rows, nor their division into parts, nor columns of `OCCASION` matter.
    """
    order = pc.sort_indices(logical_key(rows).combine_chunks())
    names = sorted(set(rows.column_names) - {one.name for one in OCCASION})
    state = blake2b(digest_size=16, person=b"dsvl.payload")
    for name in names:
        column = rows[name].take(order).combine_chunks()
        state.update(f"\x00{name}\x00{column.type}\x00{len(column)}".encode())
        for piece in _content(column):
            state.update(piece)
    return state.hexdigest()


def _content(array: pa.Array) -> Iterator[bytes]:
    """Yield an array's values as bytes that depend on nothing but the values.

    Buffers would not do: what lies under a null, and before a slice's offset, is arbitrary.
    """
    kind = array.type
    if pa.types.is_null(kind):
        return
    yield array.is_valid().cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_dictionary(kind):
        yield from _content(array.dictionary_decode())
    elif pa.types.is_struct(kind):
        for piece in array.flatten():
            yield from _content(piece)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _content(pc.list_value_length(array.drop_null()).cast(pa.int64()))
        yield from _content(array.flatten())
    elif pa.types.is_map(kind):
        pairs = pa.struct([kind.key_field, kind.item_field])
        yield from _content(array.cast(pa.list_(pairs)))
    elif pa.types.is_boolean(kind):
        yield from _content(array.cast(pa.uint8()))
    elif pa.types.is_primitive(kind):
        yield array.drop_null().view(f"uint{kind.bit_width}").to_numpy().tobytes()
    else:
        if pa.types.is_decimal(kind):
            array = array.cast(pa.string())
        values = array.drop_null().cast(pa.large_binary())
        yield from _content(pc.binary_length(values))
        yield b"".join(values.to_pylist())
