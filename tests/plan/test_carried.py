"""Carried columns of rows that keep their answers: the table follows its input.

Everything of a run but Ray: plans, parts, commits and the end are the real ones.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from ray._private import auto_init_hook

from dsvl_pipeline.cluster import connect
from dsvl_pipeline.cluster.connect import Scale
from dsvl_pipeline.errors import ConfigError, RunStoppedError, StorageError
from dsvl_pipeline.export.export import export
from dsvl_pipeline.job.prompts import PromptConfig
from dsvl_pipeline.plan import carried, committed, rewriting
from dsvl_pipeline.plan.committed import AT, Committed
from dsvl_pipeline.plan.compare import Comparison, compare
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.run import preview
from dsvl_pipeline.run.explanation import explain
from dsvl_pipeline.run.prepare import Prepared, prepare
from dsvl_pipeline.run.shard import ShardRun
from dsvl_pipeline.stages import answers, work_files
from dsvl_pipeline.stages.pages import list_pages
from dsvl_pipeline.stages.rows import CARRY, work_schema
from dsvl_pipeline.stages.worker_tools import worker_tools
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.failures import Selection
from dsvl_pipeline.table.history import row_histories
from dsvl_pipeline.table.log import Log, read_entries, read_snapshot
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.schema import KEY_COLUMNS, LOGICAL_KEY, output_schema
from dsvl_pipeline.table.verify import verify
from tests.jobs import fake_job, jpeg, parse
from tests.run.shards import local_run
from tests.sources.test_documents import pictures

ANSWER_COLUMNS = [*LOGICAL_KEY, "row_key", "status", "text", "run_id", "produced_at"]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray: a plan only asks how large the cluster is. Else a call would start one, unseen."""
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", False)
    scale = Scale(replicas=1, num_gpus=0, rows_per_batch=8, batches_in_flight=1, dtype="float32")
    monkeypatch.setattr(connect, "connect", lambda job: None)
    monkeypatch.setattr(connect, "scale_of", lambda job: scale)


class Place:
    """A folder of pictures and manifests, and the table that is made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, str(folder / "table")
        for name in "abc":
            (folder / f"{name}.png").write_bytes(jpeg(ord(name)))

    def csv(self, *lines: str) -> str:
        """Write the manifest anew; the first line names its columns."""
        (self.folder / "m.csv").write_text("".join(f"{line}\n" for line in lines))
        return str(self.folder / "m.csv")

    def parquet(self, name: str = "m.parquet", **columns: Any) -> str:
        """Write a manifest of ids and whatever columns; all rows show one picture."""
        ids = columns.pop("id")
        columns = {"id": ids, "image": ["a.png"] * len(ids), **columns}
        pq.write_table(pa.table(columns), self.folder / name)
        return str(self.folder / name)

    def job(
        self, manifest: str, *carry: str, prompts: int = 1, kind: str = "image", **output: Any
    ) -> Any:
        """A job of the fake engine over a manifest."""
        source = {"manifest": manifest, "columns": {"id": "id", kind: kind}, "carry": carry}
        job = fake_job(source, self.uri)
        job["prompts"] = [{"id": f"p{n}", "text": f"What {n}?"} for n in range(prompts)]
        job["output"] |= output
        return parse(job)

    def run(self, job: Any, **how: Any) -> tuple[int, int]:
        """Run a job; give how many rows were answered, and how many only carried anew."""
        how = {"limit": None, "is_fresh": False, "stop": threading.Event(), **how}
        is_alike = how.pop("is_alike", True)
        prepared = prepare(job, **how)
        try:
            expected = {}
            for shard in prepared.shards:
                rows = _run_of(prepared, shard, how["stop"]).run()
                expected[shard.shard] = shard.num_staying + shard.num_up_to_date + rows
            prepared.end("done", expected, {}, {}, stop=threading.Event())
        finally:
            prepared.close()
        assert not verify(self.uri).problems
        if is_alike:
            self.check_plain_readers()
        return (
            sum(shard.num_rows for shard in prepared.shards),
            sum(shard.num_changed for shard in prepared.shards),
        )

    def check_plain_readers(self) -> None:
        """Read ``data/`` as those do who know nothing of the log: all rows, all columns."""
        ours = read_table(self.uri)
        wanted = sorted(ours.column_names)
        plain = pa.dataset.dataset(Path(self.uri, "data"), format="parquet").to_table()
        assert sorted(plain.column_names) == wanted
        assert plain.select(ours.column_names).sort_by(_ORDER).equals(ours.sort_by(_ORDER))
        pattern = f"{self.uri}/data/**/*.parquet"
        assert sorted(polars.read_parquet(pattern).columns) == wanted
        names = ", ".join(f'"{name}"' for name in wanted)
        with duckdb.connect() as connection:
            found = connection.execute(f"select {names} from '{pattern}'").fetchall()
        assert len(found) == polars.read_parquet(pattern).height == ours.num_rows

    def column(self, name: str) -> dict[str, Any]:
        """The values of a column by row id."""
        rows = read_table(self.uri)
        return dict(zip(rows["row_id"].to_pylist(), rows[name].to_pylist(), strict=True))

    def answers(self) -> list[dict[str, Any]]:
        """What no carried value may change."""
        return cast(
            "list[dict[str, Any]]",
            read_table(self.uri, columns=ANSWER_COLUMNS).sort_by(_ORDER).to_pylist(),
        )


_ORDER = [(name, "ascending") for name in LOGICAL_KEY]


def _run_of(prepared: Prepared, plan: Any, stop: threading.Event) -> ShardRun:
    """The run of a shard whose missing rows are answered here, and not by a cluster."""
    of_shard, parts = local_run(prepared, plan, stop)

    def answer() -> None:
        for uri in plan.work_files:
            rows = list_pages(work_files.read(uri, plan.work_key), config=prepared.config)
            asked = rows.append_column("is_blank", pa.array([True] * rows.num_rows))
            parts.start([answers.output_rows(asked, {}, prepared.config, "fake", 1)])
            of_shard._num_rows += rows.num_rows
        if plan.num_documents:
            worker_tools(prepared.config.job).renderer.close()  # a task's process keeps it

    of_shard._answer = answer  # type: ignore[method-assign]
    return of_shard


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty one."""
    return Place(tmp_path)


