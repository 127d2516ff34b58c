"""Parts: immutable Parquet files under ``data/``, and the receipts that get them committed."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsvl_pipeline.errors import NotFoundError, PartError, StorageError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.ranges import RangeFile
from dsvl_pipeline.table.schema import LOGICAL_KEY, REPEATED, logical_key
from dsvl_pipeline.wording import amount

METADATA_PREFIX = "dsvl."
_NAME = re.compile(r"(\d{8,})-[0-9a-f]+\.parquet")
FORMAT_VERSION = "1"
_FOOTER_BYTES = 64 << 10  # what pyarrow asks for first
_WHOLE_BYTES = 128 << 10
"""A smaller part is read whole: one request instead of three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the driver needs to know of a part in order to commit it. Small: kilobytes for 1,000.

    Attributes:
        path: Relative to the table.
        shard: All its rows are in this one.
        num_rows: In the part.
        statuses: Rows by status.
        error_codes: Rows by error code, degraded ones included.
        num_bytes: Of the file.
        sha256: Of the file, as hex.
        keys_digest: Sum of a digest of each row's logical key and row key, as hex. The order of
            the rows does not matter, and two tables hold the same rows if the sums over their
            parts are equal.
    """

    path: str
    shard: int
    num_rows: int
    statuses: dict[str, int]
    error_codes: dict[str, int]
    num_bytes: int
    sha256: str
    keys_digest: str

    @property
    def num_errors(self) -> int:
        return self.statuses.get("error", 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def write_part(
    table_uri: str, rows: pa.Table, *, shard: int, lease: int, metadata: Mapping[str, str]
) -> Receipt:
    """Write rows as one part that no reader sees until its receipt is committed.

    The file is complete in memory before its only PUT: an interrupted stream or writer would
    publish a shorter file that looks whole.

    Args:
        table_uri: The table.
        rows: At least one row, all of this shard.
        shard: Names the directory.
        lease: Number of the driver's lease; who may delete the part hangs on it.
        metadata: Goes into the file beside the Arrow schema, each name prefixed with ``dsvl.``.
    """
    if not rows.num_rows:
        raise ValueError("a part needs at least one row")
    names = {METADATA_PREFIX + name: value for name, value in metadata.items()}
    names |= {f"{METADATA_PREFIX}format_version": FORMAT_VERSION}
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata(names),
        sink,
        compression="zstd",
        use_dictionary=[name for name in REPEATED if name in rows.column_names],
        write_page_checksum=True,  # for `read_columns`, which cannot check the whole file
    )
    body = sink.getvalue().to_pybytes()
    # No "shard=": readers of the plain directory would make a column of it.
    path = f"data/{shard:05d}/{lease:08d}-{uuid.uuid4().hex}.parquet"
    objects.put(objects.join(table_uri, path), body)
    return Receipt(
        path=path,
        shard=shard,
        num_rows=rows.num_rows,
        statuses=_tally(rows["status"]),
        error_codes=_tally(rows["error_code"]),
        num_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        keys_digest=keys_digest(rows),
    )


def read_part(
    table_uri: str,
    receipt: Receipt,
    columns: Sequence[str] | None = None,
    *,
    is_superseded_ok: bool = True,
    is_leaving: bool = False,
) -> pa.Table:
    """Read a committed part, or those of the columns that it has.

    Args:
        table_uri: The table.
        receipt: Of the part.
        columns: Those wanted; all if None.
        is_superseded_ok: Whether the copy will do that earlier versions are read from.
        is_leaving: Whether to make that copy, as `keep_superseded` does, without a second look.

    Raises:
        PartError: The part is missing, or not what its receipt says.
    """
    how = {"is_superseded_ok": is_superseded_ok, "is_leaving": is_leaving}
    return _read_whole(table_uri, receipt, columns, **how)[0]


def _read_whole(
    table_uri: str,
    receipt: Receipt,
    columns: Sequence[str] | None,
    *,
    is_superseded_ok: bool = True,
    is_leaving: bool = False,
) -> tuple[pa.Table, pa.Schema]:
    uri = objects.join(table_uri, receipt.path)
    try:
        body = _read_wherever(table_uri, receipt.path) if is_superseded_ok else objects.read(uri)
    except NotFoundError as error:
        raise _missing(table_uri, receipt.path) from error
    # Neither the store nor the client notices a flipped byte.
    if hashlib.sha256(body).hexdigest() != receipt.sha256:
        found = f"its sha256 is not the committed {receipt.sha256}"
        if len(body) != receipt.num_bytes:
            found = f"it has {amount(len(body), 'byte')}, but {receipt.num_bytes} were committed"
        raise _damaged(table_uri, receipt, found)
    if is_leaving:
        objects.put(superseded_uri(table_uri, receipt.path), body)
    try:
        return _parse(pa.BufferReader(body), columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(table_uri, receipt, str(error)) from error


def _missing(table_uri: str, path: str) -> PartError:
    found = "this part is in the log but not on the store"
    return PartError(
        f"{objects.redact(objects.join(table_uri, path))}: {found}; an earlier version of the "
        "table can be read until `dsvl vacuum` removes it; for the last one, "
        f"{_advice(table_uri)}",
        found,
    )


def _damaged(table_uri: str, receipt: Receipt, what: str) -> PartError:
    uri = objects.redact(objects.join(table_uri, receipt.path))
    found = f"the file is damaged: {what}"
    return PartError(f"{uri}: {found}; {_advice(table_uri)}", found)


def _advice(table_uri: str) -> str:
    return (
        f"restore it from a copy, or let `dsvl repair {objects.redact(table_uri)}` take it out of "
        "the log: the next run of the job then computes its rows again"
    )


def read_columns(table_uri: str, receipt: Receipt, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a committed part, if it has them, without the rest of the file.

    Worth it for a few narrow columns: the end of the file is one request, and the columns are one
    or two more. Each page that is read is compared with its own checksum.

    Args:
        table_uri: The table.
        receipt: Of the part.
        columns: Those wanted.

    Raises:
        PartError: As `read_part`.
    """
    return read_with_schema(table_uri, receipt, columns)[0]


