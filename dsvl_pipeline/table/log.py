"""The log: which parts are the table.

Entries are claimed one after the other; the table at version N is what entries 1 to N add up to.
Every 100 entries the sum is kept as a checkpoint, so that a reader makes two listings and reads at
most about 100 small objects, however long the log. A checkpoint is derived data: without one, or
with a damaged one, all entries are read. It names the token of the entry at which it was made, and
readers compare: a store that lets two drivers write one entry may keep the checkpoint of the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dsvl_pipeline.errors import LeaseError, NotFoundError, StorageError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import path_below
from dsvl_pipeline.table.checkpoints import (
    read_checkpoint,
    write_checkpoint,
)
from dsvl_pipeline.table.claim import claim
from dsvl_pipeline.table.document import list_numbered
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lease import TWO_WINNERS
from dsvl_pipeline.table.part import Receipt, superseded_uri
from dsvl_pipeline.table.snapshot import (
    ENTRY_ADVICE,
    Author,
    LogEntry,
    Snapshot,
    entry_uri,
    total_statuses,
)


def read_snapshot(uri: str, version: int | None = None) -> Snapshot:
    """Read which parts are the table, now or at an earlier version.

    Raises:
        NotFoundError: There is no table.
        TableError: The version does not exist, or the log is damaged.
    """
    read_format(uri)
    snapshot = read_checkpoint(uri, version)
    log_uri = objects.join(uri, "_dsvl", "log")
    found = list_numbered(log_uri, start_after=entry_uri(uri, snapshot.version))
    names = [name for number, name in found if version is None or number <= version]
    snapshot = snapshot.after(map(LogEntry.parse, names, objects.read_many(names)))
    if version is not None and snapshot.version != version:
        raise TableError(
            f"{objects.redact(uri)}: version {version} does not exist; the last one is "
            f"{snapshot.version}"
        )
    return snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a table, for people who choose one.

    Attributes:
        entry: The commit that made it.
        num_parts: Of the table then.
        is_readable: Whether all of them are still on the store.
    """

    entry: LogEntry
    num_parts: int
    is_readable: bool


def list_versions(uri: str) -> list[Version]:
    """List a table's versions, oldest first, from the whole log.

    Raises:
        NotFoundError: There is no table.
        TableError: The log is damaged.
    """
    entries = read_entries(uri)
    kept = {
        path_below(info.uri, folder)
        for folder in (uri, superseded_uri(uri))
        for info in objects.list_objects(objects.join(folder, "data"))
    }
    snapshot = Snapshot(uri=uri, parts={})
    versions = []
    for entry in entries:
        snapshot = snapshot.after([entry])
        versions.append(
            Version(
                entry=entry,
                num_parts=len(snapshot.parts),
                is_readable=kept.issuperset(snapshot.parts),
            )
        )
    return versions


def read_entries(uri: str) -> list[LogEntry]:
    """Read the whole log.

    Raises:
        NotFoundError: There is no table.
        TableError: An entry is damaged.
    """
    read_format(uri)
    names = [name for _, name in list_numbered(objects.join(uri, "_dsvl", "log"))]
    return list(map(LogEntry.parse, names, objects.read_many(names)))


