"""What a process and its child say to each other: frames on two pipes.

A frame is a JSON header, its length first, then ``num_bytes`` of payload.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<I")


def head_of(header: dict[str, Any], payload: bytes) -> bytes:
    """Return what stands before a payload."""
    text = json.dumps({**header, "num_bytes": len(payload)}).encode()
    return _LENGTH.pack(len(text)) + text


def write_frame(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame."""
    stream.write(head_of(header, payload))
    stream.write(payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read one frame.

    Raises:
        EOFError: The other side is gone.
    """
    (length,) = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
    header = json.loads(_read_exactly(stream, length))
    return header, _read_exactly(stream, header["num_bytes"])


def whole_frame(received: bytearray) -> tuple[dict[str, Any], bytes] | None:
    """Return the frame that these bytes are; None as long as it is not whole."""
    if len(received) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(received)
    start = _LENGTH.size + length
    if len(received) < start:
        return None
    header = json.loads(received[_LENGTH.size : start])
    if len(received) < start + header["num_bytes"]:
        return None
    return header, bytes(memoryview(received)[start:])


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
