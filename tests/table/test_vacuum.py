"""Vacuum: what no log entry names goes, when it is old enough."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dsvl_pipeline.errors import LeaseError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import lease
from dsvl_pipeline.table.log import list_versions, read_snapshot
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.vacuum import vacuum
from dsvl_pipeline.table.verify import verify
from tests.table.rows import image_rows, keys_of, open_table, write


def test_vacuum_deletes_unlogged_parts_only(table_uri: str) -> None:
    """Named first when asked to; committed rows and other files stay."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        lost = objects.join(table_uri, write(writer, image_rows({"b": "1"})).path)
    notes = objects.join(table_uri, "data", "notes.txt")
    objects.put(notes, b"1")
    assert [info.uri for info in vacuum(table_uri, is_dry=True)] == [lost]
    assert objects.exists(lost)
    assert any("no log entry names this part" in p.what for p in verify(table_uri).problems)
    assert [info.uri for info in vacuum(table_uri)] == [lost]  # however young: nobody is at work
    assert [problem.where for problem in verify(table_uri).problems] == ["data/notes.txt"]
    assert not objects.exists(lost)
    assert objects.exists(notes)
    assert read_table(table_uri)["row_id"].to_pylist() == ["a"]


@pytest.mark.parametrize("grace_s", [3600, 0])
def test_vacuum_removes_what_killed_writers_left(tmp_path: Path, grace_s: float) -> None:
    """Local writers leave temporary files; young ones may have a living writer."""
    open_table(str(tmp_path)).close()
    old, young = (tmp_path / f".part.{age}.dsvl-tmp" for age in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"1")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    vacuum(str(tmp_path), grace_s=grace_s)
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("hours_ahead", [61 / 60, 8 * 24, -8 * 24])
def test_the_clock_of_this_machine_does_not_count(
    table_uri: str, monkeypatch: pytest.MonkeyPatch, hours_ahead: float
) -> None:
    """A run elsewhere has written a part, and commits it within ten seconds."""
    real = time.time_ns
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        receipt = write(writer, image_rows({"b": "1"}))
        monkeypatch.setattr(time, "time_ns", lambda: real() + int(hours_ahead * 3600e9))
        assert vacuum(table_uri, grace_s=3600) == []
        writer.commit([receipt])
        writer.finish()
    assert read_table(table_uri)["row_id"].to_pylist() == ["a", "b"]
    assert verify(table_uri).problems == ()


def test_a_clock_that_is_far_off_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who writes --older-than-hours counts by it."""
    open_table(str(tmp_path)).close()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * 10**9)
    vacuum(str(tmp_path))
    assert "this machine's clock and the store's are 3600 s apart" in caplog.text


def test_files_that_a_clock_dated_wrong_are_safe_while_their_run_is_at_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever age the store tells: copied with their times, or from before it set its clock."""
    uri = str(tmp_path)
    with open_table(uri, "nightly") as writer:
        receipt = write(writer, image_rows({"a": "1"}))
        os.utime(tmp_path / receipt.path, (0, 0))
        for is_dry in (True, False):
            assert vacuum(uri, is_dry=is_dry) == []
        assert "has not committed yet stays: " in caplog.text
        assert "run nightly" in caplog.text
        writer.commit([receipt])
        writer.finish()
    assert read_table(uri)["row_id"].to_pylist() == ["a"]


def test_what_killed_runs_left_goes_while_another_run_is_at_work(table_uri: str) -> None:
    """Whose lease is lower than that of the log's last entry can commit nothing more."""
    killed = open_table(table_uri, "killed")
    lost = objects.join(table_uri, write(killed, image_rows({"a": "1"})).path)
    killed.close()
    with open_table(table_uri, "at work") as writer:
        receipt = write(writer, image_rows({"b": "1"}))
        version = read_snapshot(table_uri).version
        assert [info.uri for info in vacuum(table_uri, grace_s=-60)] == [lost]
        assert read_snapshot(table_uri).version == version
        writer.commit([receipt])
    assert read_table(table_uri)["row_id"].to_pylist() == ["b"]


