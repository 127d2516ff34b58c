"""Run manifests: what was run, on what, and what the table must hold afterwards."""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dsvl_pipeline.errors import NotFoundError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.document import as_record, load

_logger = logging.getLogger(__name__)

RunStatus = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest:
    """One run of a job, as ``_dsvl/runs/<run_id>.json``.

    Attributes:
        run_id: Of the run; log entries and rows name it.
        plan_id: Digest of what the run was to compute; equal for two runs of one plan.
        status: ``running`` until the end, and for ever if the driver was killed.
        started_at: ISO 8601, UTC.
        finished_at: The same; None before the end.
        recipe: Digest of what changes results for every row.
        recipe_parts: What it was made of.
        job: The job file; credentials are hidden when it is written.
        job_digest: Of the job file as the user gave it.
        model: Checkpoint, revision, digests, by name.
        versions: Of this package, Python, Ray, torch and what else computed, by name.
        rows_expected: Rows that each shard of the table must hold after a good end: the wanted
            ones and those that stay although their input vanished. A shard that is left out is
            not checked by `verify` (documents have unknown numbers of pages; there each page says
            how many there must be).
        prompt_ids: Prompts that every document of the table must have been asked; empty where
            documents stay that the run did not want.
        table_version: Number of the run's last log entry; None before the end.
        engine: What the engines counted and the seconds they took, by name.
        figures: What it took, for predictions: ``rows`` answered for ``inputs`` (a document counts
            once), ``seconds``, ``replicas``, and ``num_shards`` that had rows to answer.
    """

    run_id: str
    plan_id: str
    status: RunStatus
    started_at: str
    finished_at: str | None = None
    recipe: str
    recipe_parts: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    job_digest: str
    model: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    rows_expected: Mapping[int, int] = field(default_factory=dict)
    prompt_ids: tuple[str, ...] = ()
    table_version: int | None = None
    engine: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


def write_run(table_uri: str, manifest: RunManifest) -> None:
    """Write a run's manifest, in the place of the one it wrote before."""
    body = json.dumps(_redacted(asdict(manifest)), indent=1).encode()
    objects.put(_run_uri(table_uri, manifest.run_id), body)


def read_run(table_uri: str, run_id: str) -> RunManifest | None:
    """Read a run's manifest; None if it wrote none.

    Rows say which run made them, and a row is no reason to read anything but a run's manifest.

    Raises:
        TableError: It is damaged.
    """
    if "/" in run_id:
        return None
    uri = _run_uri(table_uri, run_id)
    try:
        body = objects.read(uri)
    except NotFoundError:
        return None
    advice = "restore it from a copy, or delete it: the table itself does not need it"
    return as_record(RunManifest, uri, load(uri, body, advice=advice), advice=advice)


def known_run(table_uri: str, run_id: str | None) -> RunManifest | None:
    """Read a run's manifest; None, with a warning, also where it is damaged."""
    try:
        return read_run(table_uri, run_id) if run_id else None
    except TableError as error:
        _logger.warning("passed over: %s", error)
        return None


def latest_runs(table_uri: str, most: int) -> Iterator[RunManifest]:
    """Read the manifests that were written last, the newest first."""
    found = objects.list_objects(objects.join(table_uri, "_dsvl", "runs"))
    found = (info for info in found if info.uri.endswith(".json"))
    for info in heapq.nlargest(most, found, key=lambda info: info.mtime_ns):
        run = known_run(table_uri, info.uri.rpartition("/")[2].removesuffix(".json"))
        if run is not None:
            yield run


def _run_uri(table_uri: str, run_id: str) -> str:
    return objects.join(table_uri, "_dsvl", "runs", f"{run_id}.json")


def _redacted(value: Any) -> Any:
    match value:
        case str():
            return objects.redact_text(value)
        case Mapping():
            return {name: _redacted(item) for name, item in value.items()}
        case list() | tuple():
            return [_redacted(item) for item in value]
        case _:
            return value
