"""A row's history, through replacements, remainders, compactions and vacuums."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dsvl_pipeline import keys
from dsvl_pipeline.cli import main
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.compact import compact
from dsvl_pipeline.table.history import row_histories
from dsvl_pipeline.table.lineage import RunManifest, write_run
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.repair import repair
from dsvl_pipeline.table.schema import output_schema
from dsvl_pipeline.table.vacuum import vacuum
from tests.table.rows import image_rows, keys_of, open_table, page_rows, write


def _answer(uri: str, run_id: str, answers: dict[str, str]) -> None:
    with open_table(uri, run_id) as writer:
        rows = image_rows(answers)
        at = rows.schema.get_field_index("run_id")
        rows = rows.set_column(at, "run_id", pa.array([run_id] * len(answers)))
        writer.commit([write(writer, rows)], superseded=keys_of(rows))
        writer.finish()


def test_a_story_goes_back_to_the_first_answer(table_uri: str) -> None:
    """Through every part the row has stood in, and past other rows' replacements."""
    _answer(table_uri, "first", {"a": "1", "b": "1"})
    _answer(table_uri, "second", {"a": "2"})
    _answer(table_uri, "third", {"c": "1"})
    compact(table_uri)
    (history,) = row_histories(table_uri, "a")
    assert [(s.event, s.entry.author.run_id) for s in history.stages][1:] == [
        ("replaced", "second"),
        ("answered", "first"),
    ]
    assert history.stages[0].event == "merged"
    assert [stage.row["text"] for stage in history.stages] == ["2", "2", "1"]
    (other,) = row_histories(table_uri, "b")
    assert [stage.event for stage in other.stages] == ["merged", "moved", "answered"]
    assert other.row["text"] == "1"
    (last,) = row_histories(table_uri, "c")
    assert [stage.event for stage in last.stages] == ["merged", "answered"]


def test_a_story_says_where_it_ends_for_want_of_parts(tmp_path: Path) -> None:
    """A vacuum removes what only earlier versions need."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "1", "b": "1"})
    _answer(uri, "second", {"a": "2"})
    vacuum(uri, grace_s=-60)
    (history,) = row_histories(uri, "b")
    assert [stage.event for stage in history.stages] == ["moved", "gone"]


def _lose(uri: str, holding: str) -> str:
    """Delete the part in which a row stands, and repair the table; give the part's path."""
    (history,) = row_histories(uri, holding)
    part = history.stages[0].part
    assert part is not None
    (Path(uri) / part.path).unlink()
    repair(uri)
    return part.path


def test_a_story_goes_back_past_a_repair(tmp_path: Path) -> None:
    """The part that was lost, and the answer before it, which is still there to be read."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "1", "b": "1"})
    _answer(uri, "second", {"a": "2"})
    lost = _lose(uri, "a")
    _answer(uri, "third", {"a": "3"})
    (history,) = row_histories(uri, "a")
    assert [stage.event for stage in history.stages] == ["answered", "dropped", "answered"]
    assert [stage.row.get("text") for stage in history.stages] == ["3", None, "1"]
    dropped = history.stages[1]
    assert dropped.part is not None
    assert dropped.part.path == lost
    assert dropped.entry.author.operation == "repair"


def test_a_story_names_each_repair(tmp_path: Path) -> None:
    """A disk that loses one part loses more."""
    uri = str(tmp_path)
    for run_id in ("first", "second"):
        _answer(uri, run_id, {"a": run_id})
        _lose(uri, "a")
    _answer(uri, "third", {"a": "third"})
    (history,) = row_histories(uri, "a")
    assert [stage.event for stage in history.stages] == ["answered", "dropped", "dropped"]


def test_a_repair_of_another_shard_is_no_part_of_a_story(tmp_path: Path) -> None:
    """Which rows a lost part held is not known, but they were of its shard."""
    uri = str(tmp_path)
    shards = {n: keys.shard_of(f"r{n}", 8) for n in range(40)}
    here, other = 0, next(n for n, shard in shards.items() if shard != shards[0])
    for run_id, n in (("first", other), ("second", here)):
        with open_table(uri, run_id, num_shards=8) as writer:
            writer.commit([write(writer, image_rows({f"r{n}": "1"}), shards[n])])
            writer.finish()
        if n == other:
            _lose(uri, f"r{other}")
    (history,) = row_histories(uri, f"r{here}")
    assert [stage.event for stage in history.stages] == ["answered"]


def test_a_story_tells_when_a_row_was_not_in_the_table(tmp_path: Path) -> None:
    """Its input was gone for a time, under output.vanished: drop."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "1", "b": "1"})
    with open_table(uri, "second") as writer:
        writer.commit([], superseded=keys_of(image_rows({"a": "1"})))
        writer.finish()
    _answer(uri, "third", {"a": "2"})
    (history,) = row_histories(uri, "a")
    assert [(s.event, s.entry.author.run_id) for s in history.stages] == [
        ("answered", "third"),
        ("left", "second"),
        ("answered", "first"),
    ]


