"""Everything a run needs before its first row: checked in the order in which it is cheap."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass
from typing import Any

from dsvl_pipeline.table.writer import TableWriter

from dsvl_pipeline import hub, keys, storage
from dsvl_pipeline.config import JobConfig
from dsvl_pipeline.pipeline import plan, settings
from dsvl_pipeline.pipeline.plan import ShardPlan, Spool
from dsvl_pipeline.pipeline.preprocess import StageConfig
from dsvl_pipeline.pipeline.settings import Scale
from dsvl_pipeline.sources.open import open_input
from dsvl_pipeline.table import reader

TRANSFORM_VERSION = "1"
"""Raised when preprocessing changes what the model sees; every row then runs again."""


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A run ready to go. ``close`` gives back what it holds.

    Attributes:
        run_id: Of this run.
        config: For the stages.
        scale: What of the cluster is used.
        writer: Holds the table's lease.
        shards: What is missing, shard by shard.
        metadata: Key-value metadata of every part.
        manifest: The run manifest as stored, without its end.
        is_random_weights: Whether the checkpoint was never trained.
    """

    run_id: str
    config: StageConfig
    scale: Scale
    writer: TableWriter
    shards: list[ShardPlan]
    metadata: dict[str, str]
    manifest: dict[str, Any]
    is_random_weights: bool

    def finish(self, status: str) -> None:
        """Clean up after a good end: work files and unlogged parts go, the lease is released."""
        storage.delete(uri for shard in self.shards for uri in shard.work_files)
        self.writer.finish()

    def close(self) -> None:
        """Give the lease back, whatever happened."""
        self.writer.close()


def prepare(job: JobConfig, *, limit: int | None, is_fresh: bool) -> Prepared:
    """Check the job, take the table's lease and plan.

    Raises:
        ConfigError: The checkpoint, the input, the output or the cluster is not what the job says.
        LeaseError: Another driver works on the table.
    """
    checkpoint = hub.resolve(job.model.checkpoint, job.model.revision)
    source = open_input(job.input)
    settings.connect(job)
    settings.configure(job.name)
    scale = settings.scale_of(job)
    run_id = f"{uuid.uuid4().hex[:12]}"
    recipe_parts = _recipe(job, checkpoint, scale)
    recipe = keys.recipe_digest(recipe_parts)
    rows = itertools.islice(source.rows(), limit)
    spool = Spool(rows, job.prompts, recipe, source.carry_schema)
    try:
        wanted_shards = job.output.num_shards
        if wanted_shards == "auto":
            wanted_shards = plan.num_shards_for(spool.num_rows)
        writer = TableWriter.open(job.output.uri, num_shards=wanted_shards, run_id=run_id)
        try:
            shards = [
                plan.plan_shard(
                    shard,
                    wanted,
                    reader.committed_keys(job.output.uri, shard),
                    recipe=recipe,
                    work_uri=storage.join(job.output.uri, "_dsvl", "plan", run_id, f"{shard:05d}"),
                    is_fresh=is_fresh,
                )
                for shard, wanted in spool.shards(writer.num_shards)
            ]
        except BaseException:
            writer.close()
            raise
    finally:
        spool.close()
