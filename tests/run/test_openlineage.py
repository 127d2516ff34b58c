"""OpenLineage events: by the published schema, beside the data, and never in a run's way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dsvl_pipeline.errors import StorageError
from dsvl_pipeline.run.openlineage import emit, run_event
from dsvl_pipeline.store import objects
from tests.table.test_lineage import RUN

JOB = {
    "name": "nightly",
    "input": {
        "manifest": ["https://user:canary@host/x.csv?sig=canary", "s3://bucket/m/*.parquet"],
        "images": [],
        "documents": ["/data/pdfs"],
    },
}


def _events(uri: Path) -> dict[str, dict[str, Any]]:
    files = (uri / "_dsvl" / "openlineage").glob("*.jsonl")
    return {path.name: json.loads(path.read_text()) for path in files}


@pytest.mark.parametrize(
    ("status", "kind"), [("done", "COMPLETE"), ("failed", "FAIL"), ("stopped", "ABORT")]
)
def test_a_run_leaves_an_event_for_its_start_and_its_end(
    tmp_path: Path, status: Any, kind: str
) -> None:
    """Under one run id, so that a catalogue joins them."""
    emit(str(tmp_path), replace(RUN, job=JOB))
    end = "2026-01-02T01:00:00+00:00"
    emit(str(tmp_path), replace(RUN, job=JOB, status=status, finished_at=end))
    events = _events(tmp_path)
    assert set(events) == {"b-start.jsonl", f"b-{kind.lower()}.jsonl"}
    start, ended = events["b-start.jsonl"], events[f"b-{kind.lower()}.jsonl"]
    assert (start["eventType"], ended["eventType"]) == ("START", kind)
    assert start["run"]["runId"] == ended["run"]["runId"]
    assert ended["eventTime"] == end


def test_an_event_has_what_the_schema_asks_for(tmp_path: Path) -> None:
    """Required members and formats of 2-0-2, and of every facet; datasets named as it says."""
    done = replace(RUN, job=JOB, status="done", rows_expected={0: 3, 1: 4}, table_version=7)
    event = run_event("s3://bucket/captions", done)
    assert {"eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"} <= {*event}
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    UUID(event["run"]["runId"])
    assert event["job"] == {"namespace": "dsvl", "name": "nightly"}
    assert event["inputs"] == [
        {"namespace": "https://host", "name": "x.csv"},
        {"namespace": "s3://bucket", "name": "m/*.parquet"},
        {"namespace": "file", "name": "/data/pdfs"},
    ]
    (output,) = event["outputs"]
    assert (output["namespace"], output["name"]) == ("s3://bucket", "captions")
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert output["facets"]["version"]["datasetVersion"] == "7"
    facets = [*event["run"]["facets"].values(), *output["outputFacets"].values()]
    assert all({"_producer", "_schemaURL"} <= {*facet} for facet in facets)
    assert "canary" not in json.dumps(event)


@pytest.fixture
def catalogue() -> Iterator[tuple[str, list[tuple[str, str | None, dict[str, Any]]]]]:
    """An HTTP server that takes events."""
    seen: list[tuple[str, str | None, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_events_are_sent_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalogue: tuple[str, list[Any]]
) -> None:
    """By the variables that OpenLineage's clients read."""
    url, seen = catalogue
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key")
    emit(str(tmp_path), replace(RUN, job=JOB))
    ((path, authorization, event),) = seen
    assert (path, authorization) == ("/api/v1/lineage", "Bearer key")
    assert event == _events(tmp_path)["b-start.jsonl"]
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    emit(str(tmp_path / "quiet"), RUN)
    assert len(seen) == 1
    assert _events(tmp_path / "quiet") == {}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "file:///etc/passwd", "http://["])
def test_a_catalogue_that_is_down_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    """Nor is a store that does not take the event."""
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    real = objects.put

    def refuse(uri: str, body: bytes) -> None:
        if "openlineage" in uri:
            raise StorageError("no")
        real(uri, body)

    monkeypatch.setattr(objects, "put", refuse)
    emit(str(tmp_path), RUN)
    assert "the OpenLineage event was not written: no" in caplog.text
    assert "took no OpenLineage event" in caplog.text
