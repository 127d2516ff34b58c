"""Which tensors a checkpoint directory holds, from the safetensors headers alone. Torch-free."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.hub import weight_files
from dsvl_pipeline.model.json_files import read_json

_INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_NOT_A_HEADER = (
    struct.error,
    RecursionError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies, its shape, and its dtype in the format's own words (``BF16``).

    Attributes:
        file: That holds it.
        start: First byte in the file.
        num_bytes: In the file.
        shape: Of the tensor.
        dtype: Of its elements.
    """

    file: Path
    start: int
    num_bytes: int
    shape: tuple[int, ...]
    dtype: str


def list_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a checkpoint, of one file or of shards.

    Raises:
        CheckpointError: There are no safetensors, a shard is missing, or a file is cut off.
    """
    files = weight_files(directory)
    # The index decides where shards of two exports hold tensors of one name.
    is_single = not (directory / _INDEX).exists() or len(files) == 1
    weight_map = {} if is_single else read_json(directory / _INDEX)["weight_map"]
    return {
        name: tensor
        for file in files
        for name, tensor in _read_header(file).items()
        if Path(weight_map.get(name, file.name)).name == file.name
    }


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """Return what a file's header lists, after checking that the file is whole.

    Source: the safetensors format: 8 bytes of length, JSON, then the data.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > min(file_bytes, _MAX_HEADER_BYTES):
                raise ValueError(f"a header of {header_bytes} bytes in {file_bytes} bytes")
            header: dict[str, Any] = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            begin, end = map(int, entry["data_offsets"])
            tensors[name] = StoredTensor(
                file=path,
                start=8 + header_bytes + begin,
                num_bytes=end - begin,
                shape=tuple(entry["shape"]),
                dtype=str(entry["dtype"]),
            )
        data_bytes = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch it again") from error
    except _NOT_A_HEADER as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    if 8 + header_bytes + data_bytes != file_bytes:
        raise CheckpointError(
            f"{path} has {file_bytes} bytes, but its header describes "
            f"{8 + header_bytes + data_bytes}; the download was probably interrupted, fetch it "
            f"again"
        )
    return tensors
