"""The seam between `dsvl_pipeline.store.objects` and one kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store tells about an object without its bytes being read.

    Attributes:
        uri: In the spelling it was asked for (a bare path stays one).
        size: In bytes.
        etag: Without quotes; None for local files.
        version: Version id of a versioned bucket; a listing does not give it.
        mtime_ns: Last modified, nanoseconds since the epoch.
        problem: Why it cannot be read, in a listing that tells of such things. A directory that
            cannot be listed ends in a slash.
    """

    uri: str
    size: int
    etag: str | None = None
    version: str | None = None
    mtime_ns: int
    problem: str | None = None


class Store(Protocol):
    """Byte access to one kind of store; each method takes whole URIs, for its messages' sake."""

    def read(self, uri: str, max_bytes: int | None) -> tuple[bytes, ObjectInfo]:
        """Read a whole object and what it is, in one request."""
        ...

    def read_range(self, uri: str, start: int, length: int, etag: str | None) -> bytes:
        """Read some bytes; fewer where the object ends before; none of one with another etag."""
        ...

    def stat(self, uri: str) -> ObjectInfo: ...

    def walk(
        self, prefix: str, *, is_flat: bool, start_after: str | None, tells_problems: bool = False
    ) -> Iterator[ObjectInfo]:
        """Yield every object whose URI starts with ``prefix``, sorted by URI.

        Args:
            prefix: Any leading part of a URI; it need not end at a slash.
            is_flat: Leave out objects that have another slash after the prefix.
            start_after: Leave out this URI and all that sort before it.
            tells_problems: Whether what cannot be read is yielded with its problem, and the walk
                goes on; otherwise it ends with an error.
        """
        ...

    def put(self, uri: str, body: bytes) -> None: ...

    def put_if_absent(self, uri: str, body: bytes) -> bool: ...

    def delete(self, uri: str) -> None: ...
