"""Files under the protocol of an object store: whole or absent, and durable once written."""

from __future__ import annotations

import os
import stat as stat_bits
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from dsvl_pipeline.errors import AccessError, NotFoundError, StorageError, TooLargeError
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.uris import encoded_path, local_path, path_of

_TEMPORARY_SUFFIX = ".dsvl-tmp"


class LocalStore:
    """Bare paths and ``file://`` URIs.

    A new file is written under a temporary name beside its place, flushed to the disk and only
    then linked or renamed, so that a killed writer leaves no partial file under a real name.
    """

    def read(self, uri: str, max_bytes: int | None) -> tuple[bytes, ObjectInfo]:
        with _explained("read", uri):
            path = path_of(uri)
            # Opening a pipe or a device could wait for ever.
            if not stat_bits.S_ISREG(os.stat(path).st_mode):
                raise NotFoundError(f"read {uri}: this is not a regular file")
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                size = found.st_size
                if max_bytes is not None and size > max_bytes:
                    raise TooLargeError(
                        f"read {uri}: it has {size} bytes, but at most {max_bytes} are wanted",
                        size,
                    )
                info = ObjectInfo(uri=uri, size=size, mtime_ns=found.st_mtime_ns)
                return file.read(), info

    def read_range(self, uri: str, start: int, length: int, etag: str | None) -> bytes:
        with _explained("read", uri), open(path_of(uri), "rb") as file:
            file.seek(start)
            return file.read(length)

    def stat(self, uri: str) -> ObjectInfo:
        with _explained("stat", uri):
            found = os.stat(path_of(uri))
            if not stat_bits.S_ISREG(found.st_mode):
                raise NotFoundError(f"stat {uri}: this is not a regular file")
            return ObjectInfo(uri=uri, size=found.st_size, mtime_ns=found.st_mtime_ns)

    def walk(
        self, prefix: str, *, is_flat: bool, start_after: str | None, tells_problems: bool = False
    ) -> Iterator[ObjectInfo]:
        # "photos/2024-" names the directory "photos/"; the rest filters its entries.
        directory, slash, name_prefix = prefix.rpartition("/")
        with _explained("list", prefix):
            for found in _files(directory + slash, name_prefix, is_flat, tells_problems):
                if start_after is None or found.uri > start_after:
                    yield found

    def put(self, uri: str, body: bytes) -> None:
        with _explained("put", uri), _temporary(local_path(uri), body) as temporary:
            os.rename(temporary, path_of(uri))

    def put_if_absent(self, uri: str, body: bytes) -> bool:
        with _explained("put", uri), _temporary(local_path(uri), body) as temporary:
            try:
                # Unlike rename, link never replaces; unlike O_EXCL on the name itself, no reader
                # ever sees the file half written.
                os.link(temporary, path_of(uri))
            except FileExistsError:
                return False
            return True

    def delete(self, uri: str) -> None:
        with _explained("delete", uri), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path_of(uri))


