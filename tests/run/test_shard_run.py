"""A shard's commits when the store is away for a while: no answer lost, none doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from dsvl_pipeline.cluster.part_tasks import WrittenPart
from dsvl_pipeline.errors import LeaseError, RunStoppedError, StorageError
from dsvl_pipeline.plan.redrive import IS_ANSWER
from dsvl_pipeline.plan.shard_plan import ShardPlan
from dsvl_pipeline.run.prepare import Prepared
from dsvl_pipeline.run.shard import ShardRun
from dsvl_pipeline.stages import work_files
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.pages import read_work
from dsvl_pipeline.store import objects, retry
from dsvl_pipeline.table import lease
from dsvl_pipeline.table.lineage import RunManifest, RunStatus, read_run
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.schema import output_schema
from dsvl_pipeline.table.writer import TableWriter
from tests.jobs import fake_job, parse
from tests.run.shards import LocalParts, local_run
from tests.table.rows import image_rows, keys_of, open_table, page_rows, write


def shard_run(
    writer: TableWriter, stale: pa.Table, *, limits: dict[str, Any] | None = None, **known: Any
) -> tuple[ShardRun, LocalParts]:
    """The run of a shard that is to replace some rows; ``known`` goes into its plan."""
    plan = ShardPlan(
        shard=0,
        work_files=(),
        work_key=b"",
        num_rows=0,
        num_documents=0,
        num_up_to_date=0,
        num_final_errors=0,
        num_staying=0,
        num_staying_errors=0,
        stale_file=None,
        max_images=1,
    )
    plan = replace(plan, **known)
    job = fake_job({"images": "x/*.jpg"}, writer.uri) | {"limits": limits or {}}
    config = SimpleNamespace(job=parse(job))
    known_of_run = {"writer": writer, "config": config, "part_metadata": {}}
    prepared = cast(Prepared, SimpleNamespace(**known_of_run, schema=output_schema()))
    run, parts = local_run(prepared, plan)
    run._commits.stale = stale
    return run, parts


def test_a_commit_that_failed_supersedes_the_same_rows_next_time(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last commit of a stopped run must not bring new answers in beside the old ones."""
    uri = str(tmp_path / "table")
    old = image_rows({"a": "1", "b": "1"})
    with open_table(uri) as writer:
        writer.commit([write(writer, old)])
    commit = TableWriter.commit
    outages = iter([StorageError("put: gave up after 8 attempts")])

    def flaky(self: TableWriter, receipts: Sequence[Receipt], **superseded: Any) -> None:
        for outage in outages:
            raise outage
        commit(self, receipts, **superseded)

    monkeypatch.setattr(TableWriter, "commit", flaky)
    with open_table(uri, run_id="second") as writer:
        run, _ = shard_run(writer, keys_of(old))
        run._commits.add(write(writer, image_rows({"a": "2"})))
        with pytest.raises(StorageError):
            run._commit()
        run._flush()
        assert run._commits.stale["row_id"].to_pylist() == ["b"]
    rows = read_table(uri)
    assert sorted(zip(rows["row_id"].to_pylist(), rows["text"].to_pylist(), strict=True)) == [
        ("a", "2"),
        ("b", "1"),
    ]


def test_a_part_that_cannot_be_written_takes_no_other_with_it(tmp_path: Any) -> None:
    """Its neighbours are committed before the failure is told."""
    with open_table(str(tmp_path / "table")) as writer:
        rows = image_rows({"a": "1", "b": "1"})
        run, parts = shard_run(writer, keys_of(rows).slice(0, 0))
        good = WrittenPart(receipt=write(writer, rows), losses=None)
        parts.ended = [StorageError("no space left"), good]
        with pytest.raises(StorageError, match="no space left"):
            run._flush()
        assert read_table(writer.uri).num_rows == 2


def test_answers_are_committed_within_the_time_that_the_job_gives(tmp_path: Any) -> None:
    """The wait for more rows, the writing and the wait for the commit share it: 30 s, not 40."""
    with open_table(str(tmp_path / "table")) as writer:
        rows = image_rows({"a": "1"})
        run, parts = shard_run(writer, keys_of(rows).slice(0, 0))
        run._open.add(cast(Any, rows), 1)
        run._open.since_s = time.monotonic() - 14
        run._advance()
        assert parts.num_started == 0
        run._open.since_s = time.monotonic() - 16
        run._advance()
        assert parts.num_started == 1
        run._commits._committed_s = time.monotonic() - 7
        run._advance()
        assert run._commits.receipts
        run._commits._committed_s = time.monotonic() - 8
        run._advance()
        assert not run._commits.receipts
        assert read_table(writer.uri).num_rows == 1


def test_a_redrive_that_only_loses_answers_stops(tmp_path: Any) -> None:
    """Its errors never reach the table, and its plan takes the answers for errors."""
    uri, key = str(tmp_path / "stale.parquet"), work_files.new_key()
    rows = image_rows(dict.fromkeys("abcd", "1"))
    stale = keys_of(rows).append_column(IS_ANSWER, pa.array([True] * 4))
    work_files.write(uri, stale, key)
    with open_table(str(tmp_path / "table")) as writer:
        known = {"stale_file": uri, "work_key": key, "num_retried": 4}
        run, parts = shard_run(writer, keys_of(rows), limits={"first_rows": 4}, **known)
        parts.start([image_rows(dict.fromkeys("abcd", "2"), status="error")])
        run._take(parts.ready(0))
        with pytest.raises(RunStoppedError, match="all 4 rows answered so far failed with 'boom'"):
            run._limits.check()
        assert run._commits.stale.num_rows == 0


