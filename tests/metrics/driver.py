"""A driver with something to see: 150 rows and a broken one, an engine that dies once, an orphan.

    python -m tests.metrics.driver FOLDER METRICS_PORT

It prints the run's summary as a line of JSON, and lives on until its standard input ends.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import ray

from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.run import commits, watch
from dsvl_pipeline.run.run import run_job
from dsvl_pipeline.table.format import create_format
from tests.jobs import fake_job, parse, write_manifest
from tests.quick_ray import quick_ray


def main(folder: Path, port: int) -> None:
    """Run the job on a Ray that offers its metrics at a port."""
    watch.LOOK_EVERY_S = 0.3
    commits.COMMIT_EVERY_S = 1.0
    with quick_ray(has_metrics=True):
        ray.init(
            address="local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            _metrics_export_port=port,
            _system_config={"metrics_report_interval_ms": 1000},
        )
    print(json.dumps(asdict(run_job(job(folder)))), flush=True)  # noqa: T201
    sys.stdin.read()


def job(folder: Path) -> JobConfig:
    """The job, over a table in which a killed run left a part."""
    source = write_manifest(str(folder / "in"), 150)
    with (folder / "in" / "manifest.jsonl").open("a") as file:
        file.write('\n{"id": "broken", "image": "nowhere.jpg", "group": "g0"}')
    create_format(str(folder / "out"), num_shards=1)
    orphan = folder / "out" / "data" / "00000" / f"{1:08d}-{'0' * 32}.parquet"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"what a killed run left")
    (folder / "crashes").mkdir()
    # With this seed one row of the 150 kills its engine. Each takes its time: gauges are looked at
    # every second, and on a busy machine not even that.
    fake = {"mean_delay_s": 1.0, "crash_rate": 0.003, "seed": 3}
    values = fake_job(source, str(folder / "out"), crash_dir=str(folder / "crashes"), **fake)
    values["cluster"] |= {"batches_in_flight": 2}
    values["output"] |= {"seconds_per_part": 2}
    return parse(values)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
