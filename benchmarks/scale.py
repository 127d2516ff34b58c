"""Many rows through the fake engine, beside plain Ray Data: rows per second, and driver memory.

    python -m benchmarks.scale [--rows 200000] [--shards 5] [--side 0]

One job in several shards, and after each of its shards the same rows through plain Ray Data, in
turns, on the same cluster: `map_batches` that fetches, decodes, tokenises, `map_batches` with the
fake engine in an actor, `write_parquet`; with as many rows and blocks, and the same calls for each
row, but neither log nor lineage nor error rows. Plain Ray Data runs in a process of its own, so
that the memory of the driver is that of the job alone; a shard's clock runs from its plan to its
last commit, the other's from the read to the last file. ``--side 0`` asks texts without a picture,
which is the least work per row, hence the worst case; else each row names one of 64 JPEGs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.results import write_results

_NUM_PICTURES = 64
_PROMPT = "Describe the image."
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--side", type=int, default=0, help="edge of the JPEGs; 0 for texts alone")
    parser.add_argument("--rows-per-batch", type=int, default=16)
    parser.add_argument(
        "--plain-shards", type=int, help="let plain Ray Data run after so many shards only"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_manifest(folder, args.rows, args.side)
        figures = _measure(folder, args)
    for name, value in figures.items():
        if name != "by_shard":
            print(f"{name:32s} {value}", flush=True)
    write_results("scale", {**vars(args), **figures})


def _measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    from dsvl_pipeline.run.run import run_job
    from dsvl_pipeline.run.shard import ShardRun

    by_shard: list[dict[str, float]] = []
    blocks_mib: list[tuple[int, float]] = []
    run_shard, advance = ShardRun.run, ShardRun._advance

    def timed(self: Any) -> int:
        blocks_mib.clear()
        before, started = _rss_mib(), time.perf_counter()
        rows = run_shard(self)
        ours_s = time.perf_counter() - started
        after = _rss_mib()
        plain_s = None
        if args.plain_shards is None or len(by_shard) < args.plain_shards:
            plain_s = _plain_in_own_process(folder, self, args.rows_per_batch)["seconds"]
        blocks = -(-rows // args.rows_per_batch)
        # From a tenth of its blocks on: the first ones pay for what every Dataset needs.
        early = next((mib for done, mib in blocks_mib if done >= rows / 10), before)
        shard = {
            "rows": rows,
            "ours_s": ours_s,
            **({"plain_s": plain_s, "ratio": plain_s / ours_s} if plain_s else {}),
            "rss_before_mib": before,
            "rss_peak_mib": max((mib for _, mib in blocks_mib), default=after),
            "rss_after_mib": after,
            "kib_per_block": (max((m for _, m in blocks_mib), default=after) - early)
            * 1024
            / (blocks * 0.9),
        }
        by_shard.append(shard)
        print({name: round(value, 2) for name, value in shard.items()}, flush=True)
        return rows

    def watched(self: Any) -> None:
        advance(self)
        blocks_mib.append((self._num_rows, _rss_mib()))

    ShardRun.run, ShardRun._advance = timed, watched  # type: ignore[method-assign]
    summary = run_job(_job(folder, args))
    assert summary.rows_new == args.rows == summary.ok + summary.degraded, summary
    both = [shard for shard in by_shard if "plain_s" in shard]
    rows, ours_s, plain_s = (
        sum(shard[name] for shard in both) for name in ("rows", "ours_s", "plain_s")
    )
    rates = both and {
        "ratio to plain Ray Data": round(plain_s / ours_s, 3),
        "rows/s beside plain Ray Data": round(rows / ours_s, 1),
        "rows/s of plain Ray Data": round(rows / plain_s, 1),
    }
    return {
        **(rates or {}),
        "rows/s": round(args.rows / sum(shard["ours_s"] for shard in by_shard), 1),
        "rss after shard 2, MiB": round(by_shard[1]["rss_after_mib"], 1),
        "rss after the last shard, MiB": round(by_shard[-1]["rss_after_mib"], 1),
        "growth from shard 2": round(
            by_shard[-1]["rss_after_mib"] / by_shard[1]["rss_after_mib"] - 1, 4
        ),
        "most KiB per block": round(max(shard["kib_per_block"] for shard in by_shard), 1),
        "by_shard": by_shard,
    }


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / (1 << 20)


def _write_manifest(folder: Path, rows: int, side: int) -> None:
    columns: dict[str, list[str]] = {"id": [f"row-{number:08d}" for number in range(rows)]}
    if side:
        random = np.random.default_rng(0)
        for number in range(_NUM_PICTURES):
            pixels = random.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
        columns["image"] = [f"{number % _NUM_PICTURES}.jpg" for number in range(rows)]
    else:
        columns["question"] = [f"What is number {number}?" for number in range(rows)]
    pq.write_table(pa.table(columns), folder / "manifest.parquet")


def _job(folder: Path, args: argparse.Namespace) -> Any:
    from dsvl_pipeline.job.config import JobConfig

    asked = {"image": "image"} if args.side else {"prompt": "question"}
    return JobConfig.model_validate(
        {
            "name": "benchmark",
            "input": {
                "manifest": str(folder / "manifest.parquet"),
                "columns": {"id": "id", **asked},
            },
            "prompts": [{"id": "caption", "text": _PROMPT}] if args.side else [],
            "model": {"checkpoint": "demo"},
            "output": {"uri": str(folder / "table"), "num_shards": args.shards},
            "engine": {"kind": "fake"},
            "cluster": {"cpus_per_engine": 0.1, "rows_per_batch": args.rows_per_batch},
        }
    )


def _plain_in_own_process(folder: Path, shard_run: Any, rows_per_batch: int) -> dict[str, float]:
    import ray

    from dsvl_pipeline.stages import work_files

    plan, config = shard_run._plan, shard_run._prepared.config
    files = [folder / f"plain-{plan.shard}-{n}.parquet" for n in range(len(plan.work_files))]
    for uri, file in zip(plan.work_files, files, strict=True):
        pq.write_table(work_files.read(uri, plan.work_key), file, compression="zstd")
    scale = shard_run._prepared.scale
    task = {
        "address": ray.get_runtime_context().gcs_address,
        "job": config.job.model_dump(mode="json"),
        "work_files": list(map(str, files)),
        "rows_per_batch": rows_per_batch,
        "in_flight": scale.batches_in_flight,
        "output": str(folder / f"plain-{plan.shard}"),
    }
    path = folder / "plain.json"
    path.write_text(json.dumps(task))
    command = [sys.executable, "-m", "benchmarks.plain_ray_data", str(path)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
