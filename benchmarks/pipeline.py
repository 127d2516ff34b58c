"""Small JPEGs through the CPU stage and the fake engine: rows per second, and where time goes.

    python -m benchmarks.pipeline [--rows 5000] [--side 256]

In one run: first every file goes through fetch, decoding and the processor in one plain process,
which gives the cost of each; then the same files go through the whole pipeline on Ray. The share
of a part is its cost over all cores' time of the pipeline run; what is left is Ray, the writing
of the table, and cores that waited. Starting Ray and planning are reported apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.results import write_results
from dsvl_pipeline import hub
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.processor import decode
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.run.progress import Progress
from dsvl_pipeline.run.run import run_job
from dsvl_pipeline.sources.fetch import Fetcher


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000, help="number of JPEGs")
    parser.add_argument("--side", type=int, default=256, help="their edge in pixels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        _draw(images, args.rows, args.side)
        job = _job(images, Path(folder, "table"))
        cost = _plain(job.input, images)
        run = _pipeline(job)
    cores = os.cpu_count() or 1
    budget = run["running_s"] * cores
    shares = {name: seconds / budget for name, seconds in cost.items()}
    shares["ray, writing, waiting"] = 1 - sum(shares.values())
    print(f"{args.rows} JPEGs of {args.side} x {args.side}")
    print(f"plain process:  {args.rows / sum(cost.values()):7.1f} rows/s on 1 core")
    rate = args.rows / run["running_s"]
    print(f"pipeline:       {rate:7.1f} rows/s on {cores} cores, after {run['start_s']:.1f} s")
    for name, share in shares.items():
        print(f"  {name:24s} {share:6.1%}")
    write_results("pipeline", {"rows": args.rows, "side": args.side, "run": run, "share": shares})


def _draw(folder: Path, rows: int, side: int) -> None:
    """Seeded pictures with gradients and noise, so that decoding has something to do."""
    folder.mkdir()
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side]
    for number in range(rows):
        waves = [np.sin(x / random.uniform(5, 50) + y / random.uniform(5, 50)) for _ in range(3)]
        pixels = 127 + 90 * np.stack(waves, -1) + random.normal(0, 8, (side, side, 3))
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:05d}.jpg", quality=90)


def _job(images: Path, output: Path) -> JobConfig:
    return JobConfig.model_validate(
        {
            "name": "benchmark",
            "input": {"images": f"{images}/*.jpg"},
            "prompts": [{"id": "caption", "text": "Describe the image."}],
            "model": {"checkpoint": "demo"},
            "output": {"uri": str(output)},
            "engine": {"kind": "fake"},
            "cluster": {"cpus_per_engine": 0.1},
        }
    )


def _plain(source: InputConfig, images: Path) -> dict[str, float]:
    """Seconds spent in each part, one process, one file after another."""
    processor = Processor.from_pretrained(hub.resolve("demo"))
    fetcher = Fetcher(source)
    content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
    seconds = {"fetch": 0.0, "decode": 0.0, "processor": 0.0}
    for path in sorted(images.iterdir()):
        started = time.perf_counter()
        data = fetcher.read(str(path)).data
        fetched = time.perf_counter()
        picture = decode.decode(data)
        decoded = time.perf_counter()
        processor.image(picture)
        processor.prompt_ids([{"role": "user", "content": content}])
        seconds["fetch"] += fetched - started
        seconds["decode"] += decoded - fetched
        seconds["processor"] += time.perf_counter() - decoded
    return seconds


def _pipeline(job: JobConfig) -> dict[str, float]:
    """Seconds until the first result, from then to the end, and in all."""
    first: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.rows_done and not first:
            first.append(progress.elapsed_s)

    summary = run_job(job, on_progress=watch)
    assert summary.ok + summary.degraded == summary.rows_new, summary
    return {
        "start_s": first[0],
        "running_s": summary.seconds - first[0],
        "seconds": summary.seconds,
    }


if __name__ == "__main__":
    main()
