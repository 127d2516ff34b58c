"""What a job asks for, before anyone looks at its table."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from dsvl_pipeline import hub, keys
from dsvl_pipeline.cluster import connect
from dsvl_pipeline.cluster.connect import Scale
from dsvl_pipeline.errors import RunStoppedError
from dsvl_pipeline.job.config import JobConfig, check_grammars
from dsvl_pipeline.job.inputs import DocumentConfig
from dsvl_pipeline.job.places import absolute
from dsvl_pipeline.model.end_of_sequence import read_end_of_sequence
from dsvl_pipeline.plan import carried, compare, shard_plan
from dsvl_pipeline.plan.committed import Committed
from dsvl_pipeline.plan.compare import Comparison
from dsvl_pipeline.plan.recipe import recipe_parts
from dsvl_pipeline.plan.spool import Spool
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.open import Input, open_input
from dsvl_pipeline.table.schema import output_schema

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a job asks for, before anyone looks at its table.

    Attributes:
        job: With absolute paths; a password is still the name of its variable, if it was.
        checkpoint: Where the model lies.
        scale: What of the cluster is used.
        model: What answers, as lineage names it.
        recipe_parts: What changes the results of every row.
        carry_schema: Of the carried columns.
        source: The input, not yet read.
        rows: Its rows.
        warnings: What is suspicious of the checkpoint.
    """

    job: JobConfig
    checkpoint: Path
    scale: Scale
    model: dict[str, str | None]
    recipe_parts: dict[str, Any]
    carry_schema: pa.Schema
    source: Input
    rows: Iterator[Row]
    warnings: tuple[str, ...]

    @property
    def pinned_job(self) -> JobConfig:
        """The job for the workers, with the commit that a hub checkpoint's revision is now.

        A branch may move, and a node that comes later must not answer with other weights; nor has
        it the driver's environment.
        """
        job = self.job.with_password()
        name = job.model.checkpoint
        if hub.local_directory(name) is not None:
            return job
        # The hub's cache has a directory for each commit, of its name.
        model = job.model.model_copy(update={"revision": self.checkpoint.name})
        return job.model_copy(update={"model": model})

    @property
    def recipe(self) -> str:
        return keys.recipe_digest(self.recipe_parts)

    @property
    def asked(self) -> set[str]:
        """The prompt ids; the empty one is that of rows that are bad as they stand."""
        asked = {"", *(prompt.id for prompt in self.job.prompts)}
        return asked | {"column"} if self.job.input.columns.prompt else asked

    @property
    def schema(self) -> pa.Schema:
        """Of the rows that the job answers."""
        return output_schema(self.carry_schema, self.job.fields)

    def compare(
        self, rows: pa.Table, committed: pa.Table, *, is_fresh: bool, is_partial: bool
    ) -> Comparison:
        """Compare wanted rows of one shard with committed ones, as `compare.compare`.

        Args:
            rows: Of `rows.work_schema`.
            committed: What is committed of the shard.
            is_fresh: Whether everything runs again.
            is_partial: Whether not all input was read, so that nothing counts as vanished.
        """
        return compare.compare(
            rows,
            committed,
            recipe=self.recipe,
            asked=self.asked,
            is_fresh=is_fresh,
            drops_vanished=self.job.output.vanished == "drop" and not is_partial,
        )

    def find_carried(
        self, committed: Committed, rows: pa.Table, compared: Comparison, **how: Any
    ) -> carried.Found:
        """Find what does not carry what it should, as `carried.find`."""
        return carried.find(
            committed, rows, compared, carry=self.carry_schema, fields=self.job.fields, **how
        )

    def spool(self, rows: Iterable[Row]) -> Spool:
        return Spool(rows, self.job.prompts, self.recipe, self.carry_schema)

    def num_shards(self, spool: Spool) -> int:
        """Return the shards of a new table; reads on where a limited run stopped."""
        if self.job.output.num_shards != "auto":
            return self.job.output.num_shards
        beyond = itertools.islice(self.rows, shard_plan.MOST_COUNTED_BEYOND_LIMIT)
        return shard_plan.num_shards_for(spool.num_rows, sum(1 for _ in beyond))


def read_job(job: JobConfig, *, stop: threading.Event) -> Wanted:
    """Check a job and join the cluster; nothing is written.

    Raises:
        ConfigError: The checkpoint, the input or the cluster is not what the job says.
        RunStoppedError: ``stop`` was set while the rows were read.
    """
    check_grammars(job)  # again, for jobs that were made and not loaded
    checkpoint = hub.resolve(job.model.checkpoint, job.model.revision)
    job.with_password()  # says now that a variable is not set
    source = open_input(job.input)
    job = absolute(job.model_copy(update={"input": source.config}))
    output_schema(source.carry_schema, job.fields)  # refuses names that are taken
    connect.connect(job)
    connect.configure()
    scale = connect.scale_of(job)
    model = _model(job, checkpoint, scale)
    ends = read_end_of_sequence(checkpoint) if job.engine.kind == "model" else None
    return Wanted(
        job=job,
        checkpoint=checkpoint,
        scale=scale,
        model=model,
        recipe_parts=recipe_parts(job, model, ends),
        carry_schema=source.carry_schema,
        source=source,
        rows=_rendered(until(stop, source.rows()), job.input.document),
        warnings=(ends.warning,) if ends is not None and ends.warning else (),
    )


def until(stop: threading.Event, items: Iterable[T]) -> Iterator[T]:
    """Yield items until a signal has come.

    Raises:
        RunStoppedError: One has.
    """
    for item in items:
        if stop.is_set():
            raise RunStoppedError("stopped by a signal while planning; nothing was started")
        yield item


def _rendered(rows: Iterable[Row], config: DocumentConfig) -> Iterator[Row]:
    """Yield rows with the content of documents as rendered: other pixels are other pages."""
    for row in rows:
        if row.kind == "document" and row.content_id:
            content_id = keys.content_id_rendered(
                row.content_id, dpi=config.dpi, max_page_px=config.max_page_px
            )
            row = replace(row, content_id=content_id)
        yield row


def _model(job: JobConfig, checkpoint: Path, scale: Scale) -> dict[str, str | None]:
    """Return what answers, as lineage names it."""
    is_fake = job.engine.kind == "fake"
    return {
        "model": "fake" if is_fake else job.model.checkpoint,
        "model_revision": job.model.revision,
        "weights_digest": None if is_fake else hub.weights_digest(checkpoint),
        "processor_digest": hub.processor_digest(checkpoint),
        "decoding_digest": keys.recipe_digest(asdict(job.generation)),
        "dtype": scale.dtype,
    }