def prepared_run(writer: TableWriter) -> Prepared:
    """A run that has nothing left to do but to end."""
    job = parse(fake_job({"images": "x/*.jpg"}, writer.uri))
    return Prepared(
        config=StageConfig(job=job, dtype="float32", recipe="recipe", lineage={}),
        scale=cast(Any, None),
        writer=writer,
        shards=[],
        manifest=RunManifest(
            run_id="run", plan_id="", status="running", started_at="", recipe="", job_digest=""
        ),
        schema=output_schema(),
    )


def end(prepared: Prepared, status: RunStatus = "done") -> None:
    """End a run that answered nothing."""
    prepared.end(status, {}, {}, {}, stop=threading.Event())


def test_a_store_that_is_away_for_a_moment_ends_no_run(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start of a shard, in its tasks, at its last commit, and at the end of the run."""
    uri, key = str(tmp_path / "table"), work_files.new_key()
    work_file = objects.join(uri, "_dsvl", "plan", "run-00000.parquet")
    armed: set[str] = set()

    def failing_once(name: str) -> Callable[..., Any]:
        do = getattr(objects, name)

        def first_fail(*arguments: Any, **named: Any) -> Any:
            if name in armed:
                armed.remove(name)
                raise StorageError(f"{name}: gave up after 8 attempts")
            return do(*arguments, **named)

        return first_fail

    rows = image_rows({"a": "1", "b": "1"})
    with TableWriter.open(uri, num_shards=1, run_id="first", recipe="recipe") as writer:
        writer.commit([write(writer, rows)])
    with TableWriter.open(uri, num_shards=1, run_id="run", recipe="recipe") as writer:
        work_files.write(work_file, keys_of(rows).slice(0, 1), key)
        # Of a local disk an error is told at once.
        monkeypatch.setattr(retry, "is_local", lambda uri: False)
        monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.01)
        for name in ("read", "put", "delete", "list_objects"):
            monkeypatch.setattr(objects, name, failing_once(name))
        armed.add("read")
        run, _ = shard_run(writer, keys_of(rows).slice(0, 1), stale_file=work_file, work_key=key)
        armed.add("read")
        assert read_work(pa.table({"item": [work_file]}), key=key, retry_for_s=9).num_rows == 1
        armed.add("put")
        run.run()
        assert read_table(uri)["row_id"].to_pylist() == ["b"]
        armed.update(("put", "delete", "list_objects"))
        end(prepared_run(writer))
        assert not armed
    manifest = read_run(uri, "run")
    assert manifest is not None
    assert manifest.status == "done"
    assert not list(objects.list_objects(objects.join(uri, "_dsvl", "plan")))


def test_a_driver_that_lost_its_table_leaves_the_next_one_its_work(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took over has planned by then, and its tasks read what it wrote."""
    uri = str(tmp_path / "table")
    sleeper = open_table(uri, "run")
    monkeypatch.setattr(lease, "_process_started", lambda pid: -1)  # it counts as dead
    with open_table(uri, "successor"):
        work_file = objects.join(uri, "_dsvl", "plan", "successor-00000-000000.parquet")
        objects.put(work_file, b"rows")
        with pytest.raises(LeaseError, match="run successor"):
            end(prepared_run(sleeper))
        with pytest.raises(LeaseError, match="run successor"):
            sleeper.finish([work_file])
        assert objects.exists(work_file)
        assert read_run(uri, "run") is None
        end(prepared_run(sleeper), "stopped")
        sleeper.close()


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ([0, 1, 2], None),
        ([0, 1, 2, 1], r"more than one row, first \(d, page 1"),
        ([0, 2], r"document d, prompt caption: has 2 of 3 pages; missing by index: 1"),
        ([], "row d, prompt caption: has no answer"),
    ],
)
def test_a_shard_is_done_when_each_page_is_there_once(
    tmp_path: Any, pages: list[int], said: str | None
) -> None:
    """However many rows came out: a retried task may list other pages than at its first attempt."""
    uri, key = str(tmp_path / "work.parquet"), work_files.new_key()
    work_files.write(uri, image_rows(dict.fromkeys("ade", "")), key)
    rows = [
        image_rows({"a": "1"}),
        page_rows("d", pages, 3, "caption"),
        page_rows("e", [0, 1], 2, "caption"),
        # Nobody has asked for them now: an earlier run may have left it so.
        page_rows("d", [0], 3, "colour"),
    ]
    with open_table(str(tmp_path / "table")) as writer:
        writer.commit([write(writer, pa.concat_tables(rows))])
        known = {"work_files": (uri,), "work_key": key, "num_rows": 3, "num_documents": 2}
        run, _ = shard_run(writer, keys_of(rows[0]).slice(0, 0), **known)
        run._num_rows = 6
        if said is None:
            run._check_complete()
            old = page_rows("d", [3], 4, "caption")  # of an earlier version, and about to go
            writer.commit([write(writer, old)])
            run._commits.stale = keys_of(old)
            run._check_complete()
            return
        with pytest.raises(RunStoppedError, match=said):
            run._check_complete()


@pytest.mark.parametrize("num_rows", [2, 4])
def test_as_many_images_come_out_as_went_in(tmp_path: Any, num_rows: int) -> None:
    """Each is one row."""
    with open_table(str(tmp_path / "table")) as writer:
        run, _ = shard_run(writer, keys_of(image_rows({})), num_rows=3)
        run._num_rows = num_rows
        with pytest.raises(RunStoppedError, match=rf"{num_rows} rows came out .* 3 went in"):
            run._check_complete()