def test_a_story_does_not_call_first_what_it_cannot_know(tmp_path: Path) -> None:
    """What was vacuumed may have held an answer to the row."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "1"})
    _answer(uri, "second", {"a": "2"})
    vacuum(uri, grace_s=-60)
    _answer(uri, "third", {"c": "1"})
    (history,) = row_histories(uri, "c")
    assert [stage.event for stage in history.stages] == ["answered", "unknown"]


def test_a_row_that_a_repair_dropped_is_not_simply_unknown(tmp_path: Path) -> None:
    """Before the job has run again there is no row to tell of."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "1"})
    _answer(uri, "second", {"b": "1"})
    _lose(uri, "a")
    with pytest.raises(ConfigError, match=r"dropped \(version \d+, .*running the job again"):
        row_histories(uri, "a")


def test_a_story_reads_only_the_keys_of_parts_without_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard's earlier parts are many and large; what a compaction merged is not looked at."""
    uri = str(tmp_path)
    for run_id in ("first", "second", "third"):
        text = secrets.token_hex(300_000)
        _answer(uri, run_id, {"a": f"{run_id} {text}", "b" + run_id: "1"})
    before = read_snapshot(uri).parts.keys()
    compact(uri)
    merged = read_snapshot(uri).parts.keys()
    _answer(uri, "fourth", {"a": "4"})
    _answer(uri, "fifth", {"c": "1"})
    whole, ranges = list[str](), list[str]()
    read, read_range = objects.read, objects.read_range

    def reading(found: str) -> bytes:
        whole.append(found)
        return read(found)

    def reading_range(found: str, offset: int, length: int, **version: Any) -> bytes:
        ranges.append(found)
        return read_range(found, offset, length, **version)

    monkeypatch.setattr(objects, "read", reading)
    monkeypatch.setattr(objects, "read_range", reading_range)
    (history,) = row_histories(uri, "c")
    assert [stage.event for stage in history.stages] == ["answered"]
    now = read_snapshot(uri).parts.keys()
    parts = [u for u in whole if u.endswith(".parquet")]
    assert parts
    assert all(any(u.endswith(path) for path in now) for u in parts)
    assert any(u.endswith(path) for u in ranges for path in merged - now)
    assert not any(u.endswith(path) for u in whole + ranges for path in before - merged - now)


@pytest.mark.parametrize(
    "named", ["cat.jpg", "animals/cat.jpg", "./cat.jpg", "CAT.JPG", "cta.jpg", "cat.jpeg"]
)
def test_a_short_or_mistyped_name_finds_the_row_that_is_meant(tmp_path: Path, named: str) -> None:
    """A row id is a whole path, which people do not write."""
    uri = str(tmp_path)
    _answer(uri, "first", {"/data/animals/cat.jpg": "1", "/data/animals/horse.jpg": "1"})
    with pytest.raises(ConfigError, match=r"did you mean '/data/animals/cat\.jpg'\? "):
        row_histories(uri, named)


