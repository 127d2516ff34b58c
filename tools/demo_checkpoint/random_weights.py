"""Write the demo checkpoint with seeded random weights: the placeholder until one is trained.

python -m tools.demo_checkpoint.random_weights dsvl_pipeline/demo/checkpoint
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import DeepseekVLHybridForConditionalGeneration

from tools.demo_checkpoint import files


def write(directory: Path) -> None:
    """Write config, tokenizer, processor and bfloat16 weights to a directory."""
    torch.manual_seed(0)
    model = DeepseekVLHybridForConditionalGeneration(files.config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or "alpha" in name:  # zero at initialisation: would hide mistakes
                parameter.normal_(0, 0.2)
    model.config.random_weights = True  # read by hub.is_random_weights: users are told
    model.to(torch.bfloat16).save_pretrained(directory)
    files.processor().save_pretrained(directory)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
