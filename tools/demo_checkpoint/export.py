"""Make a checkpoint of a training's state: bfloat16 weights under the hub's names.

The head that names cells stays behind.

python -m tools.demo_checkpoint.export STATE CHECKPOINT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from dsvl_pipeline.model import checkpoint
from dsvl_pipeline.model.config import read_model_config
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.names import dialect_names
from tools.demo_checkpoint import shape, state
from tools.demo_checkpoint.optimizer import Optimizer
from tools.demo_checkpoint.reader import Reader

MOST_BYTES = 16_000_000


def export(state_directory: Path, directory: Path) -> None:
    """Write a saved training as a checkpoint.

    Raises:
        FileNotFoundError: Nothing is saved there.
        ValueError: The state is of another model, or the files would be too large.
    """
    shape.write(directory)
    reader = Reader(read_model_config(directory), seed=0)
    if state.load(state_directory, Optimizer(reader)) is None:
        raise FileNotFoundError(f"{state_directory} holds no saved training; train first")
    write_weights(reader.model, directory)


def write_weights(model: DeepseekVL, directory: Path) -> None:
    """Write the weights beside the files that `shape.write` wrote.

    Raises:
        ValueError: All files together are larger than `MOST_BYTES`.
    """
    names = dialect_names((), is_hybrid=True)
    parameters = dict(model.named_parameters())
    stored = {
        # loading reads the same table in the other direction
        name: parameters[target.parameter].detach()[target.rows].to("cpu", torch.bfloat16).clone()
        for name, target in checkpoint.list_targets(model, names)
    }
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    num_bytes = sum(path.stat().st_size for path in directory.iterdir())
    if num_bytes > MOST_BYTES:
        raise ValueError(
            f"{directory} holds {num_bytes} bytes, more than {MOST_BYTES}; lower the sizes in "
            f"shape.CONFIG"
        )


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
