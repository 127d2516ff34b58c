"""Warming up: it must run whatever the real engine runs, without the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dsvl_pipeline.engine.device.warm_up import warm_up
from dsvl_pipeline.records import EngineConfig
from tests.checkpoints import write_checkpoint


@pytest.mark.parametrize("is_hybrid", [True, False], ids=["hybrid", "single"])
def test_a_checkpoint_without_weights_is_enough(tmp_path: Path, is_hybrid: bool) -> None:
    """They are being loaded meanwhile."""
    write_checkpoint(tmp_path, is_hybrid=is_hybrid)
    (tmp_path / "model.safetensors").unlink()
    warm_up(tmp_path, EngineConfig(), dtype=torch.float32, device=torch.device("cpu"))
