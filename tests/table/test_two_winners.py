"""Stores that let two writers win one name: a proxy, a weak emulator, a race in 5,000."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dsvl_pipeline.errors import ConfigError, LeaseError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import checkpoints, lease
from dsvl_pipeline.table.checkpoints import repair_checkpoints
from dsvl_pipeline.table.claim import check_claims
from dsvl_pipeline.table.lease import Lease
from dsvl_pipeline.table.log import Log, read_snapshot
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.repair import repair
from dsvl_pipeline.table.snapshot import Author, Snapshot
from dsvl_pipeline.table.verify import verify
from dsvl_pipeline.table.writer import TableWriter
from tests.table.rows import image_rows, open_table, write


@pytest.fixture
def two_win(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Ends of names whose next claim succeeds although they are taken; the later body stands."""
    names: list[str] = []
    real = objects.put_if_absent

    def forge(uri: str, body: bytes) -> bool:
        for name in names:
            if uri.endswith(name) and objects.exists(uri):
                names.remove(name)
                objects.put(uri, body)
                return True
        return real(uri, body)

    monkeypatch.setattr(objects, "put_if_absent", forge)
    return names


@pytest.fixture
def open_beside(
    table_uri: str, two_win: list[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], TableWriter]:
    """Open a table whose first lease another holds, too: both came at the same moment."""

    def open_second() -> TableWriter:
        two_win.append("lease/00000001.json")
        with monkeypatch.context() as patch:
            patch.setattr(lease, "wait_until_free", lambda uri, time_s: 0)
            return open_table(table_uri, "second")

    return open_second


@pytest.mark.parametrize("then", ["end", "commit"])
def test_of_two_holders_of_one_lease_the_first_deletes_and_commits_nothing(
    table_uri: str, open_beside: Callable[[], TableWriter], then: str
) -> None:
    """The other's part, of the same number, is not its leftover; nor may the log let it append."""
    first = open_table(table_uri, "first")
    second = open_beside()
    receipt = write(second, image_rows({"a": "1"}))
    act: dict[str, Callable[[], object]] = {
        "end": first.finish,
        "commit": lambda: first.commit([write(first, image_rows({"b": "1"}))]),
    }
    with pytest.raises(LeaseError, match=r"run second.*the store let two drivers write one object"):
        act[then]()
    second.commit([receipt])
    second.finish()
    assert read_table(table_uri)["row_id"].to_pylist() == ["a"]
    assert verify(table_uri).problems == ()


