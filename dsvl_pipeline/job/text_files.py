"""Small text files that a user names: job files, schemas, rendered manifests."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

MAX_BYTES = 4 << 20
"""Largest job file. Prompts by the thousand belong in a manifest."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_text(path: Path) -> str:
    """Read a file of at most `MAX_BYTES`, without a byte order mark.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is no regular file, too large, or not UTF-8; the message says which.
    """
    # Before it is opened: a pipe would wait for a writer, a device may go on for ever.
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"it is {_KINDS.get(kind, 'something else')}, expected a regular file")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"it holds {path.stat().st_size:,} bytes, more than the limit of {MAX_BYTES:,}; "
            "is it the right file?"
        )
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise ValueError("it is UTF-16 or UTF-32, expected UTF-8; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at {error.start:,}"
        raise ValueError(f"it is not UTF-8 text ({found}); save it as UTF-8") from None
