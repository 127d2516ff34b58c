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
from dsvl_pipeline.errors import AccessError, ConfigError, NotFoundError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.plan import carried, compare, shard_plan
from dsvl_pipeline.plan.recipe import TRANSFORM
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.run import openlineage
from dsvl_pipeline.run.wanted import drops_vanished, read_job, until
from dsvl_pipeline.sources.skips import Skipped
from dsvl_pipeline.stages import work_files
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.retry import patiently
from dsvl_pipeline.store.uris import shown
from dsvl_pipeline.table.columns import COLUMNS
from dsvl_pipeline.table.failures import read_selected
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.table.history import near_rows
from dsvl_pipeline.table.lineage import RunManifest, RunStatus, known_run, write_run
from dsvl_pipeline.table.schema import KEY_COLUMNS
from dsvl_pipeline.table.snapshot import Snapshot
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
        """Say how the run ended; after a good end nothing but the table stays behind.

        Raises:
            LeaseError: Another driver has taken over.
            StorageError: The store does not answer. What stopped a run has been waited for; the
                end of a good one waits for ``limits.store_patience_s``, or until ``stop`` is set.
        """
        patience_s = self.config.job.limits.store_patience_s if status == "done" else 0.0
        do = functools.partial(patiently, uri=self.writer.uri, patience_s=patience_s, stop=stop)
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
        work_files = (found.uri for found in objects.list_objects(_work(self.writer.uri)))
        self.writer.finish(work_files)

    def _with_owed(self, rows_expected: Mapping[int, int]) -> Mapping[int, int]:
        if self.owed is None:
            return {}
        return {shard: max(rows, self.owed.get(shard, 0)) for shard, rows in rows_expected.items()}

    def _prompt_ids(self) -> tuple[str, ...]:
        """What every document of the table was asked; unknown where rows of other inputs stay."""
        if any(shard.num_staying for shard in self.shards):
            return ()
        return tuple(prompt.id for prompt in self.config.job.prompts)

    def close(self) -> None:
        """Give the lease back, however the run ended."""
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
    job, recipe = wanted.job, wanted.recipe
    # Whose rows and keys they are.
    base = wanted if redrive is None else read_job(redrive.base, stop=stop)
    spool = base.spool(itertools.islice(base.rows, limit))
    try:
        run_id, work_key = uuid.uuid4().hex[:16], work_files.new_key()
        try:
            num_shards = read_format(job.output.uri).num_shards
        except (NotFoundError, AccessError):  # the writer says which setting is wrong
            num_shards = base.num_shards(spool)
        writer = TableWriter.open(
            job.output.uri, num_shards=num_shards, run_id=run_id, recipe=recipe
        )
        try:
            shards, unknown = [], redrive.named_rows if redrive else frozenset()
            found: list[carried.Found] = []
            for shard, rows in until(stop, spool.shards(writer.num_shards)):
                there = carried.read_committed(writer.snapshot, shard, KEY_COLUMNS)
                committed = there.rows
                others = committed.slice(0, 0)
                if redrive is not None:
                    selected = read_selected(writer.snapshot, shard, redrive.selection)
                    unknown = unknown.difference(selected["row_id"].to_pylist())
                    rows, committed, others = redrive.narrow(rows, committed, selected)
                compared = compare.compare(
                    rows,
                    committed,
                    recipe=base.recipe,
                    asked=base.asked,
                    is_fresh=is_fresh,
                    drops_vanished=redrive is None and drops_vanished(job, limit),
                )
                staying = pa.concat_tables([compared.staying, others])
                compared = replace(compared, staying=staying)
                work_uri = objects.join(_work(writer.uri), f"{run_id}-{shard:05d}")
                values_files = dict[int, str]()
                save = functools.partial(_save, values_files, work_uri, work_key)
                of_shard = base.find_carried(
                    there, rows, compared, is_redrive=redrive is not None, save=save
                )
                found.append(of_shard.without_rows())
                shards.append(
                    replace(
                        shard_plan.plan_shard(
                            shard, compared, work_uri=work_uri, work_key=work_key
                        ),
                        num_changed=of_shard.num_changed,
                        values_files=values_files,
                    )
                )
            schema = carried.table_schema(base.schema, found)
            is_partial = limit is not None or redrive is not None
            shards = [
                replace(shard, rewrites=carried.rewrites(one, schema, is_partial=is_partial))
                for shard, one in zip(shards, found, strict=True)
            ]
            if unknown:
                named = (_with_hint(writer.snapshot, row_id) for row_id in sorted(unknown)[:3])
                raise ConfigError(
                    f"redrive: the table has no row {', '.join(named)}; "
                    "a row's id is that of its manifest, or the URI of its file, as `dsvl export` "
                    "shows it"
                )
            manifest = RunManifest(
                run_id=run_id,
                plan_id=keys.recipe_digest({"recipe": recipe, "rows": spool.digest}),
                status="running",
                started_at=_now(),
                recipe=recipe,
                recipe_parts=wanted.recipe_parts,
                job=job.model_dump(mode="json"),
                job_digest=keys.recipe_digest(job.model_dump(mode="json")),
                model=wanted.model,
                versions=_versions(),
            )
            write_run(writer.uri, manifest)
            openlineage.emit(writer.uri, manifest)
        except BaseException:
            writer.close()
            raise
    finally:
        spool.close()
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
        owed=_owed(writer) if is_partial else {},
    )


def _owed(writer: TableWriter) -> Mapping[int, int] | None:
    """Give the rows that each shard must hold by word of the run before this one, if it can say."""
    if writer.run_before is None:
        return {}
    run = known_run(writer.uri, writer.run_before)
    return run.rows_expected or None if run is not None and run.status == "done" else None


def _with_hint(snapshot: Snapshot, row_id: str) -> str:
    near = near_rows(snapshot, row_id).strip()
    return f"{shown(row_id)} ({near})" if near else shown(row_id)


def _save(
    files: dict[int, str], work_uri: str, work_key: bytes, group: int, values: pa.Table
) -> None:
    """Write what rows of a group of parts carry from now on, and note where."""
    files[group] = f"{work_uri}-values-{group:06d}.parquet"
    work_files.write(files[group], values, work_key)


def _work(table_uri: str) -> str:
    return objects.join(table_uri, "_dsvl", "plan")


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
