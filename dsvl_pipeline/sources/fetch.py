"""The only place that opens what a row names; `tests/test_readers.py` looks for a second one.

A job file is trusted, what its manifest names is not: local files are read only below allowed
directories, objects of a store, which are read with the job's own credentials, only below allowed
prefixes (see `dsvl_pipeline.sources.prefixes`), web addresses only where the job allows it and
only public ones (see `dsvl_pipeline.sources.web`).

What can be mended without the row changing is retryable: a file that is missing, and whatever a
setting refuses, since the settings here do not enter a row's key.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from dsvl_pipeline.errors import (
    AccessError,
    ConfigError,
    FetchError,
    NotFoundError,
    StorageError,
    TooLargeError,
)
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.sources.addresses import is_public
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.sources.web import WebReader, too_large
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.named import root_of
from dsvl_pipeline.store.uris import is_below, real, scheme_of, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Bytes, and what tells this version of them from another.

    Attributes:
        data: All bytes.
        sha256: Of the bytes, hex.
        etag: As the store or server gave it; None for local files.
        version: Version id in a versioned bucket.
    """

    data: bytes
    sha256: str
    etag: str | None = None
    version: str | None = None


class Fetcher:
    """Reads what rows name, within the limits of a job's ``input`` section. Thread-safe.

    Local files must lie, after following links, below a directory that the job file itself names:
    those of its manifests, images and documents, and ``input.allowed_roots``. A manifest in an
    object store thus reaches no local file unless ``allowed_roots`` says so.

    Args:
        config: Its local paths must be absolute where the working directory is not the driver's.
        is_allowed_address: What counts as a public address. Not a setting: tests alone change it.
    """

    def __init__(
        self, config: InputConfig, *, is_allowed_address: Callable[[str], bool] = is_public
    ) -> None:
        self._config = config
        named = map(root_of, (*config.manifest, *config.images, *config.documents))
        roots = [root for root in named if root is not None] + list(config.allowed_roots)
        self._roots = sorted({real(root) for root in roots})
        self._prefixes = Prefixes(config)
        self._web = WebReader(
            timeout_s=config.fetch_timeout_s, is_allowed_address=is_allowed_address
        )

    def read(self, uri: str) -> Fetched:
        """Read an image.

        Raises:
            FetchError: It cannot be had, or may not be; see the code.
        """
        return self._read(uri, self._config.max_image_bytes)

    def read_document(self, uri: str) -> Fetched:
        """Read a document; the same as `read` with its own size limit."""
        return self._read(uri, self._config.max_document_bytes)

    def probe(self, uri: str) -> None:
        """Ask a store for a byte of an object, if that is what a row names: may we read it?

        That it is missing is no reason to complain: it is the row's own matter.

        Raises:
            FetchError: The job does not allow it.
            AccessError: The store does not.
        """
        if scheme_of(uri) == "s3":
            self._check_prefix(uri)
            with contextlib.suppress(NotFoundError):
                objects.read_range(uri, 0, 1)

    def close(self) -> None:
        """Close connections."""
        self._web.close()

    def _read(self, uri: str, max_bytes: int) -> Fetched:
        match scheme_of(uri):
            case "file":
                fetched = self._read_local(uri, max_bytes)
            case "s3":
                self._check_prefix(uri)
                fetched = _read_object(uri, max_bytes)
            case "http" | "https":
                fetched = self._read_web(uri, max_bytes)
            case scheme:
                raise FetchError(
                    "scheme_refused",
                    f"{shown(uri)}: {scheme}: is not a scheme that rows may name; use a path, "
                    "file://, s3:// or (with input.allow_http) https://",
                    is_retryable=True,
                )
        if not fetched.data:
            raise FetchError("empty", f"{shown(uri)} holds no bytes")
        return fetched

    def _check_prefix(self, uri: str) -> None:
        if self._prefixes.refuse(uri):
            raise FetchError("path_refused", self._prefixes.refusal(uri), is_retryable=True)

    def _read_local(self, uri: str, max_bytes: int) -> Fetched:
        try:
            path = real(uri)
            if not any(is_below(path, root) for root in self._roots):
                raise FetchError(
                    "path_refused",
                    f"{shown(uri)} lies outside the job's directories "
                    f"({shown(', '.join(self._roots)) or 'it has none'}); if it may be read, add "
                    "its directory to input.allowed_roots",
                    is_retryable=True,
                )
            with open(path, "rb", opener=_open_at_once) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(max_bytes + 1) if size <= max_bytes else b""
        except (FileNotFoundError, NotADirectoryError):
            raise FetchError(
                "not_found", f"{shown(uri)}: there is no such file", is_retryable=True
            ) from None
        except PermissionError:
            raise FetchError(
                "access_denied", f"{shown(uri)}: no permission to read it", is_retryable=True
            ) from None
        except ValueError as error:  # a path with a null character
            raise FetchError(
                "url_invalid", f"{shown(uri)!r} is not a usable path ({error})"
            ) from None
        except OSError as error:
            is_bad_name = error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
            raise FetchError(
                "url_invalid" if is_bad_name else "unavailable",
                f"{shown(uri)} cannot be read: {error.strerror}",
                is_retryable=not is_bad_name,
            ) from None
        if max(size, len(data)) > max_bytes:
            raise too_large(uri, max(size, len(data)), max_bytes)
        return _fetched(data)

    def _read_web(self, uri: str, max_bytes: int) -> Fetched:
        if not self._config.allow_http:
            raise FetchError(
                "scheme_refused",
                f"{shown(uri)}: this job may not read from the web; set input.allow_http: true "
                "if it should",
                is_retryable=True,
            )
        download = self._web.read(uri, max_bytes=max_bytes)
        return _fetched(download.data, etag=download.etag)


def _open_at_once(path: str, flags: int) -> int:
    """Open a regular file; opening a pipe that nobody writes to would otherwise wait for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FetchError("not_a_file", f"{shown(path)} is not a regular file")


def _read_object(uri: str, max_bytes: int) -> Fetched:
    try:
        data, found = objects.read_with_info(uri, max_bytes=max_bytes)
    except NotFoundError:
        raise FetchError(
            "not_found", f"{shown(uri)}: there is no such object", is_retryable=True
        ) from None
    except TooLargeError as error:
        raise too_large(uri, error.size, max_bytes) from None
    except AccessError as error:  # often the job's credentials, which someone will renew
        raise FetchError("access_denied", str(error), is_retryable=True) from None
    except StorageError as error:
        raise FetchError("unavailable", str(error), is_retryable=True) from None
    except ConfigError as error:
        raise FetchError("url_invalid", str(error)) from None
    return _fetched(data, etag=found.etag, version=found.version)


def _fetched(data: bytes, *, etag: str | None = None, version: str | None = None) -> Fetched:
    return Fetched(data=data, sha256=hashlib.sha256(data).hexdigest(), etag=etag, version=version)
