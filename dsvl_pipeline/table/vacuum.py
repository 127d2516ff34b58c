"""Find and delete what killed runs left behind."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from dsvl_pipeline import storage
from dsvl_pipeline.stores.local import remove_temporaries
from dsvl_pipeline.table.log import Snapshot, read_snapshot
from dsvl_pipeline.table.part import lease_of, superseded_uri

GRACE_S = 7 * 24 * 3600.0
"""Far longer than any driver keeps a receipt before it commits it."""
LEAST_GRACE_S = 3600.0
"""What people may ask for: receipts are committed within minutes, but stores can be slow."""


def list_parts(uri: str) -> Iterator[storage.ObjectInfo]:
    """Yield what has a part's name below ``data/``, logged or not."""
    for info in storage.list_objects(storage.join(uri, "data")):
        if lease_of(info.uri):
            yield info


def unlogged(
    parts: Iterable[storage.ObjectInfo], snapshot: Snapshot
) -> Iterator[storage.ObjectInfo]:
    """Yield those of some parts that a table does not name."""
    prefix = snapshot.uri.rstrip("/") + "/"
    return (info for info in parts if info.uri.removeprefix(prefix) not in snapshot.parts)


def vacuum(uri: str, *, grace_s: float = GRACE_S, is_dry: bool = False) -> list[storage.ObjectInfo]:
    """Delete what the table as it is does not need, and tell which parts that was.

    That is: unlogged parts, parts that only earlier versions name, and local temporary files. A
    run may be at work meanwhile: what it wrote lately stays, whether committed or not.

    Args:
        uri: The table.
        grace_s: What was written, or left the table, more lately stays.
        is_dry: Only tell.

    Raises:
        NotFoundError: There is no table.
    """
    oldest_ns = time.time_ns() - int(grace_s * 1e9)
    # Listed before the log is read: a part that is committed in between is then seen as committed.
    old = [info for info in list_parts(uri) if info.mtime_ns < oldest_ns]
    found = list(unlogged(old, read_snapshot(uri)))
    superseded = storage.list_objects(superseded_uri(uri))
    found += [info for info in superseded if info.mtime_ns < oldest_ns]
    if not is_dry:
        storage.delete(info.uri for info in found)
        if not uri.startswith("s3://"):
            remove_temporaries(uri, grace_s=grace_s)
    return found
