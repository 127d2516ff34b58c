"""Damaged and foreign files among a table's own: named, passed over where that costs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsvl_pipeline.cli import main
from dsvl_pipeline.errors import TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import lineage
from dsvl_pipeline.table.log import list_versions, read_snapshot
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.table.vacuum import vacuum
from dsvl_pipeline.table.verify import verify
from tests.table.rows import image_rows, open_table, write
from tests.table.test_lineage import RUN

COMMANDS = (
    ["status"],
    ["versions"],
    ["verify"],
    ["vacuum"],
    ["compact"],
    ["repair"],
    ["failures"],
    ["lineage", "a"],
    ["export", "copy.csv"],
    ["report", "page.html"],
)
GARBAGE = {
    "empty": b"",
    "blank": b"  \n",
    "cut": b'{"number": 2, "token": "ab',
    "list": b"[1, 2]",
    "null": b"null",
    "number": b"7",
    "bytes": b"\x00\xff\xfe\x89PNG",
    "nested": b"[" * 100_000,
    "no keys": b"{}",
}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good table with a run's manifest, two entries and room for commands' output."""
    monkeypatch.chdir(tmp_path)
    uri = str(tmp_path / "table")
    with open_table(uri, RUN.run_id) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        lineage.write_run(uri, replace(RUN, status="done", rows_expected={0: 1}))
        writer.finish()
    return tmp_path / "table"


def _ends(
    table: Path, capsys: pytest.CaptureFixture[str], *, is_short: bool = False
) -> dict[str, tuple[int, str]]:
    """How every command that reads a table ends, or two of them, and what it says."""
    ends = {}
    for name, *more in COMMANDS[1:3] if is_short else COMMANDS:
        code = main.main([name, str(table), *more])
        said = capsys.readouterr()
        assert "is a bug" not in said.err, said.err
        ends[name] = code, said.out + said.err
    return ends


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_a_damaged_entry_is_named_with_what_to_do(
    table: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    """The log is the table: no command may guess."""
    (table / "_dsvl/log/00000002.json").write_bytes(body)
    is_short = body != GARBAGE["cut"]
    for name, (code, said) in _ends(table, capsys, is_short=is_short).items():
        assert code == 3, name
        assert "_dsvl/log/00000002.json: this file is damaged: " in said, name
        assert "restore the file from a copy" in said, name
    with pytest.raises(TableError, match="restore the file"):
        open_table(str(table))


def _changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(values)


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.pop(name)


def _changed_part(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["added"][0].update(values)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_without("number"), "'number' is missing"),
        (_without("token"), "'token' is missing"),
        (_without("lease"), "'author.lease' is missing"),
        (_without("added"), "'added' is missing"),
        (_without("statuses"), "'statuses' is missing"),
        (_changed(number="two"), "'number' is 'two'"),
        (_changed(number=None), "'number' is None"),
        (_changed(lease=[1]), r"'author.lease' is \[1\]"),
        (_changed(operation="dance"), "'author.operation' is 'dance'"),
        (_changed(added="none"), "'added' is 'none'"),
        (_changed(added=[7]), "'added.0' is 7"),
        (_changed(removed={"a": 1}), "'removed' is "),
        (_changed(statuses=["ok"]), r"'statuses' is \['ok'\]"),
        (_changed(committed_at=3), "'committed_at' is 3"),
        (_changed_part(num_rows="many"), "'added.0.num_rows' is 'many'"),
        (_changed_part(path=None), "'added.0.path' is None"),
        (_changed_part(statuses={"ok": "x"}), "'added.0.statuses.ok' is 'x'"),
        (_changed(number=3), "log entry 2 is missing, 3 is there"),
        (_changed(number=1), "log entry 2 is missing, 1 is there"),
        (_changed(removed=["data/00000/none.parquet"]), "which is not in the table"),
    ],
)
def test_an_entry_with_wrong_values_is_named(
    table: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    found: str,
) -> None:
    """Somebody edited it, or another program writes such files."""
    path = table / "_dsvl/log/00000002.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(TableError, match=found) as caught:
        read_snapshot(str(table))
    assert "00000002.json" in str(caught.value) or "_dsvl/log" in str(caught.value)
    assert all(code == 3 for code, _ in _ends(table, capsys, is_short=True).values())


def test_an_entry_that_stands_twice_is_named(table: Path) -> None:
    """Copied under the next number, with that number in it: its rows stand there already."""
    body = json.loads((table / "_dsvl/log/00000002.json").read_text())
    (table / "_dsvl/log/00000003.json").write_text(json.dumps(body | {"number": 3}))
    with pytest.raises(TableError, match=r"log entry 3 adds data/.*, which is in the table"):
        read_snapshot(str(table))