def test_a_changed_value_arrives_and_its_answer_stays(place: Place) -> None:
    """One row of two; the plan says so, and of the row what changed."""
    place.run(place.job(place.csv("id,image,kind", "1,a.png,shoes", "2,b.png,hats"), "kind"))
    before = place.answers()
    job = place.job(place.csv("id,image,kind", "1,a.png,SANDALS", "2,b.png,hats"), "kind")
    found = preview.preview(job)
    assert (found.to_run, found.to_keep) == ({}, {"up to date": 1, "carried values changed": 1})
    assert found.num_rewritten_parts == 1
    (told,) = explain(job, "1")
    assert (told.is_run, told.reason) == (False, "kept: carried values changed")
    assert told.details[1:] == ("kind was 'shoes', is 'SANDALS'",)
    assert place.run(job) == (0, 1)
    assert place.column("kind") == {"1": "SANDALS", "2": "hats"}
    assert place.answers() == before
    assert preview.preview(job).to_keep == {"up to date": 2}
    version = len(read_entries(place.uri))
    assert place.run(job) == (0, 0)
    assert all(not entry.added for entry in read_entries(place.uri)[version:])


def test_columns_are_added_dropped_and_renamed(place: Place) -> None:
    """Whatever is carried is what the table has, and nothing else of the user's."""
    manifest = place.csv("id,image,kind,price", "1,a.png,shoes,10", "2,b.png,,")
    place.run(place.job(manifest))
    before = place.answers()
    # CSV has no null: what is empty is an empty text, which no row had before.
    assert place.run(place.job(manifest, "kind", "price")) == (0, 2)
    assert place.column("kind") == {"1": "shoes", "2": ""}
    assert place.run(place.job(manifest, "price")) == (0, 2)
    assert "kind" not in read_table(place.uri).column_names
    renamed = place.csv("id,image,kind,cost", "1,a.png,shoes,10", "2,b.png,,")
    assert place.run(place.job(renamed, "cost")) == (0, 2)
    assert place.column("cost") == {"1": "10", "2": ""}
    assert place.run(place.job(renamed)) == (0, 2)
    assert set(read_table(place.uri).column_names).isdisjoint({"kind", "price", "cost"})
    assert place.answers() == before


