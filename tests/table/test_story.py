"""A row's story, through replacements, remainders, compactions and vacuums."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dsvl_pipeline.cli import main
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.table.compact import compact
from dsvl_pipeline.table.story import tell
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
    (story,) = tell(table_uri, "a")
    assert [(s.event, s.entry.author.run_id) for s in story.stages][1:] == [
        ("replaced", "second"),
        ("answered", "first"),
    ]
    assert story.stages[0].event == "merged"
    assert [stage.row["text"] for stage in story.stages] == ["2", "2", "1"]
    (other,) = tell(table_uri, "b")
    assert [stage.event for stage in other.stages] == ["merged", "moved", "answered"]
    assert other.row["text"] == "1"
    (last,) = tell(table_uri, "c")
    assert [stage.event for stage in last.stages] == ["merged", "answered"]


def test_a_story_says_where_it_ends_for_want_of_parts(tmp_path: Path) -> None:
    """A vacuum removes what only earlier versions need."""
    uri = str(tmp_path)
    _answer(uri, "first", {"a": "1", "b": "1"})
    _answer(uri, "second", {"a": "2"})
    vacuum(uri, grace_s=-60)
    (story,) = tell(uri, "b")
    assert [stage.event for stage in story.stages] == ["moved", "gone"]


def test_pages_and_prompts_have_stories_of_their_own(tmp_path: Path) -> None:
    """All are told, or the one that is asked for."""
    uri = str(tmp_path)
    with open_table(uri) as writer:
        for prompt in ("p", "q"):
            writer.commit([write(writer, page_rows("d.pdf", [1, 0], 2, prompt))])
    told = [(s.row["page_index"], s.row["prompt_id"]) for s in tell(uri, "d.pdf")]
    assert told == [(0, "p"), (0, "q"), (1, "p"), (1, "q")]
    assert len(tell(uri, "d.pdf", page_index=1)) == 2
    assert len(tell(uri, "d.pdf", page_index=1, prompt_id="q")) == 1
    with pytest.raises(ConfigError, match=r"no row with row_id 'd.pdf', page_index 2"):
        tell(uri, "d.pdf", page_index=2)


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
    (part,) = (tmp_path / "data").rglob("*.parquet")
    assert f"data/00000/{part.name}, sha256 " in out
    assert main.main(["lineage", uri, "z"]) == 2
    assert "has no row with row_id 'z'" in capsys.readouterr().err