def test_an_unknown_value_of_a_later_version_is_passed_over(table: Path) -> None:
    """Layouts may grow without a new number."""
    path = table / "_dsvl/log/00000002.json"
    document = json.loads(path.read_text())
    document["weather"] = "fine"
    document["added"][0]["colour"] = "red"
    path.write_text(json.dumps(document))
    assert read_table(str(table))["row_id"].to_pylist() == ["a"]


STRANGERS = (
    "README",
    "README.md",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "00000002 (1).json",
    "00000002.json.bak",
    "00000002.json~",
    "2.json",
    "zzz.json",
    ".00000003.json.0123.dsvl-tmp",
    "00000003.json.part",
    "old/00000001.json",
    "99999999x.json",
)


@pytest.mark.parametrize("folder", ["", "log", "lease", "checkpoints", "runs", "superseded"])
def test_strange_files_change_nothing(
    table: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    """Every command goes on, and a run too; nobody's files are deleted."""
    paths = [table / "_dsvl" / folder / name for name in STRANGERS]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"somebody's")
    for name, (code, said) in _ends(table, capsys).items():
        assert code == 0, (name, said)
    with open_table(str(table), "second") as writer:
        writer.commit([write(writer, image_rows({"b": "1"}))])
        writer.finish()
    assert sorted(read_table(str(table))["row_id"].to_pylist()) == ["a", "b"]
    vacuum(str(table), grace_s=-60)
    theirs = [path for path in paths if path.suffix != ".dsvl-tmp"]  # of our own killed writers
    assert all(path.read_bytes() == b"somebody's" for path in theirs)
    assert all(v.is_readable for v in list_versions(str(table))[-2:])