def test_a_new_column_without_values_still_makes_all_parts_alike(place: Place) -> None:
    """No value changed; but a reader of some parts would find a column that others lack."""
    place.run(place.job(place.parquet(id=["1"], c=pa.nulls(1, pa.string()))))
    job = place.job(place.parquet(id=["1", "2"], c=[None, "x"]), "c")
    assert place.run(job) == (1, 0)
    assert place.column("c") == {"1": None, "2": "x"}


def test_numbers_become_text_and_numbers_again(place: Place) -> None:
    """Parquet today, CSV with "n/a" tomorrow: each version that ended well has one type."""
    place.run(place.job(place.parquet(id=["1", "2"], price=[10, 20]), "price"))
    before = place.answers()
    lines = ("id,image,price", "1,a.png,10", "2,a.png,20", "5,a.png,n/a")
    assert place.run(place.job(place.csv(*lines), "price")) == (1, 0)
    assert place.column("price") == {"1": "10", "2": "20", "5": "n/a"}
    assert [row for row in place.answers() if row["row_id"] != "5"] == before
    # The row that the input has no more stays, and so does its text.
    numbers = place.job(place.parquet(id=["1", "2"], price=[10, 21]), "price")
    assert place.run(numbers) == (0, 1)
    assert place.column("price") == {"1": "10", "2": "21", "5": "n/a"}
    assert place.run(numbers) == (0, 0)
    job = place.job(str(place.folder / "m.parquet"), "price", vanished="drop")
    assert place.run(job) == (0, 0)
    assert place.column("price") == {"1": 10, "2": 21}


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        (pa.array([1], pa.int32()), pa.array([1]), pa.int64()),
        (pa.array([1]), pa.array([1.5]), pa.float64()),
        (pa.array([1.5]), pa.array([1]), pa.string()),
        (pa.array([2**53 + 1]), pa.array([1.5]), pa.string()),
        (pa.nulls(1), pa.array(["cat"]), pa.string()),
        (pa.array(["cat"]), pa.nulls(1), pa.string()),
        (
            pa.array([{"w": 1}]),
            pa.array([{"h": 2}]),
            pa.struct([("w", pa.int64()), ("h", pa.int64())]),
        ),
        (pa.array([[1]]), pa.array(["x"]), pa.string()),
        (pa.array([3_000_000], pa.date32()), pa.array(["x"]), pa.string()),
        (pa.array([0], pa.timestamp("s")), pa.array([1], pa.timestamp("us", "UTC")), pa.string()),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_what_stays_of_earlier_inputs_keeps_its_values(
    first: pa.Array, second: pa.Array, wanted: pa.DataType, place: Place
) -> None:
    """A column has a type that holds them and those of today."""
    place.run(place.job(place.parquet(id=["old", "both"], c=pa.concat_arrays([first, first])), "c"))
    job = place.job(place.parquet(id=["both", "new"], c=pa.concat_arrays([second, second])), "c")
    place.run(job)
    kind = read_table(place.uri).schema.field("c").type
    assert kind == wanted or {f.name for f in kind} == {f.name for f in wanted}
    assert place.column("c")["both"] == place.column("c")["new"]
    assert place.run(job) == (0, 0)


def test_a_column_that_only_old_rows_have_stays_with_them(place: Place) -> None:
    """Nobody asked for its removal from rows that the input no longer names."""
    place.run(place.job(place.csv("id,image,kind", "1,a.png,shoes", "2,b.png,hats"), "kind"))
    place.run(place.job(place.csv("id,image", "1,a.png")))
    assert place.column("kind") == {"1": None, "2": "hats"}
    job = place.job(str(place.folder / "m.csv"), vanished="drop")
    place.run(job)
    assert "kind" not in read_table(place.uri).column_names


def test_a_limit_leaves_alone_what_it_does_not_read(place: Place) -> None:
    """As it does with answers; the rest follows with the whole input."""
    lines = ("id,image,kind", "1,a.png,shoes", "2,b.png,hats")
    place.run(place.job(place.csv(*lines), "kind"))
    job = place.job(place.csv("id,image,kind", "1,a.png,X", "2,b.png,Y"), "kind")
    assert preview.preview(job, limit=1).to_keep["carried values changed"] == 1
    assert place.run(job, limit=1) == (0, 1)
    assert place.column("kind") == {"1": "X", "2": "hats"}
    assert place.run(job) == (0, 1)


