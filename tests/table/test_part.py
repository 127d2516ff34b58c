"""Parts: complete files that plain tools can read, and receipts that say what is in them."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline.errors import TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import part
from dsvl_pipeline.table.part import Receipt, lease_of, read_part, write_part
from dsvl_pipeline.table.schema import KEY_COLUMNS
from tests.table.rows import image_rows

ROWS = image_rows({"a": "x", "b": "y", "c": "z"})


def _write(uri: str, rows: pa.Table = ROWS, lease: int = 3) -> Receipt:
    return write_part(uri, rows, shard=7, lease=lease, metadata={"run": "r", "plan": "é"})


def test_a_part_is_read_as_it_was_written(table_uri: str) -> None:
    """Whole or by columns; a column it has not is left out."""
    receipt = _write(table_uri)
    assert read_part(table_uri, receipt).equals(ROWS)
    some = read_part(table_uri, receipt, ["text", "no_such_column"])
    assert some.equals(ROWS.select(["text"]))
    assert part.read_keys(table_uri, receipt.path).equals(
        ROWS.select(["row_id", "page_index", "prompt_id"])
    )


def test_receipt_says_what_is_in_the_file(table_uri: str) -> None:
    """The driver commits and counts by receipts alone."""
    rows = pa.concat_tables([ROWS, image_rows({"d": ""}, status="error")])
    receipt = _write(table_uri, rows)
    assert receipt.path.startswith("data/00007/00000003-")
    assert (receipt.shard, lease_of(receipt.path), receipt.num_rows, receipt.num_errors) == (
        7,
        3,
        4,
        1,
    )
    assert receipt.statuses == {"ok": 3, "error": 1}
    assert receipt.error_codes == {"boom": 1}
    assert receipt.num_bytes == objects.stat(objects.join(table_uri, receipt.path)).size
    assert pickle.loads(pickle.dumps(receipt)) == receipt
    assert Receipt(**json.loads(json.dumps(receipt.to_json()))) == receipt


def test_plain_tools_see_the_rows_and_no_column_more(tmp_path: Path) -> None:
    """A directory called shard=7 would add one."""
    _write(str(tmp_path))
    plain = pyarrow.dataset.dataset(str(tmp_path / "data"), partitioning="hive").to_table()
    assert plain.replace_schema_metadata(None).equals(ROWS)
    assert pq.read_table(tmp_path / "data").num_columns == ROWS.num_columns


def test_the_file_tells_where_it_comes_from(tmp_path: Path) -> None:
    """A part that was copied elsewhere still names its run."""
    receipt = _write(str(tmp_path))
    file = pq.ParquetFile(tmp_path / receipt.path)
    metadata = file.schema_arrow.metadata
    assert metadata[b"dsvl.run"] == b"r"
    assert metadata[b"dsvl.plan"] == "é".encode()
    assert b"ARROW:schema" in file.metadata.metadata
    again = read_part(str(tmp_path), receipt)
    assert part.part_metadata(again)["plan"] == "é"


def test_lineage_costs_next_to_nothing(tmp_path: Path) -> None:
    """A column with one value in all rows is stored once."""
    many = image_rows({f"row-{index}": "x" for index in range(4000)})
    bare = _write(str(tmp_path), many).num_bytes
    for name in ("model", "weights_digest", "recipe", "node", "run_id"):
        index = many.schema.get_field_index(name)
        many = many.set_column(index, many.schema.field(name), pa.array(["d" * 64] * 4000))
    receipt = _write(str(tmp_path), many)
    assert receipt.num_bytes - bare < 5 * 400
    columns = pq.ParquetFile(tmp_path / receipt.path).metadata.row_group(0).to_dict()["columns"]
    encoded = {c["path_in_schema"] for c in columns if "RLE_DICTIONARY" in c["encodings"]}
    assert {"model", "node", "status", "prompt_id"} <= encoded
    assert not {"row_id", "row_key", "text"} & encoded


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """Neither the store nor Parquet notices it."""
    receipt = _write(str(tmp_path))
    file = tmp_path / receipt.path
    body = bytearray(file.read_bytes())
    body[60] ^= 1
    file.write_bytes(body)
    with pytest.raises(TableError, match=r"is damaged: its sha256 is not"):
        read_part(str(tmp_path), receipt)
    file.unlink()
    with pytest.raises(TableError, match="in the log but not on the store"):
        read_part(str(tmp_path), receipt)


def test_keys_digests_add_up() -> None:
    """Two tables hold the same rows if the sums over their parts are equal, however divided."""

    def total(*tables: pa.Table) -> int:
        return sum(int(part.keys_digest(table), 16) for table in tables) % 2**128

    assert total(ROWS) == total(ROWS.slice(2), ROWS.slice(0, 2))
    assert total(ROWS) != total(ROWS.slice(1))
    assert total(ROWS) != total(image_rows({"a": "x", "b": "y", "c": "changed"}))
    assert total(ROWS, ROWS) != 0


def test_a_part_needs_rows(tmp_path: Path) -> None:
    """An empty part would be a file for nothing."""
    with pytest.raises(ValueError, match="at least one row"):
        _write(str(tmp_path), ROWS.slice(0, 0))


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("data/00001/00000012-ab.parquet", 12),
        ("s3://b/out/data/00001/00000012-ab.parquet", 12),
        ("data/00001/notes.txt", 0),
        ("data/00001/2026-01-01.csv", 0),
        ("data/00001/12.parquet", 0),
    ],
)
def test_lease_is_read_from_our_own_names_only(path: str, wanted: int) -> None:
    """What somebody else put beside the parts is never deleted."""
    assert part.lease_of(path) == wanted


def large_rows(num_rows: int = 1000) -> pa.Table:
    """Rows whose answers are long and do not compress."""
    texts = {f"row-{n}": random.Random(n).randbytes(600).hex() for n in range(num_rows)}
    return image_rows(texts)


def test_keys_are_read_without_the_answers(table_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan over 10^9 rows must not read what they say: a part of each file is enough."""
    rows = large_rows()
    receipt = write_part(table_uri, rows, shard=0, lease=1, metadata={})
    fetched: list[int] = []
    read_range = objects.read_range

    def counted(uri: str, start: int, length: int, **version: Any) -> bytes:
        fetched.append(length)
        return read_range(uri, start, length, **version)

    monkeypatch.setattr(objects, "read_range", counted)
    names = [*KEY_COLUMNS, "recipe", "not there"]
    found = part.read_columns(table_uri, receipt, names)
    assert found.equals(rows.select([*KEY_COLUMNS, "recipe"]), check_metadata=False)
    assert sum(fetched) < receipt.num_bytes / 4
    assert len(fetched) <= 4


def test_a_flipped_byte_among_the_keys_is_found(tmp_path: Path) -> None:
    """Nobody compares the whole file with its hash when only columns are read."""
    receipt = write_part(str(tmp_path), large_rows(), shard=0, lease=1, metadata={})
    path = tmp_path / receipt.path
    body = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    assert column.path_in_schema == "row_key"
    body[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    path.write_bytes(body)
    with pytest.raises(TableError, match=r"damaged: .* restore it"):
        part.read_columns(str(tmp_path), receipt, KEY_COLUMNS)
    path.write_bytes(body[:-9])
    with pytest.raises(TableError, match="damaged"):
        part.read_columns(str(tmp_path), receipt, KEY_COLUMNS)


def test_columns_of_a_part_that_was_just_replaced_come_from_its_copy(table_uri: str) -> None:
    """`dsvl plan` runs beside jobs."""
    rows = large_rows()
    receipt = write_part(table_uri, rows, shard=0, lease=1, metadata={})
    part.keep_superseded(table_uri, receipt.path)
    objects.delete([objects.join(table_uri, receipt.path)])
    assert part.read_columns(table_uri, receipt, KEY_COLUMNS).num_rows == rows.num_rows