def remove_temporaries(directory: str, *, oldest_ns: int) -> int:
    """Delete what killed writers left under temporary names; return how many files that were.

    Args:
        directory: Bare path or ``file://`` URI; searched with all its subdirectories.
        oldest_ns: By the file system's time; younger ones stay: their writer may be alive.
    """
    num_removed = 0
    for parent, _, names in os.walk(path_of(directory)):
        for name in names:
            path = os.path.join(parent, name)
            # Its writer may be done with it by now.
            with suppress(FileNotFoundError):
                if name.endswith(_TEMPORARY_SUFFIX) and os.stat(path).st_mtime_ns < oldest_ns:
                    os.unlink(path)
                    num_removed += 1
    return num_removed


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory to be listed, and which ones (device and inode) lie above it."""

    uri: str
    ancestors: frozenset[tuple[int, int]] = frozenset()


def _files(top: str, name_prefix: str, is_flat: bool, tells_problems: bool) -> Iterator[ObjectInfo]:
    """Walk a directory, sorted by URI; not by recursion, as directories may be thousands deep."""
    stack = [_entries(_Directory(uri=top), name_prefix, is_flat, tells_problems)]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
        elif isinstance(found, _Directory):
            stack.append(_entries(found, "", is_flat, tells_problems))
        else:
            yield found


def _entries(
    directory: _Directory, name_prefix: str, is_flat: bool, tells_problems: bool
) -> Iterator[ObjectInfo | _Directory]:
    path = path_of(directory.uri) or "."
    spell = str if encoded_path(directory.uri) is None else _quoted
    try:
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in directory.ancestors:  # a walk without end
            if tells_problems:
                yield _unreadable(directory.uri, "links to a directory above it")
            return
        with os.scandir(path) as entries:
            named = [
                # With its slash a directory sorts where its files' URIs do.
                (spell(entry.name) + "/" * _is_directory(entry), entry)
                for entry in entries
                if not entry.name.endswith(_TEMPORARY_SUFFIX)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if not tells_problems:
            raise
        yield _unreadable(directory.uri, f"directories that cannot be listed ({error.strerror})")
        return
    ancestors = directory.ancestors | {identity}
    for name, entry in sorted(named, key=lambda item: item[0]):
        if not name.startswith(name_prefix):
            continue
        if not name.endswith("/"):
            yield from _file(directory.uri + name, entry, tells_problems)
        elif not is_flat:
            yield _Directory(uri=directory.uri + name, ancestors=ancestors)


def _file(uri: str, entry: os.DirEntry[str], tells_problems: bool) -> Iterator[ObjectInfo]:
    try:
        found = entry.stat()
    except FileNotFoundError:
        # Another process may delete a file between listing and stat.
        if tells_problems and entry.is_symlink():
            yield _unreadable(uri, "links to nothing")
    except OSError as error:
        if not tells_problems:
            raise
        yield _unreadable(uri, f"files that cannot be read ({error.strerror})")
    else:
        if tells_problems and not stat_bits.S_ISREG(found.st_mode):
            yield _unreadable(uri, "pipes, sockets and devices")
        else:
            yield ObjectInfo(uri=uri, size=found.st_size, mtime_ns=found.st_mtime_ns)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _unreadable(uri: str, problem: str) -> ObjectInfo:
    return ObjectInfo(uri=uri, size=0, mtime_ns=0, problem=problem)


def _quoted(name: str) -> str:
    """Spell a name in a ``file://`` URI: what would read back as another name is encoded."""
    return "".join(
        f"%{byte:02X}" if byte == ord("%") or 0xDC80 <= ord(char) <= 0xDCFF else char
        for char in name
        for byte in os.fsencode(char)[:1]
    )


@contextmanager
def _temporary(path: str, body: bytes) -> Iterator[str]:
    """Yield a flushed temporary file beside a path, and make what became of it durable."""
    directory = os.path.dirname(path)
    _make_directory(directory)
    # Without the file's own name, which may be as long as a name can be.
    temporary = os.path.join(directory, f".{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    _flush_directory(directory)


def _make_directory(path: str) -> None:
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_directory(parent)
    with suppress(FileExistsError):
        os.mkdir(path)
    # A part whose directory vanishes with the power would be missing from a committed table.
    _flush_directory(parent)


def _flush_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(action: str, uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"{action} {uri}: there is no such file") from error
    except NotADirectoryError as error:
        message = f"{action} {uri}: part of its path is a file, where a directory is needed"
        raise (AccessError if action == "put" else NotFoundError)(message) from error
    except IsADirectoryError as error:
        raise AccessError(f"{action} {uri}: this is a directory; name a file in it") from error
    except PermissionError as error:
        raise AccessError(
            f"{action} {uri}: {error.strerror}; "
            "check the owner and mode of the file and its directories, and that links are allowed"
        ) from error
    except OSError as error:
        raise StorageError(f"{action} {uri}: {error.strerror or error}") from error
    except ValueError as error:  # NUL, half a surrogate pair, or a locale that has only ASCII
        raise NotFoundError(f"{action} {uri}: no file can have this name here ({error})") from error