def test_pages_and_prompts_have_stories_of_their_own(tmp_path: Path) -> None:
    """All are told, or the one that is asked for."""
    uri = str(tmp_path)
    with open_table(uri) as writer:
        for prompt in ("p", "q"):
            writer.commit([write(writer, page_rows("d.pdf", [1, 0], 2, prompt))])
    told = [(s.row["page_index"], s.row["prompt_id"]) for s in row_histories(uri, "d.pdf")]
    assert told == [(0, "p"), (0, "q"), (1, "p"), (1, "q")]
    assert len(row_histories(uri, "d.pdf", page_index=1)) == 2
    assert len(row_histories(uri, "d.pdf", page_index=1, prompt_id="q")) == 1
    with pytest.raises(ConfigError, match=r"no row with row_id 'd.pdf', page_index 2"):
        row_histories(uri, "d.pdf", page_index=2)


def test_the_command_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Part, log entry and what was replaced stand there; a missing row is the user's mistake."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "old"})
    _answer(uri, "second", {"a": "new"})
    assert main.main(["lineage", uri, "a"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("row a, prompt caption\n")
    assert "answered anew, in the place of the answer below" in out
    assert ": new\n" in out
    assert ": old\n" in out
    assert "answered for the first time" in out
    (part,) = (tmp_path / "data").rglob("*.parquet")
    assert f"data/00000/{part.name}, sha256 " in out
    assert main.main(["lineage", uri, "z"]) == 2
    assert "has no row with row_id 'z'" in capsys.readouterr().err


def test_the_command_says_first_only_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a repair the row is new to the table, but not to who asked it before."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "1"})
    _lose(uri, "a")
    _answer(uri, "second", {"a": "2"})
    assert main.main(["lineage", uri, "a"]) == 0
    out = capsys.readouterr().out
    assert "for the first time" not in out
    assert "a repair dropped this lost or damaged part, which may have held an" in out


def test_the_command_puts_what_belongs_to_the_answer_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log-probabilities, in short, and the columns of the prompt's schema; not what is carried."""
    uri = str(tmp_path)
    row = {
        "row_id": "a",
        "prompt_id": "caption",
        "status": "ok",
        "run_id": "r1",
        "mean_logprob": -0.25,
        "min_logprob": -1.5,
        "logprobs": [-0.001 * n for n in range(300)],
        "colour": "red",
        "category": "shoes",
        "place": [51.507351, -0.127758, 1234567.0, *range(4, 11)],
    }
    carry = pa.schema([("category", pa.string()), ("place", pa.list_(pa.float64()))])
    schema = output_schema(carry, {"colour": "string"})
    with open_table(uri, "r1") as writer:
        writer.commit([write(writer, pa.Table.from_pylist([row], schema))])
        writer.finish()
    wanted = {"properties": {"colour": {"type": "string"}}}
    manifest = RunManifest(
        run_id="r1",
        plan_id="p",
        status="done",
        started_at="2026-01-01T00:00:00+00:00",
        recipe="00",
        job={"name": "test", "prompts": [{"id": "caption", "schema": wanted}]},
        job_digest="00",
    )
    write_run(uri, manifest)
    assert main.main(["lineage", uri, "a"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["carried", "category", "shoes"] in lines
    (place,) = (" ".join(line[1:]) for line in lines if line[:1] == ["place"])
    assert place == "51.507351, -0.127758, 1234567.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0"
    assert ["answer's", "fields", "colour", "red"] in lines
    assert ["mean_logprob", "-0.25"] in lines
    (logprobs,) = (line for line in lines if line[:1] == ["logprobs"])
    assert logprobs[1:4] == ["-0,", "-0.001,", "-0.002,"]
    assert logprobs[-4:] == ["...", "(300", "in", "all)"]


def test_the_command_tells_of_a_run_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pages of a document are mostly one run's, whose model is the same for all."""
    uri = str(tmp_path)
    rows = page_rows("d.pdf", [0, 1, 2], 3, "read")
    at = rows.schema.get_field_index("run_id")
    rows = rows.set_column(at, "run_id", pa.array(["r1", "r1", "r2"]))
    at = rows.schema.get_field_index("weights_digest")
    rows = rows.set_column(at, "weights_digest", pa.array(["w1", "w1", "w2"]))
    with open_table(uri, "r1") as writer:
        writer.commit([write(writer, rows)])
        writer.finish()
    assert main.main(["lineage", uri, "d.pdf"]) == 0
    out = capsys.readouterr().out
    assert out.count("weights_digest") == 2
    assert out.count("model and run are those of a row above") == 1