def test_a_run_never_commits_what_vacuum_took(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept for longer than its lease; vacuum took over before it deleted."""
    sleeper = open_table(table_uri, "sleeper")
    receipt = write(sleeper, image_rows({"a": "1"}))
    sleeper._lease._released.set()
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_host_id", lambda: "elsewhere")
        assert len(vacuum(table_uri, grace_s=-60)) == 1
    with pytest.raises(LeaseError, match=r"run vacuum-\w+ .* took over"):
        sleeper.commit([receipt])
    monkeypatch.setattr(sleeper, "check", lambda: None)  # it had just looked when it fell asleep
    with pytest.raises(LeaseError, match=r"run vacuum-\w+ \(lease 2\) has written log entry 2"):
        sleeper.commit([receipt])
    open_table(table_uri, "next").close()
    assert read_table(table_uri).num_rows == 0


def test_young_parts_of_a_silent_run_cost_it_nothing(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be alive: only what is old is worth taking its lease."""
    monkeypatch.setattr(lease.Lease, "_keep", lambda self: None)
    monkeypatch.setattr(lease, "_host_id", lambda: None)
    with open_table(table_uri, "silent") as writer:
        receipt = write(writer, image_rows({"a": "1"}))
        assert vacuum(table_uri) == []
        writer.commit([receipt])
        writer.finish()
    assert read_table(table_uri)["row_id"].to_pylist() == ["a"]


def test_a_dry_vacuum_neither_writes_nor_waits(
    table_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """People without write permission look first; whether a silent run is alive stays open."""
    monkeypatch.setattr(lease.Lease, "_keep", lambda self: None)
    monkeypatch.setattr(lease, "_host_id", lambda: None)

    def refuse(*args: object) -> None:
        raise AssertionError(f"a dry run does this: {args}")

    with open_table(table_uri, "silent") as writer:
        write(writer, image_rows({"a": "1"}))
        with monkeypatch.context() as patch:
            for name in ("put", "put_if_absent", "delete"):
                patch.setattr(objects, name, refuse)
            patch.setattr(time, "sleep", refuse)
            assert vacuum(table_uri, grace_s=-60, is_dry=True) == []
        assert "whether it is alive was not waited for" in caplog.text


def test_a_dry_vacuum_takes_nothing_over(table_uri: str) -> None:
    """It only tells: neither lease nor log nor parts change."""
    with open_table(table_uri) as writer:
        write(writer, image_rows({"a": "1"}))
    before = [info.uri for info in objects.list_objects(table_uri)]
    assert len(vacuum(table_uri, grace_s=-60, is_dry=True)) == 1
    assert [info.uri for info in objects.list_objects(table_uri)] == before


def test_a_vacuum_is_a_version_of_its_own_only_where_it_had_to_take_over(tmp_path: Path) -> None:
    """An empty entry, by name; and the last run is still known."""
    uri = str(tmp_path)
    with open_table(uri, "run-1") as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        write(writer, image_rows({"b": "1"}))
    vacuum(uri, grace_s=-60)
    vacuum(uri, grace_s=-60)
    authors = [version.entry.author for version in list_versions(uri)]
    assert [author.operation for author in authors] == ["run", "run", "vacuum"]
    assert read_snapshot(uri).last_run_id == "run-1"


def test_strange_files_beside_superseded_parts_stay(table_uri: str) -> None:
    """They are somebody's."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
    with open_table(table_uri) as writer:
        rows = image_rows({"a": "2"})
        writer.commit([write(writer, rows)], superseded=keys_of(rows))
        writer.finish()
    notes = objects.join(table_uri, "_dsvl/superseded/README")
    objects.put(notes, b"1")
    assert len(vacuum(table_uri, grace_s=-60)) == 1
    assert objects.exists(notes)
