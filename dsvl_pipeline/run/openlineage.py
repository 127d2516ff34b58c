"""OpenLineage events of a run: START, then COMPLETE, FAIL or ABORT.

Each is one line of JSON beside the data, and is sent to ``OPENLINEAGE_URL`` where that is set
(with ``OPENLINEAGE_ENDPOINT`` and ``OPENLINEAGE_API_KEY``, as OpenLineage's own clients read them).
Nothing that goes wrong here reaches the run. Plain JSON by the published schema: no client needed.

Source: OpenLineage 2-0-2, https://openlineage.io/spec/2-0-2/OpenLineage.json.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from dsvl_pipeline.errors import DsvlError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import bucket_and_key, bucket_of, is_local, local_path
from dsvl_pipeline.table.lineage import RunManifest

PRODUCER = "https://pypi.org/project/dsvl-pipeline"
SCHEMA_URL = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
SEND_TIMEOUT_S = 5.0
_EVENTS = {"running": "START", "done": "COMPLETE", "failed": "FAIL", "stopped": "ABORT"}
_FACETS = "https://openlineage.io/spec/facets"

_logger = logging.getLogger(__name__)


def emit(table_uri: str, manifest: RunManifest) -> None:
    """Write and send the event for a run's present state; only ever warn."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").lower() == "true":
        return
    event = run_event(table_uri, manifest)
    line = json.dumps(event).encode() + b"\n"
    name = f"{manifest.run_id}-{event['eventType'].lower()}.jsonl"
    try:
        objects.put(objects.join(table_uri, "_dsvl", "openlineage", name), line)
    except DsvlError as error:
        _logger.warning("the OpenLineage event was not written: %s", error)
    url = os.environ.get("OPENLINEAGE_URL")
    if url:
        try:
            _send(url, line)
        except Exception as error:  # a catalogue that is down must not end a run of days
            where = objects.redact(url)
            _logger.warning("%s took no OpenLineage event: %s", where, type(error).__name__)


def run_event(table_uri: str, manifest: RunManifest) -> dict[str, Any]:
    """Make the event for a run's present state."""
    output = _dataset(table_uri)
    if manifest.table_version is not None:
        version = {"datasetVersion": str(manifest.table_version)}
        output["facets"] = {"version": _facet("1-0-1/DatasetVersionDatasetFacet", **version)}
    if manifest.rows_expected:
        rows = {"rowCount": sum(manifest.rows_expected.values())}
        facet = _facet("1-0-2/OutputStatisticsOutputDatasetFacet", **rows)
        output["outputFacets"] = {"outputStatistics": facet}
    return {
        "eventType": _EVENTS[manifest.status],
        "eventTime": manifest.finished_at or manifest.started_at or datetime.now(UTC).isoformat(),
        "run": {
            # Its own ids must be UUIDs.
            "runId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}#{manifest.run_id}")),
            "facets": {
                "processing_engine": _facet(
                    "1-1-1/ProcessingEngineRunFacet",
                    name="ray",
                    version=manifest.versions.get("ray", "unknown"),
                    openlineageAdapterVersion=manifest.versions.get("dsvl-pipeline", "unknown"),
                ),
                "dsvl_run": {
                    "_producer": PRODUCER,
                    "_schemaURL": SCHEMA_URL,
                    "runId": manifest.run_id,
                    "planId": manifest.plan_id,
                    "recipe": manifest.recipe,
                    "model": {
                        name: objects.redact_text(str(value))
                        for name, value in manifest.model.items()
                        if value is not None
                    },
                    "versions": dict(manifest.versions),
                },
            },
        },
        "job": {"namespace": "dsvl", "name": str(manifest.job.get("name", "job"))},
        "inputs": list(_inputs(manifest.job)),
        "outputs": [output],
        "producer": PRODUCER,
        "schemaURL": SCHEMA_URL,
    }


def _inputs(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    source = job.get("input", {})
    for kind in ("manifest", "images", "documents"):
        for uri in source.get(kind, ()):
            yield _dataset(uri)


def _dataset(uri: str) -> dict[str, Any]:
    """Name a place as OpenLineage does: the bucket is the namespace, the key the name."""
    uri = objects.redact(uri)
    if is_local(uri):
        return {"namespace": "file", "name": local_path(uri)}
    return {"namespace": bucket_of(uri), "name": bucket_and_key(uri)[1] or "/"}


def _facet(schema: str, **content: Any) -> dict[str, Any]:
    name = schema.partition("/")[2]
    return {
        "_producer": PRODUCER,
        "_schemaURL": f"{_FACETS}/{schema}.json#/$defs/{name}",
        **content,
    }


def _send(url: str, line: bytes) -> None:
    endpoint = os.environ.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage")
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    target = f"{url.rstrip('/')}/{endpoint.lstrip('/')}"
    if not target.startswith(("http://", "https://")):
        raise ValueError("not http")
    request = urllib.request.Request(target, data=line, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=SEND_TIMEOUT_S) as answer:
        answer.read(1)
