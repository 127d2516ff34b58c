"""Receipts of parts on their way into the table's log, and the old rows that they replace."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.plan.redrive import is_kept
from dsvl_pipeline.store.retry import with_retries
from dsvl_pipeline.table import part
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.schema import is_among
from dsvl_pipeline.table.writer import TableWriter

T = TypeVar("T")

COMMIT_EVERY_S = 10.0


class Commits:
    """What of one shard is written but not committed.

    Args:
        writer: Holds the table's lease.
        stale: Logical keys of the committed rows that this shard's answers replace.
        retry_for_s: How long the store may be away.
        stop: Ends the waiting for the store.

    Attributes:
        stale: Those of them that are still in the table.
        receipts: Of parts that no commit names yet.
        num_kept: Rows of ``stale`` that stay after all, as their redrive failed.
    """

    def __init__(
        self, writer: TableWriter, stale: pa.Table, *, retry_for_s: float, stop: threading.Event
    ) -> None:
        self.stale = stale
        self.receipts: list[Receipt] = []
        self.num_kept = 0
        self._writer = writer
        self._retry_for_s = retry_for_s
        self._stop = stop
        self._committed_s = time.monotonic()

    def add(self, receipt: Receipt) -> None:
        """Take a part that was written."""
        self.receipts.append(receipt)

    def keep(self, losses: pa.Table) -> None:
        """Let the answers stay whose redrive failed.

        Args:
            losses: Logical keys of their new errors.
        """
        stays = is_kept(self.stale, losses)
        self.num_kept += pc.sum(stays).as_py() or 0
        self.stale = self.stale.filter(pc.invert(stays))

    def is_due(self, limit_s: float) -> bool:
        """Return whether the last commit is longer ago than a limit, or `COMMIT_EVERY_S`."""
        return time.monotonic() - self._committed_s > min(COMMIT_EVERY_S, limit_s)

    def commit(self) -> list[Receipt]:
        """Commit the parts there are, in the place of the old rows that they replace.

        Returns:
            Their receipts.

        Raises:
            StorageError: The store is away. Called again, it commits the same.
        """
        committed = self.receipts
        if committed:
            # A commit that failed is repeated, and must supersede the same rows.
            self.stale = self.retrying(self._commit)
        self.receipts, self._committed_s = [], time.monotonic()
        return committed

    def finish(self) -> None:
        """Take what is stale still out of the table: nothing replaces it.

        Pages that a new version of a document lacks, errors that are gone.
        """
        commit = functools.partial(self._writer.commit, [], superseded=self.stale)
        self.retrying(commit)

    def retrying(self, do: Callable[[], T]) -> T:
        """Do something on the table's store, which may be away for a while."""
        return with_retries(do, uri=self._writer.uri, timeout_s=self._retry_for_s, stop=self._stop)

    def _commit(self) -> pa.Table:
        """Commit; return the stale rows that are left."""
        superseded, left = self.stale, self.stale
        if self.stale.num_rows:
            keys = [part.read_keys(self._writer.uri, receipt.path) for receipt in self.receipts]
            is_replaced = is_among(self.stale, pa.concat_tables(keys))
            superseded = self.stale.filter(is_replaced)
            left = self.stale.filter(pc.invert(is_replaced))
        self._writer.commit(self.receipts, superseded=superseded)
        return left