def test_a_lease_won_between_check_and_delete_costs_no_part(
    table_uri: str, open_beside: Callable[[], TableWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a good end deletes was listed before the token was looked at for the last time."""
    first = open_table(table_uri, "first")
    real, found = first.confirm, []

    def confirm() -> None:
        real()
        second = open_beside()
        found.append((second, write(second, image_rows({"a": "1"}))))

    monkeypatch.setattr(first, "confirm", confirm)
    first.finish()
    ((second, receipt),) = found
    second.commit([receipt])
    second.finish()
    assert read_table(table_uri)["row_id"].to_pylist() == ["a"]


def _log(uri: str, number: int) -> Log:
    return Log(uri, Author(lease=number, run_id=f"run-{number}", recipe="r"))


@pytest.mark.parametrize("then", ["append", "confirm"])
def test_a_commit_that_another_overwrote_is_not_reported_as_done(
    table_uri: str, two_win: list[str], then: str
) -> None:
    """Neither by the next commit nor, where it was the last one, by the end of the run."""
    open_table(table_uri).close()
    sleeper, follower = _log(table_uri, 2), _log(table_uri, 3)
    rows = image_rows({"a": "1"})
    with open_table(table_uri + "-parts") as parts:
        first, second = write(parts, rows), write(parts, rows)
    assert sleeper.append([first], [])
    two_win.append("log/00000002.json")
    follower.take_over()  # it had listed the log before the sleeper's entry
    with pytest.raises(LeaseError, match=r"is that of run run-3 \(lease 3\); the store let two"):
        sleeper.append([second], []) if then == "append" else sleeper.confirm()
    assert follower.append([second], [])
    follower.confirm()


def test_an_earlier_entry_that_was_overwritten_is_found_at_the_end(
    tmp_path: Path, two_win: list[str]
) -> None:
    """The other's request was late by more than one commit."""
    uri = str(tmp_path / "table")
    with open_table(uri, "a") as writer:
        late = Log(uri, Author(lease=1, run_id="late", recipe="r"))
        writer.commit([write(writer, image_rows({"a": "1"}))])
        writer.commit([write(writer, image_rows({"b": "1"}))])
        two_win.append("log/00000002.json")
        late.take_over()
        with pytest.raises(LeaseError, match="is not what this driver committed"):
            writer.finish()


@pytest.fixture
def overwritten(
    table_uri: str, two_win: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Log, Log, str]:
    """Two who were told that entry 2, after which a checkpoint is due, is their own; its name."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 2)
    open_table(table_uri).close()
    loser, winner = _log(table_uri, 2), _log(table_uri, 3)
    with open_table(table_uri + "-parts") as parts:
        assert loser.append([write(parts, image_rows({"a": "1"}))], [])
        two_win.append("log/00000002.json")
        winner.take_over()
    return loser, winner, objects.join(table_uri, "_dsvl/checkpoints/00000002.json")


def test_who_lost_an_entry_leaves_no_checkpoint_of_it(overwritten: tuple[Log, Log, str]) -> None:
    """It is written after the entry was read back, by the one who finds the own token."""
    loser, winner, checkpoint = overwritten
    with pytest.raises(LeaseError, match="the store let two drivers"):
        loser.confirm()
    assert not objects.exists(checkpoint)
    winner.confirm()
    assert objects.exists(checkpoint)


@pytest.mark.parametrize("then", ["append", "confirm", "take over"])
def test_no_checkpoint_hides_an_earlier_entry_that_was_overwritten(
    table_uri: str, two_win: list[str], then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has built on it since; so it is with one that it only read when it came."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 4)
    open_table(table_uri).close()
    loser, late = _log(table_uri, 2), _log(table_uri, 3)
    with open_table(table_uri + "-parts") as parts:
        receipts = [write(parts, image_rows({name: "1"})) for name in "abcd"]
    for receipt in receipts[:3]:
        assert loser.append([receipt], [])
    if then == "take over":
        loser = _log(table_uri, 4)
    two_win.append("log/00000002.json")
    late.take_over()
    act: dict[str, Callable[[], object]] = {
        "append": lambda: loser.append(receipts[3:], []),
        "confirm": loser.confirm,
        "take over": loser.take_over,
    }
    with pytest.raises(LeaseError, match=r"00000002\.json: .* run run-3 .*; the store let two"):
        act[then]()
    assert list(objects.list_objects(objects.join(table_uri, "_dsvl/checkpoints"))) == []
    assert len(read_snapshot(table_uri).parts) == 2


@pytest.mark.parametrize("has_token", [True, False])
def test_readers_pass_over_the_checkpoint_of_who_lost_its_entry(
    table_uri: str, overwritten: tuple[Log, Log, str], has_token: bool
) -> None:
    """It looked just before the other's entry came; or an older version, which never looked."""
    loser, winner, checkpoint = overwritten
    checkpoints.write_checkpoint(loser.snapshot)
    if not has_token:
        document = json.loads(objects.read(checkpoint))
        del document["last_token"]
        objects.put(checkpoint, json.dumps(document).encode())
    assert len(loser.snapshot.parts) == 1
    assert read_snapshot(table_uri) == winner.snapshot
    assert repair(table_uri, is_dry=True).checkpoints == (checkpoint,)
    assert repair_checkpoints(winner.snapshot) == [checkpoint]
    assert repair(table_uri, is_dry=True).checkpoints == ()
    assert read_snapshot(table_uri) == winner.snapshot


def test_a_log_entry_that_vanished_is_not_built_upon(tmp_path: Path) -> None:
    """Somebody cleaned up behind a driver's back."""
    uri = str(tmp_path / "table")
    with open_table(uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
        (tmp_path / "table/_dsvl/log/00000002.json").unlink()
        with pytest.raises(TableError, match=r"00000002\.json: this driver .* it is gone"):
            writer.commit([write(writer, image_rows({"b": "1"}))])


def test_the_format_that_stands_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two drivers that make one table must not put rows into shards by different numbers."""
    uri, real = str(tmp_path), Lease.acquire

    def acquire(*args: Any, **kwargs: Any) -> Lease:
        other = b'{"layout_version": 1, "table_id": "other", "num_shards": 8}'
        objects.put(objects.join(uri, "_dsvl/format.json"), other)
        return real(*args, **kwargs)

    monkeypatch.setattr(Lease, "acquire", acquire)
    with open_table(uri, num_shards=4) as writer:
        assert writer.num_shards == 8


def test_a_store_that_looks_and_then_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other its writers are refused; at once, several win."""

    def weak(uri: str, body: bytes) -> bool:
        if objects.exists(uri):
            return False
        time.sleep(0.02)
        objects.put(uri, body)
        return True

    monkeypatch.setattr(objects, "put_if_absent", weak)
    with pytest.raises(ConfigError, match=r"of 4 writers of one object [234] were told .* first"):
        check_claims(str(tmp_path), "token")
    assert list((tmp_path / "_dsvl").iterdir()) == []


def test_a_store_that_lets_two_win_in_one_race_of_three_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first race may look good: connections are opened one by one."""
    real, lock, lies = objects.put_if_absent, threading.Lock(), ["-2.json"]

    def lie_once(uri: str, body: bytes) -> bool:
        with lock:
            won = real(uri, body)
            if not won and lies and uri.endswith(lies[0]):
                lies.clear()
                return True
            return won

    monkeypatch.setattr(objects, "put_if_absent", lie_once)
    with pytest.raises(ConfigError, match="of 4 writers of one object 2 were told"):
        check_claims(str(tmp_path), "token")


def test_a_good_store_passes_the_races(table_uri: str) -> None:
    """And nothing is left of them."""
    check_claims(table_uri, "token")
    assert list(objects.list_objects(table_uri)) == []
