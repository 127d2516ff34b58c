"""Weights to safetensors: one file, or shards with an index.

Source of the behaviour: ``save_pretrained``, transformers 5.23.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]

_UNITS = {"B": 1}
_UNITS.update({f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)})
_UNITS.update({f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)})
_WEIGHTS = re.compile(
    r"model(-\d{5}-of-\d{5})?(?P<variant>\.\w+)?\.safetensors"
    r"|model\.safetensors\.index(?P<of_index>\.\w+)?\.json"
)


def save_weights(
    tensors: Tensors, directory: Path, max_shard_size: int | str, variant: str | None = None
) -> None:
    """Write tensors into a directory, in the place of those that are there.

    Args:
        tensors: By name. What shares another's memory is left out: readers tie it again.
        directory: Which exists.
        max_shard_size: Most bytes of a file, unless one tensor takes more: a number, or text such
            as ``5GB``.
        variant: Part of the files' names.

    Raises:
        ValueError: The size is none.
    """
    shards = _deal(_without_copies(tensors), _num_bytes(max_shard_size))
    suffix = "" if variant is None else f".{variant}"
    files = {f"model{suffix}.safetensors": shards[0]}
    if len(shards) > 1:
        files = {
            f"model{suffix}-{number:05}-of-{len(shards):05}.safetensors": shard
            for number, shard in enumerate(shards, 1)
        }
    for name, shard in files.items():
        whole = {key: tensor.detach().contiguous() for key, tensor in shard.items()}
        # beside it first: what is there may be mapped into the memory of these very tensors
        save_file(whole, directory / f"{name}.new", metadata={"format": "pt"})
        (directory / f"{name}.new").replace(directory / name)
    index_name = f"model.safetensors.index{suffix}.json"
    # only now, and not what was saved as another variant
    for old in directory.iterdir():
        found = _WEIGHTS.fullmatch(old.name)
        is_wanted = old.name in files or (len(shards) > 1 and old.name == index_name)
        if found and not is_wanted and (found["variant"] or found["of_index"] or "") == suffix:
            old.unlink()
    if len(shards) > 1:
        index = _index(files)
        (directory / index_name).write_text(
            json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )


def _without_copies(tensors: Tensors) -> Tensors:
    kept: dict[tuple[int, tuple[int, ...], str], str] = {}
    for name, tensor in tensors.items():
        kept.setdefault((tensor.data_ptr(), tuple(tensor.shape), str(tensor.device)), name)
    return {name: tensors[name] for name in kept.values()}


def _deal(tensors: Tensors, most_bytes: int) -> list[dict[str, Tensor]]:
    """Fill one file after the other."""
    shards: list[dict[str, Tensor]] = [{}]
    free = most_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > free and shards[-1]:
            shards.append({})
            free = most_bytes
        shards[-1][name] = tensor
        free -= tensor.nbytes
    return shards


def _index(files: Mapping[str, Tensors]) -> dict[str, object]:
    tensors = [tensor for shard in files.values() for tensor in shard.values()]
    return {
        "metadata": {
            "total_parameters": sum(tensor.numel() for tensor in tensors),
            "total_size": sum(tensor.nbytes for tensor in tensors),
        },
        "weight_map": {name: file for file, shard in files.items() for name in shard},
    }


def _num_bytes(size: int | str) -> int:
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)", size.strip().upper())
    if found is None:
        raise ValueError(f"max_shard_size is {size!r}; it must be a number of bytes, or as '5GB'")
    return int(float(found[1]) * _UNITS[found[2]])
