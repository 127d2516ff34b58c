"""Checkpoints of the log: the table's parts after each hundredth entry, to begin reading there."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

from dsvl_pipeline.errors import NotFoundError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.document import as_record, damaged, list_numbered, load
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.snapshot import Author, LogEntry, Snapshot, entry_uri

_CHECKPOINT_ADVICE = "the log is read without it; `dsvl repair` replaces it"

_logger = logging.getLogger(__name__)


def _checkpoint_uri(uri: str, number: int) -> str:
    return objects.join(uri, "_dsvl", "checkpoints", f"{number:08d}.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checkpoint:
    """What the entries up to a version add up to; those of older versions have no token."""

    version: int
    last_author: Author
    last_token: str | None = None
    last_run_id: str | None
    parts: list[Receipt]


def _checkpoints(uri: str) -> list[tuple[int, str]]:
    return list(list_numbered(objects.join(uri, "_dsvl", "checkpoints")))


def read_checkpoint(uri: str, version: int | None) -> Snapshot:
    """Return the last checkpoint that can be used, up to a version; else the empty table."""
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
    document = load(name, objects.read(name), advice=_CHECKPOINT_ADVICE)
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
    entry = entry_uri(uri, number)
    try:
        return LogEntry.parse(entry, objects.read(entry))
    except TableError as error:  # what the entry said is in the checkpoint
        _logger.warning("%s", error)
    except NotFoundError:
        log_uri = objects.join(uri, "_dsvl", "log")
        after = list_numbered(log_uri, start_after=entry_uri(uri, number - 2))
        if [found for found, _ in after] == [number - 1]:
            raise damaged(name, f"log entry {number} is not there", _CHECKPOINT_ADVICE) from None
    return None


def repair_checkpoints(snapshot: Snapshot, *, is_dry: bool = False) -> list[str]:
    """Write a new checkpoint in the place of damaged ones; return the URIs of those."""
    bad = []
    for number, name in _checkpoints(snapshot.uri):
        try:
            _parse_checkpoint(snapshot.uri, number, name)
        except TableError:
            bad.append(name)
    if bad and not is_dry:
        objects.delete(bad)
        write_checkpoint(snapshot)
    return bad


def write_checkpoint(snapshot: Snapshot) -> None:
    """Write a checkpoint of the newest version."""
    assert snapshot.last_author is not None
    document = {
        "version": snapshot.version,
        "last_author": asdict(snapshot.last_author),
        "last_token": snapshot.last_token,
        "last_run_id": snapshot.last_run_id,
        "parts": [receipt.to_json() for receipt in snapshot.parts.values()],
    }
    objects.put(_checkpoint_uri(snapshot.uri, snapshot.version), json.dumps(document).encode())
    # The one before stays for readers that have just listed it.
    oldest = snapshot.version - Snapshot.ENTRIES_PER_CHECKPOINT
    objects.delete(name for number, name in _checkpoints(snapshot.uri) if number < oldest)
