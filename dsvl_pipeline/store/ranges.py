"""An object as a file: its bytes are fetched as they are asked for."""

from __future__ import annotations

import io
from typing import Any

from dsvl_pipeline.store import objects


class RangeFile(io.RawIOBase):
    """A seekable file of ranges, each fetched with retries of its own.

    Args:
        uri: Of the object.
        size: In bytes.
        etag: Of the version that is meant; any without it.
        tail_bytes: So many of its end are fetched at once, such as the footer of a Parquet file.

    Raises:
        StorageError: From here or when reading: it cannot be had, or was replaced since.
    """

    def __init__(
        self, uri: str, size: int, *, etag: str | None = None, tail_bytes: int = 0
    ) -> None:
        self._uri, self._size, self._etag, self._at = uri, size, etag, 0
        self._tail_at = max(0, size - tail_bytes)
        self._tail = self._fetch(self._tail_at, size - self._tail_at) if tail_bytes else b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._size - self._at
        length = left if size is None or size < 0 else min(size, left)
        if length <= 0:
            return b""
        if self._at >= self._tail_at and self._tail:
            start = self._at - self._tail_at
            data = self._tail[start : start + length]
        else:
            data = self._fetch(self._at, length)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fetch(self, start: int, length: int) -> bytes:
        return objects.read_range(self._uri, start, length, etag=self._etag)
