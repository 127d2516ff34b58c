"""A table in the hands of its driver: opened, committed to, and ended well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline import keys
from dsvl_pipeline.errors import AccessError, ConfigError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.claim import check_claims
from dsvl_pipeline.table.format import create_format, read_format
from dsvl_pipeline.table.lease import LEASE_TIME_S, Lease
from dsvl_pipeline.table.log import Log
from dsvl_pipeline.table.part import (
    Receipt,
    keep_superseded,
    lease_of,
    part_metadata,
    read_columns,
    read_part,
    write_part,
)
from dsvl_pipeline.table.schema import LOGICAL_KEY, logical_key
from dsvl_pipeline.table.snapshot import Author, Operation, Snapshot
from dsvl_pipeline.table.vacuum import list_parts, unlogged


class TableWriter:
    """A table in the hands of the one driver that may change it. Not thread-safe.

    As a context manager it gives the lease back at the end, however that comes.

    Attributes:
        uri: The table.
        num_shards: As the table's format has it.
        lease_number: Goes into the names of parts (`part.write_part`).
        run_before: The last run that worked on the table before; None if there was none.
    """

    def __init__(
        self, uri: str, *, num_shards: int, lease: Lease, log: Log, run_before: str | None
    ) -> None:
        self.uri = uri
        self.num_shards = num_shards
        self.lease_number = lease.number
        self.run_before = run_before
        self._lease = lease
        self._log = log
        self._committed: set[str] = set()
        self._keys: dict[str, pa.ChunkedArray] = {}

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        num_shards: int,
        run_id: str,
        recipe: str,
        operation: Operation = "run",
        lease_s: float = LEASE_TIME_S,
    ) -> TableWriter:
        """Take a table, making it if there is none.

        Args:
            uri: The table.
            num_shards: Of a new table; one that exists keeps its own.
            run_id: Of this run.
            recipe: Of this run, for the log.
            operation: What for, for the log.
            lease_s: See `Lease.acquire`.

        Raises:
            ConfigError: The store cannot hold a table, or something else lies in its place.
            LeaseError: Another driver is at work.
            TableError: The table is damaged, or made by a newer version.
        """
        refuse_foreign_place(uri)
        check_claims(uri, run_id)
        create_format(uri, num_shards=num_shards)
        lease = Lease.acquire(uri, run_id=run_id, time_s=lease_s)
        try:
            # Read again: a store may have let two drivers make it.
            table_format = read_format(uri)
            author = Author(lease=lease.number, run_id=run_id, recipe=recipe, operation=operation)
            log = Log(uri, author)
            run_before = log.snapshot.last_run_id
            log.take_over()
        except BaseException:
            lease.release()
            raise
        num_shards = table_format.num_shards
        return cls(uri, num_shards=num_shards, lease=lease, log=log, run_before=run_before)

    @property
    def snapshot(self) -> Snapshot:
        """The table as of the last commit."""
        return self._log.snapshot

    def commit(self, receipts: Sequence[Receipt], *, superseded: pa.Table | None = None) -> None:
        """Make parts visible and superseded rows invisible, both at once.

        May be repeated with the same arguments after a `StorageError`: what had been committed is
        not committed again.

        Args:
            receipts: From `part.write_part`.
            superseded: Columns ``row_id, page_index, prompt_id`` of rows that leave the table:
                those of earlier runs that ``receipts`` replace. Rows that this writer itself
                committed are never touched.

        Raises:
            LeaseError: Another driver has taken over. What was committed before is safe.
            StorageError: The store does not answer.
        """
        self.check()
        self._committed.update(receipt.path for receipt in receipts)
        while True:
            added = [r for r in receipts if r.path not in self.snapshot.parts]
            removed: list[str] = []
            if superseded is not None and superseded.num_rows:
                remainders, removed = self._without(superseded)
                added += remainders
            if not added and not removed:
                return
            self._keep_superseded(removed)
            if self._log.append(added, removed):
                return

    def replace(
        self, receipts: Sequence[Receipt], paths: Sequence[str], *, are_kept: bool = False
    ) -> None:
        """Put parts in the place of others that hold the same rows.

        May be repeated, as `commit` may.

        Args:
            receipts: From `part.write_part`.
            paths: Of the parts that leave the table.
            are_kept: Whether they are already copied for earlier versions (`part.read_part`).

        Raises:
            LeaseError: Another driver has taken over.
            StorageError: The store does not answer.
        """
        self.check()
        while True:
            removed = [path for path in paths if path in self.snapshot.parts]
            if not removed:
                return
            if not are_kept:
                self._keep_superseded(removed)
            if self._log.append(receipts, removed):
                return

    def drop(self, paths: Sequence[str]) -> None:
        """Take parts that are lost or damaged out of the table, in one commit.

        What is left of a damaged one is kept, as if it had been superseded.

        Raises:
            LeaseError: Another driver has taken over.
            StorageError: The store does not answer.
        """
        if not paths:
            return
        self.check()
        left = [path for path in paths if objects.exists(objects.join(self.uri, path))]
        self._keep_superseded(left)
        while not self._log.append((), paths):
            pass

    def _keep_superseded(self, paths: Sequence[str]) -> None:
        """Copy what leaves the table, so that earlier versions stay readable after a good end."""
        with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
            for _ in threads.map(lambda path: keep_superseded(self.uri, path), paths):
                pass

    def check(self) -> None:
        """Check that the table is still this writer's.

        Raises:
            LeaseError: Another driver has taken over. What was committed before is safe.
        """
        self._lease.check()

    def confirm(self) -> None:
        """Check that the table is this writer's, and that what it committed is in it.

        Raises:
            LeaseError: Another driver has taken over, or the store let two drivers win.
            TableError: The log was damaged meanwhile.
        """
        self.check()
        self._log.confirm()

    def finish(self, leftovers: Iterable[str] = ()) -> None:
        """End a good run: delete what is not in the table, and let the next driver in.

        Deleted are superseded parts and what lower leases and this one left uncommitted, so that
        ``data/`` holds exactly the table, for tools that know nothing of the log.

        Args:
            leftovers: URIs of what else is to go.

        Raises:
            LeaseError: Another driver has taken over, or stands in the log where this one's commit
                was accepted; nothing is deleted.
        """
        # Listed first: where another driver holds a lease of the same number, its parts are either
        # not in the list or its token is already in the lease.
        ours = [
            info.uri
            for info in unlogged(list_parts(self.uri), self.snapshot)
            if lease_of(info.uri) <= self.lease_number
        ]
        self.confirm()
        objects.delete(leftovers)
        objects.delete(ours)
        self.close()

    def close(self) -> None:
        """Let the next driver in; a second time does nothing."""
        self._lease.release()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _without(self, superseded: pa.Table) -> tuple[list[Receipt], list[str]]:
        """Write again, without the superseded rows, the parts of earlier runs that hold some.

        Returns:
            The new parts, and the paths of the old ones. A part of which nothing is left has no
            successor.
        """
        row_ids = pc.unique(superseded["row_id"]).to_pylist()
        shards = {keys.shard_of(row_id, self.num_shards) for row_id in row_ids}
        concerned = {
            path: receipt
            for path, receipt in self.snapshot.parts.items()
            if receipt.shard in shards and path not in self._committed
        }
        # Runs go shard by shard, so the keys of one shard are what is worth keeping in memory.
        self._keys = {path: known for path, known in self._keys.items() if path in concerned}
        gone = logical_key(superseded).combine_chunks()
        with ThreadPoolExecutor(objects.NUM_THREADS) as threads:
            unknown = [concerned[path] for path in concerned if path not in self._keys]
            found = threads.map(lambda receipt: self._read_keys(receipt), unknown)
            self._keys |= zip((receipt.path for receipt in unknown), found, strict=True)
            hit = [
                concerned[path]
                for path, known in self._keys.items()
                if pc.any(pc.is_in(known, value_set=gone)).as_py()
            ]
            remainders = threads.map(lambda receipt: self._remainder(receipt, gone), hit)
            return [r for r in remainders if r is not None], [receipt.path for receipt in hit]

    def _read_keys(self, receipt: Receipt) -> pa.ChunkedArray:
        return logical_key(read_columns(self.uri, receipt, LOGICAL_KEY))

    def _remainder(self, receipt: Receipt, gone: pa.Array) -> Receipt | None:
        rows = read_part(self.uri, receipt)
        kept = rows.filter(pc.invert(pc.is_in(logical_key(rows), value_set=gone)))
        if not kept.num_rows:
            return None
        return write_part(
            self.uri,
            kept,
            shard=receipt.shard,
            lease=self.lease_number,
            metadata=part_metadata(rows),
        )


def refuse_foreign_place(uri: str) -> None:
    """Check that a place is a table's or empty: readers of ``data/`` take all they find there.

    Raises:
        ConfigError: It is neither.
    """
    try:
        # One object is enough to tell: a table's own sort first, but for names in capitals.
        found = next(objects.list_objects(uri), None)
        ours = objects.join(uri, "_dsvl")
        if found is None or found.uri.startswith(ours + "/"):
            return
        if objects.exists(objects.join(ours, "format.json")):
            return
    except AccessError as error:
        raise ConfigError(f"output.uri: cannot be read: {error}") from error
    raise ConfigError(
        f"output.uri: {objects.redact(uri)} is neither empty nor a table (it has no "
        f"_dsvl/format.json); it holds {objects.redact(found.uri)}; give a new or empty directory "
        "or prefix, or move away what is there"
    )
