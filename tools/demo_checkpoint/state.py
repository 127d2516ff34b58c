"""The state of a training, in files of at most 14 MiB: weights in float32, moments in bfloat16."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tools.demo_checkpoint.optimizer import Optimizer

_PART_BYTES = 14 << 20
_INDEX = "state.json"
_DTYPES = {
    "weights": torch.float32,
    "momentum": torch.bfloat16,
    "mean": torch.bfloat16,
    "square": torch.bfloat16,
}


@dataclass(kw_only=True)
class Progress:
    """Where a training stands.

    Attributes:
        seed: Of everything drawn.
        num_steps: Steps taken.
        num_pages: Pictures seen by all ranks.
        level: Of the curriculum.
        steps_at_level: Steps since it was reached.
        skill: Share of an answer's tokens that were right, of late.
        seconds: Time spent, start-up included.
    """

    seed: int
    num_steps: int = 0
    num_pages: int = 0
    level: int = 0
    steps_at_level: int = 0
    skill: float = 0.0
    seconds: float = 0.0


def save(directory: Path, optimizer: Optimizer, progress: Progress) -> None:
    """Replace the state in a directory; an interruption leaves the former one."""
    directory.mkdir(parents=True, exist_ok=True)
    buffers = [_bytes(getattr(optimizer, name), dtype) for name, dtype in _DTYPES.items()]
    body = torch.cat(buffers).numpy().tobytes()
    names = []
    for index, start in enumerate(range(0, len(body), _PART_BYTES)):
        names.append(f"state-{progress.num_steps:06}-{index}.bin")
        (directory / names[-1]).write_bytes(body[start : start + _PART_BYTES])
    contents = {"parts": names, "progress": asdict(progress), "layout": optimizer.layout}
    unfinished = directory / f"{_INDEX}.new"
    unfinished.write_text(json.dumps(contents), encoding="utf-8")
    unfinished.replace(directory / _INDEX)
    for path in directory.glob("state-*.bin"):
        if path.name not in names:
            path.unlink()


def peek(directory: Path) -> Progress | None:
    """Say where the training saved in a directory stands; None where nothing was saved."""
    index = directory / _INDEX
    if not index.exists():
        return None
    return Progress(**json.loads(index.read_text(encoding="utf-8"))["progress"])


def load(directory: Path, optimizer: Optimizer) -> Progress | None:
    """Fill an optimizer, and with it its module; None where nothing was saved.

    Raises:
        ValueError: The state is of a model of another shape, or incomplete.
    """
    progress = peek(directory)
    if progress is None:
        return None
    contents = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
    layout = [(name, tuple(shape)) for name, shape in contents["layout"]]
    body = b"".join((directory / name).read_bytes() for name in contents["parts"])
    sizes = {
        name: getattr(optimizer, name).numel() * dtype.itemsize for name, dtype in _DTYPES.items()
    }
    if layout != optimizer.layout or len(body) != sum(sizes.values()):
        raise ValueError(
            f"{directory}: the saved state ({len(body)} bytes) is of another model than this one "
            f"({sum(sizes.values())} bytes); give an empty directory to start anew"
        )
    stored, start = torch.frombuffer(bytearray(body), dtype=torch.uint8), 0
    for name, dtype in _DTYPES.items():
        getattr(optimizer, name).copy_(stored[start : start + sizes[name]].view(dtype))
        start += sizes[name]
    optimizer.num_steps = progress.num_steps
    return progress


def _bytes(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.detach().to(device="cpu", dtype=dtype).view(torch.uint8)
