"""Byte access to bare paths, ``file://`` and ``s3://``: whole objects, bounded retries.

Everything here may be called from any thread and in any process, forked ones included. Errors are
`AccessError` (the store said no, or cannot be addressed at all), `NotFoundError`, `TooLargeError`
and `StorageError` for what did not work after all retries.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from dsvl_pipeline.errors import ConfigError, NotFoundError
from dsvl_pipeline.store import patterns
from dsvl_pipeline.store.backend import ObjectInfo, Store
from dsvl_pipeline.store.local import LocalStore
from dsvl_pipeline.store.redact import has_secret, name_of, redact, redact_text
from dsvl_pipeline.store.uris import is_bucket, is_local, is_object, join

__all__ = [
    "NUM_THREADS",
    "ObjectInfo",
    "delete",
    "exists",
    "glob_objects",
    "has_secret",
    "join",
    "list_objects",
    "name_of",
    "now_ns",
    "put",
    "put_if_absent",
    "read",
    "read_many",
    "read_range",
    "read_with_info",
    "redact",
    "redact_text",
    "stat",
]

NUM_THREADS = 16
"""Requests in flight where many objects are read or deleted at once."""

_LOCAL = LocalStore()


def read(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole object.

    Raises:
        TooLargeError: It has more than ``max_bytes``; they are not read.
    """
    return read_with_info(uri, max_bytes=max_bytes)[0]


def read_with_info(uri: str, *, max_bytes: int | None = None) -> tuple[bytes, ObjectInfo]:
    """Read a whole object and what `stat` says of it, in one request; see `read`."""
    return _store(uri).read(uri, max_bytes)


def read_range(uri: str, start: int, length: int, *, etag: str | None = None) -> bytes:
    """Read some bytes of an object; fewer where a local file ends before.

    Raises:
        ValueError: ``length`` is not positive.
        StorageError: The object of a store ends before ``start``, or its etag is another one.
    """
    if length < 1:
        raise ValueError(f"read {uri}: the length is {length}; it must be at least 1")
    return _store(uri).read_range(uri, start, length, etag)


def read_many(uris: Iterable[str]) -> list[bytes]:
    """Read whole objects, many at once, and return them in the order of their URIs."""
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return list(threads.map(read, uris))


def stat(uri: str) -> ObjectInfo:
    """Ask for an object's size, etag, version and time."""
    return _store(uri).stat(uri)


def exists(uri: str) -> bool:
    """Return whether there is an object (not a directory)."""
    try:
        stat(uri)
    except NotFoundError:
        return False
    return True


def list_objects(prefix: str, *, start_after: str | None = None) -> Iterator[ObjectInfo]:
    """Yield objects sorted by URI, from one chain of listing calls, a page at a time.

    Args:
        prefix: A directory (all objects below it, however deep), or an object. No character of
            it means anything but itself. Nothing there gives nothing.
        start_after: Leave out this URI and all that sort before it.
    """
    directory = prefix.rstrip("/") + "/"
    is_empty = True
    for found in _store(prefix).walk(directory, is_flat=False, start_after=start_after):
        is_empty = False
        yield found
    if is_empty and _is_object(prefix) and start_after is None:
        yield stat(prefix)


def glob_objects(pattern: str, *, tells_problems: bool = False) -> Iterator[ObjectInfo]:
    """Yield the objects that a user's pattern names, sorted by URI; as `list_objects` without one.

    Args:
        pattern: With ``*``, ``?``, ``[...]`` inside path components and ``**`` for any number of
            them. What exists is not looked at: see `dsvl_pipeline.store.named.resolve`.
        tells_problems: Whether files and directories that cannot be read are yielded with their
            problem (`ObjectInfo.problem`); otherwise they end the listing.

    Raises:
        ConfigError: The pattern is malformed, or its bucket is not spelled out.
    """
    store = _store(pattern)
    head, tail = patterns.split(pattern)
    if not tail:
        # In a store "a//" is another place than "a/".
        directory = head if is_object(head) and head.endswith("/") else head.rstrip("/") + "/"
        found = store.walk(
            directory, is_flat=False, start_after=None, tells_problems=tells_problems
        )
        first = next(found, None)
        if first is not None:
            yield first
            yield from found
        elif _is_object(head):
            yield stat(head)
        return
    if is_bucket(head):
        raise ConfigError(
            f"list {pattern}: a pattern cannot stand for buckets; spell the bucket out"
        )
    try:
        wanted = patterns.regex(tail)
    except ValueError as error:
        raise ConfigError(f"list {pattern}: {error}") from error
    is_flat = "/" not in tail and tail != "**"
    prefix = head + patterns.literal_start(tail)
    for found_one in store.walk(
        prefix, is_flat=is_flat, start_after=None, tells_problems=tells_problems
    ):
        # Of a directory that cannot be listed nobody knows what would match.
        if found_one.uri.endswith("/") or wanted.match(found_one.uri.removeprefix(head)):
            yield found_one


def put(uri: str, body: bytes) -> None:
    """Write a whole object in one request, replacing what is there; readers see old or new."""
    _store(uri).put(uri, body)


def put_if_absent(uri: str, body: bytes) -> bool:
    """Write a whole object unless there is one; tell whether this call wrote it.

    On S3 an answer may be lost after the store has acted; the retry then finds our own object and
    the result is False. Who must know puts a token into the body and reads it back
    (`dsvl_pipeline.table.claim`).

    Raises:
        ValueError: The body is empty; some clients would truncate what is there.
    """
    if not body:
        raise ValueError(f"put {uri}: the body must not be empty")
    return _store(uri).put_if_absent(uri, body)


def now_ns(folder: str) -> int:
    """Ask a store for its time, as `ObjectInfo.mtime_ns` counts it.

    Args:
        folder: A small object is written there and deleted again.
    """
    probe = join(folder, f"clock-{uuid.uuid4().hex}.json")
    put(probe, b"{}")
    try:
        return stat(probe).mtime_ns
    finally:
        delete([probe])


def delete(uris: Iterable[str]) -> None:
    """Delete objects; those that do not exist are passed over."""
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for _ in threads.map(lambda uri: _store(uri).delete(uri), uris):
            pass


def _store(uri: str) -> Store:
    if is_local(uri):
        return _LOCAL
    if is_object(uri):
        return _s3()
    raise ConfigError(
        f"{redact(uri)!r} cannot be read or written; use a path, file:///PATH or s3://BUCKET/KEY"
    )


@cache
def _s3() -> Store:
    # Half a second of imports, which each process of a run without S3 is spared.
    from dsvl_pipeline.store.s3 import S3Store

    return S3Store()


def _is_object(uri: str) -> bool:
    return not uri.endswith("/") and not is_bucket(uri) and exists(uri)
