"""Jobs for tests: manifests of small pictures, answered by the fake engine."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.store import objects


def jpeg(seed: int, side: int = 24) -> bytes:
    """A small picture of its own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "JPEG")
    return body.getvalue()


def write_manifest(
    folder: str, num_rows: int, *, num_images: int = 8, first: int = 0
) -> dict[str, Any]:
    """Write pictures and a JSONL manifest that names them again and again.

    Returns:
        The job's ``input`` section.
    """
    for number in range(num_images):
        # A picture that was written again counts as changed.
        objects.put_if_absent(objects.join(folder, f"{number}.jpg"), jpeg(number))
    lines = [
        json.dumps({"id": f"row-{n:05d}", "image": f"{n % num_images}.jpg", "group": f"g{n % 3}"})
        for n in range(first, first + num_rows)
    ]
    objects.put(objects.join(folder, "manifest.jsonl"), "\n".join(lines).encode())
    return {
        "manifest": objects.join(folder, "manifest.jsonl"),
        "columns": {"id": "id", "image": "image"},
        "carry": ["group"],
    }


def fake_job(source: dict[str, Any], output: str, **fake: Any) -> dict[str, Any]:
    """A job of the fake engine, as a job file holds it."""
    return {
        "name": "test",
        "input": source,
        "prompts": [{"id": "caption", "text": "Describe the image."}],
        "model": {"checkpoint": "demo"},
        "generation": {"max_new_tokens": 16},
        "output": {"uri": output},
        "engine": {"kind": "fake", "fake": {"mean_completion_tokens": 8, **fake}},
        "cluster": {"cpus_per_engine": 0.1},
    }


def parse(job: dict[str, Any]) -> JobConfig:
    """Check a job as `load_job` does."""
    return JobConfig.model_validate(job)


def plain_rows(table_uri: Path) -> pa.Table:
    """What a tool that knows nothing of the log sees."""
    import pyarrow.dataset

    return pyarrow.dataset.dataset(table_uri / "data", format="parquet").to_table()
