"""Files and objects that the globs of a job file name, as a sorted stream."""

from __future__ import annotations

import heapq
import io
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO, Literal, cast

from dsvl_pipeline import storage
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.keys import content_id_from
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.uris import as_text, local_path, name_of, scheme_of, shown
from dsvl_pipeline.stores.store import ObjectInfo

MAX_WHOLE_BYTES = 64 << 20
RANGE_BYTES = 8 << 20
_MAGIC = re.compile(r"[*?\[]")


def find(
    patterns: Sequence[str], *, setting: str, suffixes: tuple[str, ...]
) -> Iterator[ObjectInfo]:
    """List what patterns name, sorted by URI, each file once however many patterns name it.

    Args:
        patterns: Files, directories (all files below) and globs, local or ``s3://``.
        setting: Where the patterns stand in the job file, for messages.
        suffixes: What counts in directories and in globs whose last part names no suffix.

    Raises:
        ConfigError: Nothing at all was found (at once, not when the stream is read).
    """
    absolute = [_absolute(pattern, setting) for pattern in patterns]
    found = _unique(
        heapq.merge(*(_list(pattern, suffixes) for pattern in absolute), key=lambda file: file.uri)
    )
    first = next(found, None)
    if first is None:
        raise ConfigError("; ".join(_nothing(pattern, setting, suffixes) for pattern in absolute))
    return chain([first], found)


def file_rows(
    files: Iterator[ObjectInfo], kind: Literal["image", "document"], num_carried: int
) -> Iterator[Row]:
    """Make a row of each file; its id is its URI, its content what the listing says of it.

    Args:
        files: From `find`.
        kind: What they are.
        num_carried: Columns that a manifest in the same job carries; files have none of them.
    """
    for file in files:
        uri = as_text(file.uri)
        yield Row(
            row_id=name_of(uri),
            kind=kind,
            sources=(uri,),
            content_id=content_id_from(
                uri=uri, etag=file.etag, size=file.size, mtime_ns=file.mtime_ns
            ),
            carry=(None,) * num_carried,
        )


def open_file(file: ObjectInfo) -> BinaryIO:
    """Open a manifest for reading, seekable.

    A local file is read as it is needed. So is a large object, by ranges that are retried each;
    a small one is fetched whole, which lets its bytes be compared with their MD5.
    """
    if scheme_of(file.uri) != "file":
        if file.size <= MAX_WHOLE_BYTES:
            return io.BytesIO(storage.read(file.uri, max_bytes=MAX_WHOLE_BYTES))
        return cast("BinaryIO", io.BufferedReader(_Ranges(file), RANGE_BYTES))
    try:
        return open(local_path(file.uri), "rb")
    except OSError as error:
        raise ConfigError(
            f"manifest {shown(file.uri)} cannot be opened: {error.strerror}"
        ) from None


def root_of(pattern: str) -> str | None:
    """Give the directory that a local pattern looks into, None for a remote one."""
    if scheme_of(pattern) != "file":
        return None
    path = local_path(pattern)
    magic = _MAGIC.search(path)
    if magic is not None:
        return os.path.dirname(path[: magic.start()])
    return path if os.path.isdir(path) else os.path.dirname(path)


def prefix_of(pattern: str) -> str:
    """Give the place in a store below which a pattern looks."""
    magic = _MAGIC.search(pattern)
    return pattern[: magic.start()].rpartition("/")[0] if magic else pattern


class _Ranges(io.RawIOBase):
    """An object whose bytes are fetched as they are asked for, all of the version that was listed.

    Raises:
        StorageError: When reading: it has been replaced since.
    """

    def __init__(self, file: ObjectInfo) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        length = min(len(buffer), self._file.size - self._at)
        if length <= 0:
            return 0
        data = storage.read_range(self._file.uri, self._at, length, etag=self._file.etag)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _absolute(pattern: str, setting: str) -> str:
    scheme = scheme_of(pattern)
    if scheme == "file":
        return local_path(pattern)
    if scheme != "s3":
        raise ConfigError(
            f"{setting}: {shown(pattern)!r} cannot be listed; give paths or s3://BUCKET/KEY"
        )
    return pattern


def _list(pattern: str, suffixes: tuple[str, ...]) -> Iterator[ObjectInfo]:
    last = pattern.rpartition("/")[2]
    is_named = bool(_MAGIC.search(pattern)) and "." in last
    for file in storage.glob_objects(pattern):
        name = file.uri.rpartition("/")[2]
        is_known = name.lower().endswith(suffixes) and not name.startswith(".")
        if is_named or is_known or file.uri == pattern:
            yield file


def _unique(files: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    before = None
    for file in files:
        if file.uri != before:
            yield file
        before = file.uri


def _nothing(pattern: str, setting: str, suffixes: tuple[str, ...]) -> str:
    """Say what there is instead, for a message."""
    magic = _MAGIC.search(pattern)
    place = pattern[: magic.start()].rpartition("/")[0] + "/" if magic else pattern
    others = storage.list_objects(place)
    names = [file.uri.removeprefix(place) for _, file in zip(range(3), others, strict=False)]
    if names:
        return (
            f"{setting}: nothing found at {pattern}; {place} holds others, e.g. "
            f"{', '.join(names)}; known suffixes are {', '.join(suffixes)}, and a glob may name "
            "another (*.xyz)"
        )
    if scheme_of(place) == "file" and not os.path.exists(place):
        return f"{setting}: nothing found at {pattern}: {place} does not exist"
    return f"{setting}: nothing found at {pattern}: {place} holds no file"
