"""Opening a manifest: local files as they are, objects by ranges or whole."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.ranges import RangeFile
from dsvl_pipeline.store.uris import is_local, local_path, shown

MAX_WHOLE_BYTES = 64 << 20
RANGE_BYTES = 8 << 20


def open_file(file: ObjectInfo) -> BinaryIO:
    """Open a manifest for reading, seekable.

    A local file is read as it is needed. So is a large object, by ranges that are retried each;
    a small one is fetched whole, which lets its bytes be compared with their MD5.

    Args:
        file: As it was listed: another version of an object is an error when it is read.

    Raises:
        ConfigError: It is local and cannot be opened.
    """
    if not is_local(file.uri):
        if file.size <= MAX_WHOLE_BYTES:
            return io.BytesIO(objects.read(file.uri, max_bytes=MAX_WHOLE_BYTES))
        ranges = RangeFile(file.uri, file.size, etag=file.etag)
        return cast("BinaryIO", io.BufferedReader(ranges, RANGE_BYTES))
    try:
        return open(local_path(file.uri), "rb")
    except OSError as error:
        raise ConfigError(
            f"manifest {shown(file.uri)} cannot be opened: {error.strerror}"
        ) from None
