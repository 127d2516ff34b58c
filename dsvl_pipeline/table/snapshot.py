"""Values of the log: an entry, and the parts of the table after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from dsvl_pipeline.errors import TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.document import as_record, load
from dsvl_pipeline.table.part import Receipt

ENTRY_ADVICE = (
    "restore the file from a copy; without one, where it is the last of the log, move it away, "
    "then `dsvl repair` the table and run the job again: its rows are computed again"
)

Operation = Literal["run", "compact", "vacuum", "repair"]
"""Only a run answers rows; the others keep house."""


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
        return cls.from_json(uri, load(uri, body, advice=ENTRY_ADVICE))

    @classmethod
    def from_json(cls, uri: str, document: Mapping[str, Any]) -> LogEntry:
        """Make it of a document; see `parse`."""
        names = ("lease", "run_id", "recipe", "operation")
        author = {name: document[name] for name in names if name in document}
        return as_record(cls, uri, {**document, "author": author}, advice=ENTRY_ADVICE)


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
    ENTRIES_PER_CHECKPOINT: ClassVar[int] = 100

    last_author: Author | None = None
    last_token: str | None = None
    last_run_id: str | None = None
    parts: Mapping[str, Receipt]
    tokens: Mapping[int, str] = field(default_factory=dict, compare=False, repr=False)

    def in_shard(self, shard: int) -> list[Receipt]:
        return [receipt for receipt in self.parts.values() if receipt.shard == shard]

    def after(self, entries: Iterable[LogEntry]) -> Snapshot:
        """Return the table after some more entries.

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
            tokens.pop(version - self.ENTRIES_PER_CHECKPOINT, None)
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
            f"{objects.redact(self.uri)}: {found} ({objects.redact(entry_uri(self.uri, number))});"
            f" was something in _dsvl/log deleted or changed? {ENTRY_ADVICE}"
        )


def total_statuses(receipts: Iterable[Receipt]) -> dict[str, int]:
    """Add up rows by status."""
    totals: dict[str, int] = {}
    for receipt in receipts:
        for status, count in receipt.statuses.items():
            totals[status] = totals.get(status, 0) + count
    return totals


def entry_uri(uri: str, number: int) -> str:
    """Return the place of an entry."""
    return objects.join(uri, "_dsvl", "log", f"{number:08d}.json")
