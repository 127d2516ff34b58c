"""What `benchmarks.scale` compares with: the same work in plain Ray Data, in a process of its own.

Reads a task from the JSON file that it is given, and prints seconds and files as JSON.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext

from dsvl_pipeline import hub
from dsvl_pipeline.engine.fake import FakeEngine
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.processor import decode
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import Request
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.stages.rows import image_columns, images_of


def run(path: Path) -> None:
    """Read work files, answer their rows, write Parquet, and say how long it took."""
    task = json.loads(path.read_text())
    job = JobConfig.model_validate(task["job"])
    ray.init(address=task["address"], log_to_driver=False)
    DataContext.get_current().enable_progress_bars = False
    names = ["row_id", "prompt"] + (["sources"] if job.prompts else [])
    started = time.perf_counter()
    dataset = ray.data.read_parquet(list(task["work_files"])).select_columns(names)
    dataset = dataset.repartition(target_num_rows_per_block=task["rows_per_batch"])
    dataset = dataset.map_batches(
        functools.partial(prepare, job_json=job.model_dump_json()),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=1,
        memory=256 << 20,
    )
    dataset = dataset.map_batches(
        Answer,
        fn_constructor_kwargs={"job_json": job.model_dump_json()},
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=4),
        num_cpus=job.cluster.cpus_per_engine,
    )
    dataset.write_parquet(task["output"])
    seconds = time.perf_counter() - started
    written = pq.read_table(task["output"], columns=["row_id", "text"])
    wanted = sum(pq.read_metadata(uri).num_rows for uri in task["work_files"])
    assert written.num_rows == wanted, f"{written.num_rows} of {wanted} rows"
    num_files = sum(1 for _ in Path(task["output"]).iterdir())
    print(json.dumps({"seconds": seconds, "files": num_files}))


@functools.lru_cache(maxsize=1)
def _tools(job_json: str) -> Any:
    job = JobConfig.model_validate_json(job_json)
    return Processor.from_pretrained(hub.resolve("demo")), Fetcher(job.input)


def prepare(batch: pa.Table, *, job_json: str) -> pa.Table:
    """Fetch, decode and tokenise, with the calls of the pipeline's own stage."""
    processor, fetcher = _tools(job_json)
    prompt_ids, images = [], []
    for row in batch.to_pylist():
        pictures = [decode.decode(fetcher.read(uri).data) for uri in row.get("sources", ())]
        content: list[dict[str, str]] = [{"type": "image"} for _ in pictures]
        content.append({"type": "text", "text": row["prompt"]})
        prompt_ids.append(processor.prompt_ids([{"role": "user", "content": content}]))
        images.append(tuple(processor.image(picture) for picture in pictures))
    batch = batch.append_column("prompt_ids", pa.array(prompt_ids, pa.list_(pa.int32())))
    for name, column in image_columns(images).items():
        batch = batch.append_column(name, column)
    return batch


class Answer:
    """The fake engine in an actor."""

    def __init__(self, *, job_json: str) -> None:
        job = JobConfig.model_validate_json(job_json)
        self._engine, self._sampling = FakeEngine(job.engine), job.generation

    def __call__(self, batch: pa.Table) -> pa.Table:
        asks = zip(batch["row_id"].to_pylist(), batch["prompt_ids"], images_of(batch), strict=True)
        completions = self._engine.generate(
            [
                Request(
                    request_id=row_id,
                    prompt_ids=ids.values.to_numpy(),
                    images=images,
                    sampling=self._sampling,
                )
                for row_id, ids, images in asks
            ]
        )
        kept = batch.drop_columns(["prompt_ids", "digests", "low_res"])
        kept = kept.drop_columns([n for n in ("high_res",) if n in kept.column_names])
        return kept.append_column("text", pa.array([c.text for c in completions])).append_column(
            "num_completion_tokens", pa.array([len(c.completion_ids) for c in completions])
        )


if __name__ == "__main__":
    # By its name, so that workers import it and do not get it pickled.
    from benchmarks import plain_ray_data

    plain_ray_data.run(Path(sys.argv[1]))