def test_all_prompts_and_error_rows_follow(place: Place) -> None:
    """A row is carried as often as it is asked, whether or not there was an answer."""
    place.run(place.job(place.csv("id,image,kind", "1,a.png,shoes", "2,,hats"), "kind", prompts=3))
    before = place.answers()
    assert [row["status"] for row in before] == ["degraded"] * 3 + ["error"]
    job = place.job(place.csv("id,image,kind", "1,a.png,X", "2,,Y"), "kind", prompts=3)
    assert place.run(job) == (0, 4)
    assert place.column("kind") == {"1": "X", "2": "Y"}
    assert place.answers() == before


def test_all_pages_of_a_document_follow(place: Place) -> None:
    """One row of the input is many of the table, under each prompt; none is asked again."""
    (place.folder / "two.pdf").write_bytes(pictures("red", "blue"))
    (place.folder / "three.pdf").write_bytes(pictures("red", "blue", "red"))
    (place.folder / "bad.pdf").write_bytes(b"no PDF")
    lines = ("1,two.pdf,draft", "2,three.pdf,final", "3,bad.pdf,lost")
    job = place.job(place.csv("id,document,c", *lines), "c", kind="document", prompts=2)
    assert place.run(job) == (6, 0)
    before = place.answers()
    place.csv("id,document,c", "1,two.pdf,FINAL", "2,three.pdf,final", "3,bad.pdf,LOST")
    found = preview.preview(job)
    assert (found.to_run, found.to_keep["carried values changed"]) == ({}, 6)
    assert [told.details[1:] for told in explain(job, "1")] == [("c was 'draft', is 'FINAL'",)] * 2
    assert place.run(job) == (0, 6)
    rows = read_table(place.uri, columns=["row_id", "c"])
    assert Counter(map(tuple, (row.values() for row in rows.to_pylist()))) == {
        ("1", "FINAL"): 4,
        ("2", "final"): 6,
        ("3", "LOST"): 2,
    }
    assert place.answers() == before
    assert place.run(job) == (0, 0)