def read_with_schema(
    table_uri: str, receipt: Receipt, columns: Sequence[str]
) -> tuple[pa.Table, pa.Schema]:
    """Read columns as `read_columns` does, and at no cost the schema of the whole part."""
    if receipt.num_bytes <= _WHOLE_BYTES:
        return _read_whole(table_uri, receipt, columns)
    uri = objects.join(table_uri, receipt.path)
    try:
        try:
            file = RangeFile(uri, receipt.num_bytes, tail_bytes=_FOOTER_BYTES)
        except NotFoundError:  # it has left the table: there is a copy
            uri = superseded_uri(table_uri, receipt.path)
            file = RangeFile(uri, receipt.num_bytes, tail_bytes=_FOOTER_BYTES)
        rows, schema = _parse(
            pa.PythonFile(file, mode="r"),
            columns,
            page_checksum_verification=True,
            pre_buffer=True,
        )
    except NotFoundError:  # it is gone, or was replaced while it was read
        return _read_whole(table_uri, receipt, columns)
    except StorageError as error:
        # Where a file is too short, a store refuses the range, as if it could not be read now.
        size = objects.stat(uri).size
        if size == receipt.num_bytes:
            raise
        found = f"it has {amount(size, 'byte')}, but {receipt.num_bytes} were committed"
        raise _damaged(table_uri, receipt, found) from error
    except (pa.ArrowException, OSError) as error:
        raise _damaged(table_uri, receipt, str(error)) from error
    if rows.num_rows != receipt.num_rows:
        found = f"it holds {amount(rows.num_rows, 'row')}, but the log says {receipt.num_rows}"
        raise _damaged(table_uri, receipt, found)
    return rows, schema


def keep_superseded(table_uri: str, path: str) -> None:
    """Copy a part that is about to leave the table to where earlier versions find it.

    Raises:
        PartError: It is missing.
    """
    try:
        body = objects.read(objects.join(table_uri, path))
    except NotFoundError as error:
        raise _missing(table_uri, path) from error
    objects.put(superseded_uri(table_uri, path), body)


def read_superseded(table_uri: str, receipt: Receipt) -> bytes | None:
    """Read the copy of a part that had left the table; None if there is none, or a damaged one."""
    try:
        body = objects.read(superseded_uri(table_uri, receipt.path))
    except NotFoundError:
        return None
    return body if hashlib.sha256(body).hexdigest() == receipt.sha256 else None


def superseded_uri(table_uri: str, path: str | None = None) -> str:
    """Return the place of a part that has left the table, or of all of them."""
    folder = objects.join(table_uri, "_dsvl", "superseded")
    return folder if path is None else objects.join(folder, path)


def _read_wherever(table_uri: str, path: str) -> bytes:
    try:
        return objects.read(objects.join(table_uri, path))
    except NotFoundError:
        return objects.read(superseded_uri(table_uri, path))


def read_keys(table_uri: str, path: str) -> pa.Table:
    """Read the logical keys of a part, committed or not."""
    return _parse(pa.BufferReader(objects.read(objects.join(table_uri, path))), LOGICAL_KEY)[0]


def part_metadata(rows: pa.Table) -> dict[str, str]:
    """Return the metadata with which a part was written, as `write_part` takes it."""
    return {
        name.decode().removeprefix(METADATA_PREFIX): value.decode()
        for name, value in (rows.schema.metadata or {}).items()
        if name.decode().startswith(METADATA_PREFIX)
    }


def lease_of(path: str) -> int:
    """Read the lease number in a part's path or URI; 0 for a file that is none of ours."""
    ours = _NAME.fullmatch(path.rpartition("/")[2])
    return int(ours[1]) if ours else 0


def keys_digest(rows: pa.Table) -> str:
    """Digest logical keys and row keys; see `Receipt`."""
    total = 0
    pairs = zip(logical_key(rows).to_pylist(), rows["row_key"].to_pylist(), strict=True)
    for logical, row_key in pairs:
        state = hashlib.blake2b(logical, digest_size=16, key=row_key or b"", person=b"dsvl.rows")
        total += int.from_bytes(state.digest(), "little")
    return f"{total % 2**128:032x}"


def _parse(file: Any, columns: Sequence[str] | None, **how: Any) -> tuple[pa.Table, pa.Schema]:
    """Read those of some columns that a file has, and the schema of all that it has."""
    parquet = pq.ParquetFile(file, **how)
    schema = parquet.schema_arrow
    if columns is not None:
        columns = [name for name in columns if name in schema.names]
    return parquet.read(columns=columns), schema


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    counted = pc.value_counts(column.drop_null()).to_pylist()
    return {item["values"]: item["counts"] for item in sorted(counted, key=lambda i: i["values"])}