@pytest.mark.parametrize("folder", ["", "log", "lease", "checkpoints", "runs"])
def test_strange_directories_change_nothing(
    table: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    """Even one that is called as an entry would be."""
    for name in ("new folder", "00000099.json"):
        (table / "_dsvl" / folder / name).mkdir(parents=True)
    for name, (code, said) in _ends(table, capsys).items():
        assert code == 0, (name, said)


def test_a_directory_in_the_next_entrys_place_is_one_clear_message(table: Path) -> None:
    """Nothing is committed, and the error names it."""
    (table / "_dsvl/log/00000003.json").mkdir()
    with pytest.raises(Exception, match=r"00000003\.json") as caught:
        open_table(str(table))
    assert type(caught.value).__module__ == "dsvl_pipeline.errors"


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_a_damaged_checkpoint_costs_time_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    body: bytes,
) -> None:
    """The one before serves, then the log alone; a run goes on and writes the next one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 2)
    uri = str(tmp_path / "table")
    with open_table(uri) as writer:
        for name in "abcd":
            writer.commit([write(writer, image_rows({name: "1"}))])
    names = sorted((tmp_path / "table/_dsvl/checkpoints").iterdir())
    assert len(names) == 2
    for path in reversed(names):
        path.write_bytes(body)
        assert read_table(uri)["row_id"].to_pylist() == list("abcd")
        assert f"{path.name}: this file is damaged" in caplog.text
        assert "the log is read without it" in caplog.text
    ends = _ends(tmp_path / "table", capsys, is_short=body != GARBAGE["cut"])
    assert {name: code for name, (code, _) in ends.items() if code} == {}


def test_a_checkpoint_of_another_version_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy under a later name would hide the entries in between."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 2)
    uri = str(tmp_path)
    with open_table(uri) as writer:
        for name in "abcd":
            writer.commit([write(writer, image_rows({name: "1"}))])
    folder = tmp_path / "_dsvl/checkpoints"
    (folder / "00000005.json").write_bytes((folder / "00000002.json").read_bytes())
    assert read_table(uri)["row_id"].to_pylist() == list("abcd")


@pytest.mark.parametrize(
    "body",
    [*GARBAGE.values(), b'{"layout_version": 1}', b'{"layout_version": 1, "table_id": "x"}']
    + [
        json.dumps({"layout_version": 1, "table_id": "x", "num_shards": number}).encode()
        for number in (0, -1, "many", None, 1.5)
    ]
    + [b'{"layout_version": "one", "table_id": "x", "num_shards": 1}'],
)
def test_a_damaged_format_is_named_with_what_to_write(
    table: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    """Without the number of shards no row can be found."""
    (table / "_dsvl/format.json").write_bytes(body)
    is_short = body != GARBAGE["cut"]
    for name, (code, said) in _ends(table, capsys, is_short=is_short).items():
        assert code == 3, (name, said)
        assert "_dsvl/format.json: this file is damaged: " in said, name
        assert '"num_shards": N' in said, name
    with pytest.raises(TableError, match=r"format\.json: this file is damaged"):
        open_table(str(table))


def test_a_format_that_is_gone_is_not_made_anew_beside_a_log(table: Path) -> None:
    """With another number of shards every row would be computed, and stand, twice."""
    (table / "_dsvl/format.json").unlink()
    with pytest.raises(
        TableError, match=r"format\.json: this file is missing, but .* log is there"
    ):
        open_table(str(table))


@pytest.mark.parametrize(
    "body",
    [
        *GARBAGE.values(),
        b'{"run_id": "r", "status": "dancing"}',
        b'{"run_id": "r", "plan_id": "p", "status": "done", "started_at": "x", "recipe": "r",'
        b' "job_digest": "d", "rows_expected": {"first": 1}}',
        b'{"run_id": "r", "plan_id": "p", "status": "done", "started_at": "x", "recipe": "r",'
        b' "job_digest": "d", "figures": {"rows": "many"}}',
    ],
)
def test_a_damaged_run_manifest_costs_what_it_said(
    table: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    """Commands go on without it; verify, which cannot compare with it, calls it a problem."""
    (table / f"_dsvl/runs/{RUN.run_id}.json").write_bytes(body)
    is_short = body != GARBAGE["cut"]
    for name, (code, said) in _ends(table, capsys, is_short=is_short).items():
        assert code == int(name == "verify"), (name, said)
        if name == "verify":
            assert f"{RUN.run_id}.json: this file is damaged: " in said
    assert list(lineage.latest_runs(str(table), 3)) == []
    assert lineage.known_run(str(table), RUN.run_id) is None


FOREIGN = (
    "00000001-0123456789abcdef0123456789abcdef (1).parquet",
    "x (1).parquet",
    "copy.parquet",
    "part-0.parquet",
    "notes.txt",
    "Thumbs.db",
    "rows.csv",
    "00000/rows.parquet",
    "00000/00000001-0123456789abcdef0123456789abcdef.parquet.bak",
    "00000001-0123456789abcdef0123456789abcdef.parquet",
    "backup/00000001-0123456789abcdef0123456789abcdef.parquet",
    "00000/.hidden.parquet",
)


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_in_data_are_a_problem(tmp_path: Path, name: str, is_live: bool) -> None:
    """Tools that read the directory take them for rows, or fail; also while a run is at work."""
    table_uri = str(tmp_path)
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        if not is_live:
            writer.finish()
        uri = objects.join(table_uri, "data", name)
        objects.put(uri, b"somebody's")
        problems = verify(table_uri).problems
        assert [problem.where for problem in problems] == [f"data/{name}"]
        assert "move it away" in str(problems[0])
    assert objects.exists(uri)


@pytest.mark.parametrize("name", [".DS_Store", "_SUCCESS", "00000/._x", "_temporary/0/part.txt"])
def test_files_that_tools_pass_over_are_no_problem(tmp_path: Path, name: str) -> None:
    """Spark, pyarrow and pandas do not read what begins with a dot or an underscore."""
    table_uri = str(tmp_path)
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        writer.finish()
    objects.put(objects.join(table_uri, "data", name), b"1")
    assert verify(table_uri).problems == ()


@pytest.mark.parametrize("folder", ["00000", "00001", "old"])
def test_a_copy_of_a_part_is_a_problem(table_uri: str, folder: str) -> None:
    """Under another name in its place, or under its own elsewhere: its rows are read twice."""
    with open_table(table_uri) as writer:
        receipt = write(writer, image_rows({"a": "1"}))
        writer.commit([receipt])
        writer.finish()
    name = receipt.path.rpartition("/")[2]
    if folder == "00000":
        name = name[:-12] + "0000000.parquet"
    body = objects.read(objects.join(table_uri, receipt.path))
    objects.put(objects.join(table_uri, "data", folder, name), body)
    assert [p.where for p in verify(table_uri).problems] == [f"data/{folder}/{name}"]


def test_parts_of_a_run_at_work_are_no_problem(table_uri: str) -> None:
    """It commits them soon. Once it has ended without, nobody will: tools would read them."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        write(writer, image_rows({"b": "1"}))
        found = verify(table_uri)
        assert (found.problems, len(found.unlogged)) == ((), 1)
    (problem,) = verify(table_uri).problems
    assert "no log entry names this part although no run is at work" in problem.what
    with open_table(table_uri) as writer:
        writer.finish()
    assert verify(table_uri).problems == ()
