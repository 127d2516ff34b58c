"""Run manifests: read as written, without credentials."""

from __future__ import annotations

from dataclasses import replace

from dsvl_pipeline.store import objects
from dsvl_pipeline.table.lineage import RunManifest, read_run, write_run

RUN = RunManifest(
    run_id="b",
    plan_id="plan",
    status="running",
    started_at="2026-01-02T00:00:00+00:00",
    recipe="recipe",
    recipe_parts={"max_new_tokens": 128},
    job={"input": {"images": ["s3://bucket/a"]}},
    job_digest="0",
    model={"revision": None},
    versions={"ray": "2.60"},
    rows_expected={0: 3, 12: 4},
    prompt_ids=("caption",),
)


def test_a_manifest_is_read_as_it_was_written(table_uri: str) -> None:
    """JSON knows neither whole numbers as names nor tuples; the manifest has them again."""
    assert read_run(table_uri, "b") is None
    write_run(table_uri, RUN)
    assert read_run(table_uri, "b") == RUN
    done = replace(RUN, status="done", finished_at="2026-01-02T01:00:00+00:00", table_version=7)
    write_run(table_uri, done)
    assert read_run(table_uri, "b") == done


def test_a_manifest_holds_no_credentials(table_uri: str) -> None:
    """It lies beside the data, for everybody who may read them."""
    job = {"input": {"manifest": ["https://user:canary@host/x.csv?sig=canary"]}, "limit": 3}
    write_run(table_uri, replace(RUN, job=job))
    assert b"canary" not in objects.read(objects.join(table_uri, "_dsvl/runs/b.json"))
    found = read_run(table_uri, "b")
    assert found is not None
    assert found.job == {"input": {"manifest": ["https://host/x.csv"]}, "limit": 3}
