"""Everything a run needs before its first row: checked in the order in which it is cheap."""

from __future__ import annotations

import functools
import itertools
import platform
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa

from dsvl_pipeline import keys
from dsvl_pipeline.cluster import connect
from dsvl_pipeline.cluster.connect import Scale
from dsvl_pipeline.errors import AccessError, NotFoundError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.plan.recipe import TRANSFORM
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.plan.spool import Spool
from dsvl_pipeline.run import openlineage
from dsvl_pipeline.run.planning import Planning, work_folder
from dsvl_pipeline.run.wanted import Wanted, read_job, until
from dsvl_pipeline.sources.skips import Skipped
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.retry import with_retries
from dsvl_pipeline.table.columns import COLUMNS
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.lineage import RunManifest, RunStatus, known_run, write_run
from dsvl_pipeline.table.writer import TableWriter

_PACKAGES = (
    "dsvl-pipeline",
    "ray",
    "torch",
    "pyarrow",
    "pillow",
    "pypdfium2",
    "pikepdf",
    "tokenizers",
    "llguidance",
)


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A run ready to go, or going; `end` it, and `close` it whatever happened.

    Attributes:
        config: For the stages.
        scale: What of the cluster is used.
        writer: Holds the table's lease.
        shards: What is missing, shard by shard.
        manifest: What the table's `lineage` keeps of this run.
        skipped: What the input holds beside its rows.
        schema: Of all parts of the table, once this run has ended well.
        warnings: What is suspicious of the checkpoint.
        owed: Rows that each shard must hold by word of the run before, which a run of some rows
            does not take back; None where that run cannot say.
    """

    config: StageConfig
    scale: Scale
    writer: TableWriter
    shards: list[ShardPlan]
    manifest: RunManifest
    schema: pa.Schema
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    owed: Mapping[int, int] | None = field(default_factory=dict)

    @property
    def part_metadata(self) -> dict[str, str]:
        """What every part says of its run, beside its rows."""
        manifest = self.manifest
        return {
            "run_id": manifest.run_id,
            "plan_id": manifest.plan_id,
            "job_digest": manifest.job_digest,
            "recipe": manifest.recipe,
            **{f"model.{name}": str(value) for name, value in manifest.model.items()},
            **{f"version.{name}": value for name, value in manifest.versions.items()},
        }

    def end(
        self,
        status: RunStatus,
        rows_expected: Mapping[int, int],
        engine: Mapping[str, float],
        figures: Mapping[str, float],
        *,
        stop: threading.Event,
    ) -> None:
        """Write down how the run ended; after a good end nothing but the table stays behind.

        Raises:
            LeaseError: Another driver has taken over.
            StorageError: The store does not answer. What stopped a run has been waited for; the
                end of a good one waits for ``limits.store_patience_s``, or until ``stop`` is set.
        """
        retry_for_s = self.config.job.limits.store_patience_s if status == "done" else 0.0
        do = functools.partial(with_retries, uri=self.writer.uri, timeout_s=retry_for_s, stop=stop)
        self.manifest = replace(
            self.manifest,
            status=status,
            finished_at=_now(),
            prompt_ids=self._prompt_ids(),
            rows_expected=self._with_owed(rows_expected),
            engine=engine,
            figures=figures,
            table_version=self.writer.snapshot.version,
        )
        if status == "done":
            do(self.writer.confirm)  # who has lost the table has not made what is now in it
        do(functools.partial(write_run, self.writer.uri, self.manifest))
        openlineage.emit(self.writer.uri, self.manifest)
        if status == "done":
            do(self._finish)

    def _finish(self) -> None:
        # Those of runs that were killed, too: whoever holds the lease is the only driver.
        work_files = (found.uri for found in objects.list_objects(work_folder(self.writer.uri)))
        self.writer.finish(work_files)

    def _with_owed(self, rows_expected: Mapping[int, int]) -> Mapping[int, int]:
        if self.owed is None:
            return {}
        return {shard: max(rows, self.owed.get(shard, 0)) for shard, rows in rows_expected.items()}

    def _prompt_ids(self) -> tuple[str, ...]:
        """Return what every document was asked; nothing where rows of other inputs stay."""
        if any(shard.num_staying for shard in self.shards):
            return ()
        return tuple(prompt.id for prompt in self.config.job.prompts)

    def close(self) -> None:
        """Release the lease, however the run ended."""
        self.writer.close()


def prepare(
    job: JobConfig,
    *,
    limit: int | None,
    is_fresh: bool,
    stop: threading.Event,
    redrive: Redrive | None = None,
) -> Prepared:
    """Check the job, join the cluster, plan, and take the table.

    Where some rows are redriven, they alone are planned, with the keys of the job file.

    Raises:
        ConfigError: The checkpoint, the input, the output or the cluster is not what the job says.
        LeaseError: Another driver works on the table.
        RunStoppedError: ``stop`` was set.
    """
    connect.check_packages(job)
    if redrive is not None:
        redrive.check(job)
    wanted = read_job(job, stop=stop)
    # Whose rows and keys they are.
    base = wanted if redrive is None else read_job(redrive.base, stop=stop)
    spool = base.spool(itertools.islice(base.rows, limit))
    try:
        run_id = uuid.uuid4().hex[:16]
        writer = _open_table(wanted, base, spool, run_id)
        try:
            planning = Planning(
                base, writer, run_id, limit=limit, is_fresh=is_fresh, redrive=redrive
            )
            return _planned(wanted, base, spool, planning, writer, stop)
        except BaseException:
            writer.close()
            raise
    finally:
        spool.close()


def _planned(
    wanted: Wanted,
    base: Wanted,
    spool: Spool,
    planning: Planning,
    writer: TableWriter,
    stop: threading.Event,
) -> Prepared:
    """Plan each shard, and tell the table of the run."""
    shards, schema = planning.plan(until(stop, spool.shards(writer.num_shards)))
    manifest = _manifest(wanted, planning.run_id, spool.digest)
    write_run(writer.uri, manifest)
    openlineage.emit(writer.uri, manifest)
    return Prepared(
        config=StageConfig(
            job=wanted.pinned_job,
            dtype=wanted.scale.dtype,
            recipe=base.recipe,
            lineage=_lineage(manifest),
        ),
        scale=wanted.scale,
        writer=writer,
        shards=shards,
        manifest=manifest,
        skipped=base.source.skipped,
        schema=schema,
        warnings=wanted.warnings,
        owed=_owed(writer) if planning.is_partial else {},
    )


def _open_table(wanted: Wanted, base: Wanted, spool: Spool, run_id: str) -> TableWriter:
    uri = wanted.job.output.uri
    try:
        num_shards = read_format(uri).num_shards
    except (NotFoundError, AccessError):  # the writer says which setting is wrong
        num_shards = base.num_shards(spool)
    return TableWriter.open(uri, num_shards=num_shards, run_id=run_id, recipe=wanted.recipe)


def _manifest(wanted: Wanted, run_id: str, rows_digest: str) -> RunManifest:
    job = wanted.job.model_dump(mode="json")
    return RunManifest(
        run_id=run_id,
        plan_id=keys.recipe_digest({"recipe": wanted.recipe, "rows": rows_digest}),
        status="running",
        started_at=_now(),
        recipe=wanted.recipe,
        recipe_parts=wanted.recipe_parts,
        job=job,
        job_digest=keys.recipe_digest(job),
        model=wanted.model,
        versions=_versions(),
    )


def _owed(writer: TableWriter) -> Mapping[int, int] | None:
    """Return how many rows each shard must hold, if the run before this one can say."""
    if writer.run_before is None:
        return {}
    run = known_run(writer.uri, writer.run_before)
    return run.rows_expected or None if run is not None and run.status == "done" else None


def _lineage(manifest: RunManifest) -> dict[str, Any]:
    """Return the output columns that are the same in every row of a run."""
    values = {
        **manifest.model,
        "transform": TRANSFORM,
        "recipe": manifest.recipe,
        "plan_id": manifest.plan_id,
        "run_id": manifest.run_id,
        "code_version": manifest.versions.get("dsvl-pipeline"),
    }
    return {one.name: values[one.name] for one in COLUMNS if "run" in one.filled}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # torch is not needed on a driver
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
