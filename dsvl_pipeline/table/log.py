"""The log: which parts are the table.

Entries are claimed one after the other; the table at version N is what entries 1 to N add up to.
Every 100 entries the sum is kept as a checkpoint, so that a reader makes two listings and reads at
most about 100 small objects, however long the log. A checkpoint is derived data: without one, or
with a damaged one, all entries are read. It names the token of the entry at which it was made, and
readers compare: a store that lets two drivers write one entry may keep the checkpoint of the other.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from dsvl_pipeline import storage
from dsvl_pipeline.errors import LeaseError, NotFoundError, StorageError, TableError
from dsvl_pipeline.table.claim import claim
from dsvl_pipeline.table.document import as_record, damaged, list_numbered, load
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lease import TWO_WINNERS
from dsvl_pipeline.table.part import Receipt, superseded_uri

ENTRIES_PER_CHECKPOINT = 100
_ENTRY_ADVICE = (
    "restore the file from a copy; without one, where it is the last of the log, move it away, "
    "then `dsvl repair` the table and run the job again: its rows are computed again"
)
_CHECKPOINT_ADVICE = "the log is read without it; `dsvl repair` replaces it"

Operation = Literal["run", "compact", "vacuum", "repair"]
"""Only a run answers rows; the others keep house."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who appends: the holder of a lease.

    Attributes:
        lease: Its number.
        run_id: Of the run; of what answers nothing, as a compaction, a name for people.
        recipe: Of the run; empty for what answers nothing.
        operation: What it is.
    """

    lease: int
    run_id: str
    recipe: str
    operation: Operation = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One commit.

    Attributes:
        number: From 1.
        token: Random; tells whose entry it is.
        author: Who wrote it.
        committed_at: ISO 8601, by the writer's clock.
        added: Parts that join the table.
        removed: Paths of parts that leave it.
        statuses: Rows of the table by status, after this entry.
    """

    number: int
    token: str
    author: Author
    committed_at: str
    added: tuple[Receipt, ...]
    removed: tuple[str, ...]
    statuses: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "token": self.token,
            "lease": self.author.lease,
            "run_id": self.author.run_id,
            "recipe": self.author.recipe,
            "operation": self.author.operation,
            "committed_at": self.committed_at,
            "added": [receipt.to_json() for receipt in self.added],
            "removed": list(self.removed),
            "statuses": self.statuses,
        }

    @classmethod
    def parse(cls, uri: str, body: bytes) -> LogEntry:
        """Read an entry's document.

        Raises:
            TableError: It is damaged.
        """
        return cls.from_json(uri, load(uri, body, advice=_ENTRY_ADVICE))

    @classmethod
    def from_json(cls, uri: str, document: Mapping[str, Any]) -> LogEntry:
        """Make it of a document; see `parse`."""
        names = ("lease", "run_id", "recipe", "operation")
        author = {name: document[name] for name in names if name in document}
        return as_record(cls, uri, {**document, "author": author}, advice=_ENTRY_ADVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The table at one version.

    Attributes:
        uri: Of the table.
        version: Number of the last entry; 0 for a table without any.
        last_author: Of that entry; None without any.
        last_token: Of that entry.
        last_run_id: Of the last run that appended anything.
        parts: By path.
        tokens: Of the last entries, by number: those that were read one by one.
    """

    uri: str
    version: int = 0
    last_author: Author | None = None
    last_token: str | None = None
    last_run_id: str | None = None
    parts: Mapping[str, Receipt]
    tokens: Mapping[int, str] = field(default_factory=dict, compare=False, repr=False)

    def in_shard(self, shard: int) -> list[Receipt]:
        return [receipt for receipt in self.parts.values() if receipt.shard == shard]

    def after(self, entries: Iterable[LogEntry]) -> Snapshot:
        """Give the table after some more entries.

        Raises:
            TableError: An entry does not follow, removes a part that is not there, or adds one
                that is.
        """
        parts = dict(self.parts)
        version, author, run_id = self.version, self.last_author, self.last_run_id
        token, tokens = self.last_token, dict(self.tokens)
        for entry in entries:
            version, author, token = version + 1, entry.author, entry.token
            tokens[version] = token
            tokens.pop(version - ENTRIES_PER_CHECKPOINT, None)
            run_id = author.run_id if author.operation == "run" else run_id
            if entry.number != version:
                raise self._broken(
                    f"log entry {version} is missing, {entry.number} is there", entry.number
                )
            for path in entry.removed:
                if parts.pop(path, None) is None:
                    raise self._broken(
                        f"log entry {version} removes {path}, which is not in the table", version
                    )
            for receipt in entry.added:
                if receipt.path in parts:
                    raise self._broken(
                        f"log entry {version} adds {receipt.path}, which is in the table", version
                    )
                parts[receipt.path] = receipt
        return Snapshot(
            uri=self.uri,
            version=version,
            last_author=author,
            last_token=token,
            last_run_id=run_id,
            parts=parts,
            tokens=tokens,
        )

    def _broken(self, found: str, number: int) -> TableError:
        return TableError(
            f"{storage.redact(self.uri)}: {found} ({storage.redact(_entry_uri(self.uri, number))});"
            f" was something in _dsvl/log deleted or changed? {_ENTRY_ADVICE}"
        )


def read_snapshot(uri: str, version: int | None = None) -> Snapshot:
    """Read which parts are the table, now or at an earlier version.

    Raises:
        NotFoundError: There is no table.
        TableError: The version does not exist, or the log is damaged.
    """
    read_format(uri)
    snapshot = _read_checkpoint(uri, version)
    log_uri = storage.join(uri, "_dsvl", "log")
    found = list_numbered(log_uri, start_after=_entry_uri(uri, snapshot.version))
    names = [name for number, name in found if version is None or number <= version]
    snapshot = snapshot.after(map(LogEntry.parse, names, storage.read_many(names)))
    if version is not None and snapshot.version != version:
        raise TableError(
            f"{storage.redact(uri)}: version {version} does not exist; the last one is "
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
        info.uri.removeprefix(folder.rstrip("/") + "/")
        for folder in (uri, superseded_uri(uri))
        for info in storage.list_objects(storage.join(folder, "data"))
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
    names = [name for _, name in list_numbered(storage.join(uri, "_dsvl", "log"))]
    return list(map(LogEntry.parse, names, storage.read_many(names)))


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
        """Commit parts; tell whether this call's entry is the one that was appended.

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
        """Make sure that what was committed is what readers find; at most 100 small requests.

        Raises:
            LeaseError: It is not: another driver's entry stands where this one's was accepted.
        """
        self._check_last()
        found = read_snapshot(self._uri, self.snapshot.version)
        if found.parts != self.snapshot.parts:
            raise LeaseError(
                f"{storage.redact(self._uri)}: the log up to version {found.version} is not what "
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
        uris = [_entry_uri(self._uri, number) for number in tokens]
        try:
            found = [*map(LogEntry.parse, uris, storage.read_many(uris))]
        except NotFoundError as error:
            gone = next((uri for uri in uris if not storage.exists(uri)), uris[-1])
            raise TableError(
                f"{storage.redact(gone)}: this driver wrote or read this log entry, but it is "
                "gone; was something in _dsvl/log deleted? Run again: its rows are computed again"
            ) from error
        for uri, standing, token in zip(uris, found, tokens.values(), strict=True):
            if standing.token != token:
                raise LeaseError(
                    f"{storage.redact(uri)}: this driver wrote or read another log entry there, "
                    f"which now is that of run {standing.author.run_id} (lease "
                    f"{standing.author.lease}); {TWO_WINNERS}"
                )

    def _keep_checkpoint(self) -> None:
        """Write a checkpoint where one is due, once all that only it would hide was read back.

        Raises:
            LeaseError: An entry is another's by now, however long ago this driver built on it.
        """
        version = self.snapshot.version
        if version % ENTRIES_PER_CHECKPOINT == 0 and version > self._checkpointed:
            self._checkpointed = version
            # The commit stands; a checkpoint that fails costs readers time, nothing else.
            with suppress(StorageError):
                self._check(self.snapshot.tokens)
                _write_checkpoint(self.snapshot)

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
        uri = _entry_uri(self._uri, entry.number)
        document = claim(uri, entry.to_json(), advice=_ENTRY_ADVICE)
        standing = LogEntry.from_json(uri, document)
        self.snapshot = self.snapshot.after([standing])
        return standing.token


def total_statuses(receipts: Iterable[Receipt]) -> dict[str, int]:
    """Add up rows by status."""
    totals: dict[str, int] = {}
    for receipt in receipts:
        for status, count in receipt.statuses.items():
            totals[status] = totals.get(status, 0) + count
    return totals


def _entry_uri(uri: str, number: int) -> str:
    return storage.join(uri, "_dsvl", "log", f"{number:08d}.json")


def _checkpoint_uri(uri: str, number: int) -> str:
    return storage.join(uri, "_dsvl", "checkpoints", f"{number:08d}.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checkpoint:
    """What the entries up to a version add up to; those of older versions have no token."""

    version: int
    last_author: Author
    last_token: str | None = None
    last_run_id: str | None
    parts: list[Receipt]


def _checkpoints(uri: str) -> list[tuple[int, str]]:
    return list(list_numbered(storage.join(uri, "_dsvl", "checkpoints")))


def _read_checkpoint(uri: str, version: int | None) -> Snapshot:
    """Give the last checkpoint that can be used, up to a version; else the empty table."""
    for number, name in reversed(_checkpoints(uri)):
        if version is None or number <= version:
            try:
                return _parse_checkpoint(uri, number, name)
            except NotFoundError:  # replaced since the listing
                continue
            except TableError as error:
                _logger.warning("%s", error)
    return Snapshot(uri=uri, parts={})


def _parse_checkpoint(uri: str, number: int, name: str) -> Snapshot:
    document = load(name, storage.read(name), advice=_CHECKPOINT_ADVICE)
    found = as_record(_Checkpoint, name, document, advice=_CHECKPOINT_ADVICE)
    if found.version != number:
        raise damaged(name, f"it is that of version {found.version}", _CHECKPOINT_ADVICE)
    entry = _entry_of_checkpoint(uri, number, name)
    token = found.last_token
    if entry is not None:
        token = token or entry.token
        if (token, found.last_author) != (entry.token, entry.author):
            raise damaged(name, f"log entry {number} is another than its own", _CHECKPOINT_ADVICE)
    return Snapshot(
        uri=uri,
        version=found.version,
        last_author=found.last_author,
        last_token=token,
        last_run_id=found.last_run_id,
        parts={receipt.path: receipt for receipt in found.parts},
    )


def _entry_of_checkpoint(uri: str, number: int, name: str) -> LogEntry | None:
    """Read the entry at which a checkpoint was made; None where it is lost and the log goes on.

    Raises:
        TableError: The log ends just before it: somebody moved its last entry away, so that the
            next one takes that number.
    """
    entry = _entry_uri(uri, number)
    try:
        return LogEntry.parse(entry, storage.read(entry))
    except TableError as error:  # what the entry said is in the checkpoint
        _logger.warning("%s", error)
    except NotFoundError:
        log_uri = storage.join(uri, "_dsvl", "log")
        after = list_numbered(log_uri, start_after=_entry_uri(uri, number - 2))
        if [found for found, _ in after] == [number - 1]:
            raise damaged(name, f"log entry {number} is not there", _CHECKPOINT_ADVICE) from None
    return None


def repair_checkpoints(snapshot: Snapshot, *, is_dry: bool = False) -> list[str]:
    """Write a new checkpoint in the place of damaged ones; give the URIs of those."""
    bad = []
    for number, name in _checkpoints(snapshot.uri):
        try:
            _parse_checkpoint(snapshot.uri, number, name)
        except TableError:
            bad.append(name)
    if bad and not is_dry:
        storage.delete(bad)
        _write_checkpoint(snapshot)
    return bad


def _write_checkpoint(snapshot: Snapshot) -> None:
    assert snapshot.last_author is not None
    document = {
        "version": snapshot.version,
        "last_author": asdict(snapshot.last_author),
        "last_token": snapshot.last_token,
        "last_run_id": snapshot.last_run_id,
        "parts": [receipt.to_json() for receipt in snapshot.parts.values()],
    }
    storage.put(_checkpoint_uri(snapshot.uri, snapshot.version), json.dumps(document).encode())
    # The one before stays for readers that have just listed it.
    oldest = snapshot.version - ENTRIES_PER_CHECKPOINT
    storage.delete(name for number, name in _checkpoints(snapshot.uri) if number < oldest)
