"""What a killed driver costs: rows that were answered, but not committed.

    python -m benchmarks.resume [--kills 3] [--rows 100000]

Runs a job of the fake engine with a cluster of its own, kills the driver and all of the cluster
with SIGKILL at a random time, and compares what had come out of the graph with what the log names;
then the same command again, with the next kill. ``lost_s`` is how long before the kill the last
committed row had come out: the most that a kill may cost is output.seconds_per_part (30 s), and
the rows that were in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.results import write_results

_DRIVER = """
import json, sys, time
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.run.run import run_job
with open(sys.argv[2], "w", buffering=1) as file:
    run_job(
        JobConfig.model_validate(json.loads(sys.argv[1])),
        on_progress=lambda p: print(time.time(), p.rows_done, file=file),
    )
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as name:
        kills = [_kill(Path(name), args.rows) for _ in range(args.kills)]
    print(f"most lost: {max(kill['lost_s'] for kill in kills)} s")
    write_results("resume", {"rows": args.rows, "seed": args.seed, "kills": kills})


def _kill(folder: Path, rows: int) -> dict[str, Any]:
    """Run until a random time after the first answer, kill, and say what that cost."""
    from dsvl_pipeline.table.reader import counts

    job = _job(folder, rows)
    table = folder / "table"
    before = counts(str(table)).total if table.exists() else 0
    log = folder / "progress"
    log.unlink(missing_ok=True)
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, json.dumps(job), str(log)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not any(done for _, done in _progress(log)):
            time.sleep(0.2)
            assert driver.poll() is None, f"the driver ended with {driver.returncode}"
        running_s = random.uniform(20, 60)
        time.sleep(running_s)
        assert driver.poll() is None, "the job was done before its kill; give more --rows"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    killed_s = time.time()
    driver.wait()
    committed = counts(str(table)).total - before
    seen = _progress(log)
    answered = seen[-1][1]
    # When as many rows had come out as were committed: what came later is what was lost.
    safe_s = max(at for at, done in seen if done <= committed)
    result = {
        "running_s": round(running_s, 1),
        "rows_answered": answered,
        "rows_committed": committed,
        "rows_lost": answered - committed,
        "lost_s": round(killed_s - safe_s, 1),
    }
    print(result, flush=True)
    return result


def _progress(log: Path) -> list[tuple[float, int]]:
    """Times, and rows that had come out of the graph by then; the last line may be torn."""
    if not log.exists():
        return []
    lines = log.read_text().split("\n")[:-1]
    return [(float(at), int(done)) for at, done in map(str.split, lines)]


def _job(folder: Path, rows: int) -> dict[str, Any]:
    manifest = folder / "manifest.parquet"
    if not manifest.exists():
        numbers = range(rows)
        columns = {
            "id": [f"row-{n:08d}" for n in numbers],
            "ask": [f"What is {n}?" for n in numbers],
        }
        pq.write_table(pa.table(columns), manifest)
    return {
        "name": "benchmark",
        "input": {"manifest": str(manifest), "columns": {"id": "id", "prompt": "ask"}},
        "model": {"checkpoint": "demo"},
        "output": {"uri": str(folder / "table")},
        "engine": {"kind": "fake"},
        "cluster": {"cpus_per_engine": 0.1},
    }


if __name__ == "__main__":
    main()
