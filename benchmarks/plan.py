"""A plan of a million manifest rows: seconds and memory, first, again, and with rows changed.

    python -m benchmarks.plan [--rows 1000000] [--shards 5] [--changed 1000]

Makes a Parquet manifest (an id, a URI and a sha256 each, so that nothing is asked of a store),
plans it for a new table, commits an answer to every row the way workers do, runs the job again,
changes the digests of some rows, plans, and runs those. Each step is one process of its own, from
its import to its end, Ray's start included; its peak of resident memory is the kernel's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.results import write_results

_NUM_PICTURES = 64
_ROWS_PER_PART = 2000
_ROWS_PER_GROUP = 100_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=5, help="of the table")
    parser.add_argument("--changed", type=int, default=1000, help="rows with another digest")
    parser.add_argument("--step", choices=("commit", "plan", "run"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        _STEPS[args.step](args.folder, args.shards)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {"rows": args.rows, "shards": args.shards}
        (folder / "product-photos").mkdir()
        for number in range(_NUM_PICTURES):
            picture = Image.new("RGB", (32, 32), (number, 2 * number, 3 * number))
            picture.save(folder / "product-photos" / f"{number:010d}.jpg")
        _write_manifest(folder, args.rows)
        for label, step in (("first plan", "plan"), ("all rows answered", "commit")):
            figures[label] = _in_own_process(label, step, folder, args.shards)
        figures["run of nothing"] = _in_own_process("run of nothing", "run", folder, args.shards)
        _write_manifest(folder, args.rows, num_changed=args.changed)
        label = f"plan of {args.changed} changed"
        figures["plan of changed"] = _in_own_process(label, "plan", folder, args.shards)
        found = figures["plan of changed"]["rows_to_run"]
        assert found == args.changed, f"{found} rows are to run, not {args.changed}"
        label = f"run of {args.changed} changed"
        figures["run of changed"] = _in_own_process(label, "run", folder, args.shards)
        found = figures["run of changed"]["rows_run"]
        assert found == args.changed, f"{found} rows were run, not {args.changed}"
    write_results("plan", figures)


def _in_own_process(label: str, step: str, folder: Path, shards: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.plan", "--step", step]
    command += ["--folder", str(folder), "--shards", str(shards)]
    started = time.perf_counter()
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds = time.perf_counter() - started
    figures: dict[str, Any] = {"seconds": round(seconds, 1), **json.loads(output.splitlines()[-1])}
    shown = ", ".join(f"{name} {value}" for name, value in figures.items())
    print(f"{label:24s} {shown}", flush=True)
    return figures


def _write_manifest(folder: Path, rows: int, *, num_changed: int = 0) -> None:
    random = np.random.default_rng(0)
    changed = set(np.random.default_rng(1).choice(rows, num_changed, replace=False).tolist())
    schema = pa.schema([("sku", pa.string()), ("image_uri", pa.string()), ("sha256", pa.string())])
    with pq.ParquetWriter(folder / "manifest.parquet", schema, compression="zstd") as writer:
        for start in range(0, rows, _ROWS_PER_GROUP):
            numbers = range(start, min(start + _ROWS_PER_GROUP, rows))
            digests = [random.bytes(32).hex() for _ in numbers]
            for number in changed.intersection(numbers):
                digests[number - start] = f"{number:064x}"
            columns = [
                [f"SKU-{number:010d}" for number in numbers],
                [f"{folder}/product-photos/{n % _NUM_PICTURES:010d}.jpg" for n in numbers],
                digests,
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _job(folder: Path, shards: int) -> Any:
    from dsvl_pipeline.job.config import JobConfig

    return JobConfig.model_validate(
        {
            "name": "benchmark",
            "input": {
                "manifest": str(folder / "manifest.parquet"),
                "columns": {"id": "sku", "image": "image_uri", "sha256": "sha256"},
            },
            "prompts": [{"id": "caption", "text": "Describe the image."}],
            "model": {"checkpoint": "demo"},
            "output": {"uri": str(folder / "table"), "num_shards": shards},
            "engine": {"kind": "fake"},
            "cluster": {"cpus_per_engine": 0.1},
        }
    )


def _plan(folder: Path, shards: int) -> None:
    """Plan, and leave the table as it was."""
    from dsvl_pipeline.run.prepare import prepare

    started = time.perf_counter()
    prepared = prepare(_job(folder, shards), limit=None, is_fresh=False, stop=threading.Event())
    prepared.close()
    _report(prepare_s=time.perf_counter() - started, rows_to_run=_rows_to_run(prepared))


def _rows_to_run(prepared: Any) -> int:
    return sum(shard.num_rows for shard in prepared.shards)


def _run(folder: Path, shards: int) -> None:
    from dsvl_pipeline.run.run import run_job

    summary = run_job(_job(folder, shards))
    _report(
        run_s=summary.seconds, rows_run=summary.rows_new, rows_up_to_date=summary.rows_up_to_date
    )


def _commit(folder: Path, shards: int) -> None:
    """Answer the rows of a plan without reading a picture: parts and receipts as a run has them."""
    from dsvl_pipeline.run.prepare import prepare
    from dsvl_pipeline.stages import answers
    from dsvl_pipeline.table import part

    prepared = prepare(_job(folder, shards), limit=None, is_fresh=False, stop=threading.Event())
    for plan in prepared.shards:
        receipts = []
        for rows in _batches(plan):
            answered = answers.output_rows(
                rows, _answers(rows.num_rows), prepared.config, "fake", 1
            )
            receipts.append(
                part.write_part(
                    prepared.writer.uri,
                    answered,
                    shard=plan.shard,
                    lease=prepared.writer.lease_number,
                    metadata=prepared.part_metadata,
                )
            )
            if len(receipts) == 10:
                prepared.writer.commit(receipts)
                receipts = []
        prepared.writer.commit(receipts)
    expected = {shard.shard: shard.num_rows for shard in prepared.shards}
    prepared.end("done", expected, {}, {}, stop=threading.Event())
    prepared.close()
    _report(rows_run=_rows_to_run(prepared))


def _batches(plan: Any) -> Iterator[pa.Table]:
    from dsvl_pipeline.stages import work_files

    for uri in plan.work_files:
        rows = work_files.read(uri, plan.work_key)
        for start in range(0, rows.num_rows, _ROWS_PER_PART):
            yield rows.slice(start, _ROWS_PER_PART)


def _answers(count: int) -> dict[int, Any]:
    from dsvl_pipeline.records import Completion

    one = Completion(
        request_id="",
        completion_ids=np.zeros(16, np.int32),
        text="a small red table beside two large green lamps with lines of words above",
        finish_reason="stop",
        num_prompt_tokens=600,
        timings={"finished_s": 1.0},
    )
    return dict.fromkeys(range(count), one)


def _report(**figures: float) -> None:
    figures = {n: round(v, 1) if isinstance(v, float) else v for n, v in figures.items()}
    used = resource.getrusage(resource.RUSAGE_SELF)
    # What it would take with the cores to itself: they may be shared while this runs.
    figures["cpu_s"] = round(used.ru_utime + used.ru_stime, 1)
    print(json.dumps({**figures, "peak_rss_mib": round(used.ru_maxrss / 1024)}))


_STEPS = {"plan": _plan, "run": _run, "commit": _commit}


if __name__ == "__main__":
    main()
