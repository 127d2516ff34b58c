"""Find and delete what killed runs left behind.

No clock and no age says whether a part may still be committed; leases do. A driver commits parts
of its own lease only, and it can append nothing more once the log holds an entry of a higher one.
So parts of lower leases than that of the log's last entry are safe to take, if no entry names
them. Where there are others, vacuum takes the lease itself and appends an empty entry, as a run
would at its start, if the last holder has given it back or something old is among them; if a run is
at work, its parts stay. How old a file is matters to readers of earlier versions only, who find
copies of what left the table, and is told by the store's own clock.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator

from dsvl_pipeline.errors import LeaseError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.local import remove_temporaries
from dsvl_pipeline.store.uris import is_local, path_below
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lease import LEASE_TIME_S, Lease, is_released, wait_until_free
from dsvl_pipeline.table.log import Log, read_snapshot
from dsvl_pipeline.table.part import lease_of, superseded_uri
from dsvl_pipeline.table.snapshot import Author, Snapshot

GRACE_S = 7 * 24 * 3600.0
"""A reader that began with an earlier version may still want it."""
LEAST_GRACE_S = 3600.0
"""What people may ask for. Temporary files stay for so long in any case."""
_CLOCKS_APART_S = 60.0

_logger = logging.getLogger(__name__)


def list_parts(uri: str) -> Iterator[objects.ObjectInfo]:
    """Yield what has a part's name below ``data/``, logged or not."""
    for info in objects.list_objects(objects.join(uri, "data")):
        if lease_of(info.uri):
            yield info


def unlogged(
    parts: Iterable[objects.ObjectInfo], snapshot: Snapshot
) -> Iterator[objects.ObjectInfo]:
    """Yield those of some parts that a table does not name."""
    return (info for info in parts if path_below(info.uri, snapshot.uri) not in snapshot.parts)


def vacuum(uri: str, *, grace_s: float = GRACE_S, is_dry: bool = False) -> list[objects.ObjectInfo]:
    """Delete what the table as it is does not need; return which parts that was.

    That is: unlogged parts, copies of those that only earlier versions name, and local temporary
    files. A run may be at work meanwhile: what it wrote stays, whether committed or not.

    Args:
        uri: The table.
        grace_s: Of what only earlier versions name, and of what a holder left who has not given
            the lease back, the younger stays, by the store's clock.
        is_dry: Only tell: nothing is written or waited for, and this machine's clock counts.

    Raises:
        NotFoundError: There is no table.
        TableError: Its log is damaged.
    """
    read_format(uri)  # before anything is written beside it
    now_ns = time.time_ns() if is_dry else _now_ns(uri)
    oldest_ns = now_ns - int(grace_s * 1e9)
    found = _lost(uri, list(list_parts(uri)), oldest_ns, is_dry=is_dry)
    superseded = objects.list_objects(superseded_uri(uri))
    found += [info for info in superseded if lease_of(info.uri) and info.mtime_ns < oldest_ns]
    if not is_dry:
        objects.delete(info.uri for info in found)
        if is_local(uri):
            # No lease says whose they are, so nothing but their age keeps those of a living writer.
            remove_temporaries(uri, oldest_ns=min(oldest_ns, now_ns - int(LEAST_GRACE_S * 1e9)))
    return found


def _lost(
    uri: str, parts: list[objects.ObjectInfo], oldest_ns: int, *, is_dry: bool
) -> list[objects.ObjectInfo]:
    """Return those of some parts that no driver can commit any more; make sure of that if need be.

    A driver that has not given its lease back may be alive: for young parts it is left alone.
    """
    snapshot = read_snapshot(uri)
    fence = snapshot.last_author.lease if snapshot.last_author else 0
    open_ones = [info for info in unlogged(parts, snapshot) if lease_of(info.uri) >= fence]
    if open_ones and (min(i.mtime_ns for i in open_ones) < oldest_ns or is_released(uri)):
        try:
            if is_dry:
                fence = 1 + wait_until_free(uri, time_s=LEASE_TIME_S, may_wait=False)
            else:
                snapshot, fence = _take_over(uri)
        except LeaseError as error:
            _logger.warning("what its run has not committed yet stays: %s", error)
    return [info for info in unlogged(parts, snapshot) if lease_of(info.uri) < fence]


def _take_over(uri: str) -> tuple[Snapshot, int]:
    """Keep all drivers so far from committing anything; return the table then, and our lease.

    Raises:
        LeaseError: One is at work.
    """
    run_id = f"vacuum-{uuid.uuid4().hex[:8]}"
    lease = Lease.acquire(uri, run_id=run_id)
    try:
        log = Log(uri, Author(lease=lease.number, run_id=run_id, recipe="", operation="vacuum"))
        log.take_over()
        log.confirm()
        lease.check()
        return log.snapshot, lease.number
    finally:
        lease.release()


def _now_ns(uri: str) -> int:
    """Ask the store for the time; say so where this machine's differs, as people count by that."""
    now_ns = objects.now_ns(objects.join(uri, "_dsvl"))
    apart_s = abs(time.time_ns() - now_ns) / 1e9
    if apart_s > _CLOCKS_APART_S:
        _logger.warning(
            "%s: this machine's clock and the store's are %.0f s apart; the store's counts",
            objects.redact(uri),
            apart_s,
        )
    return now_ns