class Log:
    """The log in the hands of the one driver that may append to it. Not thread-safe.

    Attributes:
        snapshot: The table as of the last entry this driver knows.
    """

    def __init__(self, uri: str, author: Author) -> None:
        self.snapshot = read_snapshot(uri)
        self._uri = uri
        self._author = author
        self._tokens: set[str] = set()
        self._checkpointed = 0

    def take_over(self) -> None:
        """Append an entry that keeps the holders of lower leases from appending ever again.

        Such a driver may be alive, and about to append the next entry. It goes on with the number
        it knows to be next; so once that number is ours it can never succeed.

        Raises:
            LeaseError: A higher lease has appended already.
        """
        while True:
            last = self.snapshot.last_author
            if last is not None and last.lease > self._author.lease:
                raise LeaseError(
                    f"{self._uri}: run {last.run_id} took over the table (lease {last.lease}, "
                    f"ours is {self._author.lease}); let it finish, then run again"
                )
            self._keep_checkpoint()  # which the one before, if it died there, did not write
            token = uuid.uuid4().hex
            if self._claim_next(token, (), ()) == token:
                return

    def append(self, added: Sequence[Receipt], removed: Iterable[str]) -> bool:
        """Commit parts; return whether this call's entry is the one that was appended.

        False means: an earlier call of this driver, whose answer was lost, had succeeded after
        all. Its entry is now in `snapshot`; what is left to commit must be worked out anew.

        Raises:
            LeaseError: Another driver has appended, so this one may not any more.
            StorageError: The store does not answer. Whether the entry stands is open, and the
                next call finds out.
        """
        self._check_last()
        token = uuid.uuid4().hex
        self._tokens.add(token)
        standing = self._claim_next(token, added, removed)
        if standing in self._tokens:
            return standing == token
        last = self.snapshot.last_author
        assert last is not None
        raise LeaseError(
            f"{self._uri}: run {last.run_id} (lease {last.lease}) has written log entry "
            f"{self.snapshot.version}, so this driver (lease {self._author.lease}) has lost the "
            "table; what it committed is safe; let the other run finish, then run again"
        )

    def confirm(self) -> None:
        """Check that what was committed is what readers find; at most 100 small requests.

        Raises:
            LeaseError: It is not: another driver's entry stands where this one's was accepted.
        """
        self._check_last()
        found = read_snapshot(self._uri, self.snapshot.version)
        if found.parts != self.snapshot.parts:
            raise LeaseError(
                f"{objects.redact(self._uri)}: the log up to version {found.version} is not what "
                f"this driver committed; {TWO_WINNERS}"
            )

    def _check_last(self) -> None:
        """Read back the entry on which the next one builds, and keep a checkpoint if it is due.

        Raises:
            LeaseError: The store accepted it, and then another's in its place.
        """
        if self.snapshot.version:
            self._check({self.snapshot.version: self.snapshot.last_token})
            self._keep_checkpoint()

    def _check(self, tokens: Mapping[int, str | None]) -> None:
        """Read entries back, and compare their tokens.

        Raises:
            LeaseError: One is another than this driver wrote or read.
            TableError: One is gone, or damaged.
        """
        uris = [entry_uri(self._uri, number) for number in tokens]
        try:
            found = [*map(LogEntry.parse, uris, objects.read_many(uris))]
        except NotFoundError as error:
            gone = next((uri for uri in uris if not objects.exists(uri)), uris[-1])
            raise TableError(
                f"{objects.redact(gone)}: this driver wrote or read this log entry, but it is "
                "gone; was something in _dsvl/log deleted? Run again: its rows are computed again"
            ) from error
        for uri, standing, token in zip(uris, found, tokens.values(), strict=True):
            if standing.token != token:
                raise LeaseError(
                    f"{objects.redact(uri)}: this driver wrote or read another log entry there, "
                    f"which now is that of run {standing.author.run_id} (lease "
                    f"{standing.author.lease}); {TWO_WINNERS}"
                )

    def _keep_checkpoint(self) -> None:
        """Write a checkpoint where one is due, after reading back the entries that it will hide.

        Raises:
            LeaseError: An entry is another's by now, however long ago this driver built on it.
        """
        version = self.snapshot.version
        if version % Snapshot.ENTRIES_PER_CHECKPOINT == 0 and version > self._checkpointed:
            self._checkpointed = version
            # The commit stands; a checkpoint that fails costs readers time, nothing else.
            with suppress(StorageError):
                self._check(self.snapshot.tokens)
                write_checkpoint(self.snapshot)

    def _claim_next(self, token: str, added: Sequence[Receipt], removed: Iterable[str]) -> str:
        """Claim the next number and follow whatever entry then has it; return its token."""
        entry = LogEntry(
            number=self.snapshot.version + 1,
            token=token,
            author=self._author,
            committed_at=datetime.now(UTC).isoformat(),
            added=tuple(added),
            removed=tuple(removed),
            statuses={},
        )
        after = self.snapshot.after([entry])
        entry = replace(entry, statuses=total_statuses(after.parts.values()))
        uri = entry_uri(self._uri, entry.number)
        document = claim(uri, entry.to_json(), advice=ENTRY_ADVICE)
        standing = LogEntry.from_json(uri, document)
        self.snapshot = self.snapshot.after([standing])
        return standing.token
