"""Which tensors a checkpoint directory holds, from the safetensors headers alone. Torch-free."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.hub import weight_files

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies, and its shape."""

    file: Path
    shape: tuple[int, ...]


def list_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Name every tensor of a checkpoint, of one file or of shards.

    Raises:
        CheckpointError: There are no safetensors, a shard is missing, or a file is cut off.
    """
    return {
        name: StoredTensor(file=file, shape=shape)
        for file in weight_files(directory)
        for name, shape in _read_header(file).items()
    }


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from a file's header, after checking that the file is whole.

    Source: the safetensors format: 8 bytes of length, JSON, then the data.
    """
    file_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > min(file_bytes, _MAX_HEADER_BYTES):
                raise ValueError(f"a header of {header_bytes} bytes in {file_bytes} bytes")
            header: dict[str, Any] = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        data_bytes = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    if 8 + header_bytes + data_bytes != file_bytes:
        raise CheckpointError(
            f"{path} has {file_bytes} bytes, but its header describes "
            f"{8 + header_bytes + data_bytes}; the download was probably interrupted, fetch it "
            f"again"
        )
    return shapes