def test_a_plan_reads_of_the_parts_no_more_than_it_compares(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers may be of any size. A redrive only needs types, which a look at the keys gives."""
    job = place.job(place.csv("id,image,c,d", "1,a.png,x,y", "2,b.png,x,y"), "c", "d")
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}}
    prompt = PromptConfig.model_validate({"id": "p", "text": "What?", "schema": schema})
    job = job.model_copy(update={"prompts": (prompt,)})
    place.run(job)
    assert {"c", "d", "total"} <= set(read_table(place.uri).column_names)
    asked, read = list[set[str]](), committed.read_columns

    def noted(uri: str, receipt: Any, names: Any) -> pa.Table:
        asked.append(set(names))
        return read(uri, receipt, names)

    monkeypatch.setattr(committed, "read_columns", noted)
    assert preview.preview(job).to_keep == {"up to date": 2}
    assert asked == [{"c", "d"}]
    redrive = Redrive(selection=Selection(row_ids=frozenset("1")), base=job)
    prepare(job, limit=None, is_fresh=False, stop=threading.Event(), redrive=redrive).close()
    assert asked == [{"c", "d"}]


def test_a_redrive_carries_anew_only_what_it_answers(place: Place) -> None:
    """All else stays as it is, until the next run of the job."""
    place.run(place.job(place.csv("id,image,kind", "1,a.png,shoes", "2,b.png,hats"), "kind"))
    job = place.job(place.csv("id,image,kind", "1,a.png,X", "2,b.png,Y"), "kind")
    redrive = Redrive(selection=Selection(row_ids=frozenset("1")), base=job)
    # The stand-in of the cluster gives new rows without a look at what they replace.
    prepared = prepare(job, limit=None, is_fresh=False, stop=threading.Event(), redrive=redrive)
    prepared.close()
    assert [(shard.num_changed, shard.rewrites) for shard in prepared.shards] == [(0, ())]
    assert place.run(job) == (0, 2)


def test_a_run_that_is_stopped_or_loses_its_store_goes_on_where_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is replaced in one entry, by itself; an answer that got lost changes nothing."""
    monkeypatch.setattr(carried, "_PARTS_PER_GROUP", 1)
    names = [str(n) for n in range(4)]
    for name in names:
        place.run(place.job(place.csv("id,image,c", f"{name},a.png,x"), "c"))
    job = place.job(place.csv("id,image,c", *(f"{n},a.png,y" for n in names)), "c")
    stop, append = threading.Event(), Log.append

    def lose(self: Log, added: Any, removed: Any) -> bool:
        stands = append(self, added, removed)
        if removed and not stop.is_set():
            stop.set()
            raise StorageError("the answer was lost")
        return stands

    monkeypatch.setattr(Log, "append", lose)
    with pytest.raises((StorageError, RunStoppedError)):
        place.run(job, stop=stop)
    monkeypatch.setattr(Log, "append", append)
    assert sorted(place.column("c").values()) == ["x", "x", "x", "y"]
    assert place.run(job) == (0, 3)
    assert set(place.column("c").values()) == {"y"}


def test_a_lost_answer_of_the_store_is_no_second_part(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit stood; tried again, it finds its own entry and has nothing left to do."""
    place.run(place.job(place.csv("id,image,c", "1,a.png,x"), "c"))
    append, answers = Log.append, iter([StorageError("the answer was lost")])

    def lose(self: Log, added: Any, removed: Any) -> bool:
        stands = append(self, added, removed)
        for error in answers if removed else ():
            raise error
        return stands

    monkeypatch.setattr(Log, "append", lose)
    monkeypatch.setattr("dsvl_pipeline.store.retry.is_local", lambda uri: False)
    monkeypatch.setattr("dsvl_pipeline.store.retry.FIRST_DELAY_S", 0.01)
    assert place.run(place.job(place.csv("id,image,c", "1,a.png,y"), "c")) == (0, 1)
    assert place.column("c") == {"1": "y"}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 3_000_000], pa.date32()),
        pa.array([1, 253402300799999999], pa.timestamp("us", "Asia/Tokyo")),
        pa.array([1, 253402300799999999], pa.timestamp("us", "Mars/Base")),
        pa.array([1, 2**60], pa.duration("us")),
        pa.array(["a", None], pa.string_view()),
        pa.array([[1], None], pa.list_view(pa.int64())),
        pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        pa.array([{"d": 3_000_000}, None], pa.struct([("d", pa.date32())])),
        pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])),
        pa.array([1.5, None], pa.float16()),
    ],
    ids=lambda column: str(column.type),
)
def test_odd_values_reach_the_table_and_change_in_it(column: pa.Array, place: Place) -> None:
    """From Arrow to Arrow all the way; plain readers read them, and a second run finds them so."""
    job = place.job(place.parquet(id=["1", "2"], c=column), "c")
    assert place.run(job) == (2, 0)
    assert place.run(job) == (0, 0)
    turned = pa.concat_arrays([column.slice(1), column.slice(0, 1)])
    assert place.run(place.job(place.parquet(id=["1", "2"], c=turned), "c")) == (0, 2)
    for name in ("rows.csv", "rows.jsonl", "rows.md", "rows.parquet"):
        assert export(place.uri, str(place.folder / name)) == 2
    (history,) = row_histories(place.uri, "1")
    assert [stage.event for stage in history.stages] == ["carried", "answered"]


def test_pages_of_a_document_are_planned_with_what_it_carries(place: Place) -> None:
    """The rows of its pages are made of its own; a date goes along that Python cannot hold."""
    schema = work_schema(pa.schema([("d", pa.date32())]))
    rows = pa.Table.from_pylist(
        [
            {"row_id": "x.pdf", "kind": "document", "content_id": b"1", "prompt_id": "p"}
            | {"prompt": "What?", "sources": ["x.pdf"], CARRY + "d": day}
            for day in [pa.scalar(3_000_000, pa.date32())]
        ],
        schema=schema,
    )
    committed = pa.Table.from_pylist(
        [],
        schema=output_schema().empty_table().select(KEY_COLUMNS).schema,
    )
    todo = compare(rows, committed, recipe="r", asked={"p"}).todo
    assert todo[CARRY + "d"].cast(pa.int32()).to_pylist() == [3_000_000]


def test_rows_that_vanish_need_not_fit_the_new_type(place: Place) -> None:
    """The bad row was removed, so the column is a number from today on."""
    manifest = place.parquet(id=["a", "b", "c"], price=["1", "n/a", "3"])
    place.run(place.job(manifest, "price", vanished="drop"))
    before = [row for row in place.answers() if row["row_id"] != "b"]
    job = place.job(place.parquet(id=["a", "c"], price=[1, 4]), "price", vanished="drop")
    assert place.run(job) == (0, 1)
    assert place.column("price") == {"a": 1, "c": 4}
    assert place.answers() == before
    assert place.run(job) == (0, 0)


def test_fractions_that_vanish_leave_whole_numbers(place: Place) -> None:
    """A float that is no whole number would not fit, but it is on its way out."""
    job = place.job(place.parquet(id=["a", "b"], price=[1.0, 1.5]), "price", vanished="drop")
    place.run(job)
    place.run(place.job(place.parquet(id=["a"], price=[1]), "price", vanished="drop"))
    assert read_table(place.uri).schema.field("price").type == pa.int64()
    assert place.column("price") == {"a": 1}


def test_a_row_that_is_answered_anew_need_not_fit_the_new_type(place: Place) -> None:
    """Its picture changed together with its price; what it had stays until the new answer."""
    place.run(place.job(place.csv("id,image,price", "a,a.png,1", "b,b.png,n/a"), "price"))
    (place.folder / "b.png").write_bytes(jpeg(7))
    table = pa.table({"id": ["a", "b"], "image": ["a.png", "b.png"], "price": [1, 2]})
    pq.write_table(table, place.folder / "m.parquet")
    job = place.job(str(place.folder / "m.parquet"), "price")
    prepared = prepare(job, limit=None, is_fresh=False, stop=threading.Event())
    try:  # a run that is killed before its first answer
        (shard,) = prepared.shards
        _run_of(prepared, shard, threading.Event())._carry()
    finally:
        prepared.close()
    assert place.column("price") == {"a": "1", "b": "n/a"}
    assert place.run(job) == (1, 0)
    assert place.column("price") == {"a": 1, "b": 2}


def test_answers_of_a_changed_prompt_need_not_fit_the_new_type() -> None:
    """Another prompt's rows share the part: they get the new type, the old answers leave."""
    old = output_schema(None, {"total": "string"})
    rows = [
        {"row_id": "a", "prompt_id": "A", "total": "12 EUR"},
        {"row_id": "a", "prompt_id": "B"},
    ]
    part = pa.Table.from_pylist(rows, schema=old)
    keys = part.select(["row_id", "prompt_id"]).append_column(AT, pa.array([0, 1]))
    wanted = pa.table({"row_id": ["a", "a"]})
    compared = Comparison(
        todo=wanted, kept=keys.slice(1), stale=keys.slice(0, 1), staying=keys.slice(0, 0)
    )
    there = Committed(
        rows=keys,
        places={"p": slice(0, 2)},
        types={"p": {"total": pa.string()}},
        read=lambda path, names: part.select(names),
    )
    saved, empty = dict[int, pa.Table](), pa.schema([])
    found = carried.find(
        there,
        wanted,
        compared,
        carry=empty,
        fields={"total": "integer"},
        save=saved.__setitem__,
    )
    schema = carried.table_schema(output_schema(None, {"total": "integer"}), [found])
    (rewrite,) = carried.rewrites(found, schema)
    values = saved[rewrite.group].slice(rewrite.start, rewrite.num_rows)
    job = cast(Any, SimpleNamespace(fields={"total": "integer"}))
    kept, leaving = rewriting.rewritten("p", part, values, schema, job)
    assert (kept["prompt_id"].to_pylist(), kept.schema.field("total").type) == (["B"], pa.int64())
    assert leaving.equals(part.slice(0, 1))


def test_a_value_that_fits_nowhere_is_told_with_its_part_and_column() -> None:
    """Of another version's tables, say; a traceback would not help anyone."""
    rows = pa.table({"row_id": ["a"], "total": ["12 EUR"]})
    job = cast(Any, SimpleNamespace(fields={"total": "integer"}))
    schema = pa.schema([("row_id", pa.string()), ("total", pa.int64())])
    with pytest.raises(RunStoppedError, match=r"data/x.parquet: its column 'total' is string"):
        rewriting.rewritten("data/x.parquet", rows, None, schema, job)


def test_a_run_of_some_rows_leaves_alone_parts_that_only_lack_a_column(place: Place) -> None:
    """A look at one row must not write a large table again; the whole run does."""
    ids = [f"r{n}" for n in range(6)]
    for name in ids:
        place.run(place.job(place.parquet(id=[name], price=[0])))
    before = set(read_snapshot(place.uri).parts)
    job = place.job(place.parquet(id=ids, price=list(range(6))), "price")
    assert preview.preview(job, limit=1).num_rewritten_parts == 1
    assert place.run(job, limit=1, is_alike=False) == (0, 1)
    assert len(before & set(read_snapshot(place.uri).parts)) == 5
    redrive = Redrive(selection=Selection(row_ids=frozenset(["r1"])), base=job)
    prepared = prepare(job, limit=None, is_fresh=False, stop=threading.Event(), redrive=redrive)
    prepared.close()
    assert [shard.rewrites for shard in prepared.shards] == [()]
    assert place.run(job) == (0, 5)
    assert place.column("price") == {name: n for n, name in enumerate(ids)}


def test_values_of_a_shard_are_written_by_group_of_parts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file for a shard would be gigabytes, and in the driver's memory all at once."""
    monkeypatch.setattr(carried, "_PARTS_PER_GROUP", 2)
    ids = [f"r{n}" for n in range(5)]
    for name in ids:
        place.run(place.job(place.csv("id,image,c", f"{name},a.png,x"), "c"))
    job = place.job(place.csv("id,image,c", *(f"{n},a.png,{n}" for n in ids)), "c")
    prepared = prepare(job, limit=None, is_fresh=False, stop=threading.Event())
    prepared.close()
    (shard,) = prepared.shards
    sizes = [work_files.read(uri, shard.work_key).num_rows for uri in shard.values_files.values()]
    assert sizes == [2, 2, 1]
    assert place.run(job) == (0, 5)
    assert place.column("c") == {name: name for name in ids}


def test_a_shard_may_hold_more_than_one_array_of_text(place: Place) -> None:
    """2 GiB of text fit into many arrays only; here the rows of a part lie across them."""
    column = pa.chunked_array([["a", "b"], ["c"], [], ["d", None]], pa.string())
    places = np.array([4, 0, 2, 3, 0, 1])
    assert rewriting.take_rows(column, places).to_pylist() == [None, "a", "c", "d", "a", "b"]
    assert rewriting.take_rows(column.slice(0, 0), places[:0]).to_pylist() == []


def test_a_struct_with_two_fields_of_one_name_is_refused(place: Place) -> None:
    """Before anything runs, with the column and what to do."""
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array(["x"])], ["k", "k"])
    with pytest.raises(ConfigError, match=r"column 's' cannot be carried: .* 'k' 2 times; leave"):
        place.run(place.job(place.parquet(id=["a"], s=twice), "s"))


def test_a_part_that_is_written_again_is_read_once_and_stays_readable(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large table is not read twice for its copy of earlier versions."""
    place.run(place.job(place.csv("id,image,c", "1,a.png,x"), "c"))
    version = read_snapshot(place.uri).version
    prepared = prepare(
        place.job(place.csv("id,image,c", "1,a.png,y"), "c"),
        limit=None,
        is_fresh=False,
        stop=threading.Event(),
    )
    reads, read = list[str](), objects.read
    monkeypatch.setattr(objects, "read", lambda uri: reads.append(uri) or read(uri))
    try:
        (shard,) = prepared.shards
        _run_of(prepared, shard, threading.Event()).run()
        parts = [uri for uri in reads if "/data/" in uri]
        prepared.end("done", {0: 1}, {}, {}, stop=threading.Event())
    finally:
        prepared.close()
    assert len(parts) == 1
    assert read_table(place.uri, version=version)["c"].to_pylist() == ["x"]
    assert place.column("c") == {"1": "y"}
