"""What changes the results of every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.model.end_of_sequence import EndOfSequence

TRANSFORM = "1"
"""Raised when preprocessing changes what the model sees; every row then runs again."""


def recipe_parts(
    job: JobConfig, model: Mapping[str, Any], ends: EndOfSequence | None = None
) -> dict[str, Any]:
    """Return what changes the results of every row; how documents are rendered is in their keys.

    Where a checkpoint lies does not, its bytes do. Drafts, graphs and shared prefixes do not: they
    change how long an answer takes. What ends answers is named only where generation_config.json
    alone would end others: such rows were wrong once, the others need not run again.
    """
    mended = {}
    if ends is not None and ends.has_mended_eos:
        mended = {"eos_token_ids": sorted(ends.eos_token_ids)}
    return mended | {
        "model": {name: value for name, value in model.items() if name != "model"},
        "generation": asdict(job.generation),
        "quantization": job.engine.quantization,
        "transform": TRANSFORM,
        "fake": asdict(job.engine.fake) if job.engine.fake else job.engine.kind == "fake",
    }
