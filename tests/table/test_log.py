"""The log: entries in sequence, one author, and the same table whichever way it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dsvl_pipeline.errors import LeaseError, NotFoundError, StorageError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.checkpoints import repair_checkpoints
from dsvl_pipeline.table.format import create_format, read_format
from dsvl_pipeline.table.log import Log, read_entries, read_snapshot
from dsvl_pipeline.table.part import Receipt
from dsvl_pipeline.table.snapshot import Author, Snapshot
from tests.s3 import FaultyServer, Rule


def _receipt(name: str) -> Receipt:
    return Receipt(
        path=f"data/00000/00000001-{name}.parquet",
        shard=0,
        num_rows=2,
        statuses={"ok": 1, "error": 1},
        error_codes={"boom": 1},
        num_bytes=1,
        sha256="0",
        keys_digest="0",
    )


def _open(uri: str, lease: int = 1) -> Log:
    create_format(uri, num_shards=4)
    return Log(uri, Author(lease=lease, run_id=f"run-{lease}", recipe="recipe"))


def test_entries_add_up_and_every_version_stays_readable(table_uri: str) -> None:
    """What was added and not removed is the table."""
    written = _open(table_uri)
    a, b, c = map(_receipt, "abc")
    assert written.append([a, b], [])
    assert written.append([c], [a.path])
    assert set(written.snapshot.parts) == {b.path, c.path}
    assert read_snapshot(table_uri) == written.snapshot
    assert set(read_snapshot(table_uri, 1).parts) == {a.path, b.path}
    assert read_snapshot(table_uri, 0).parts == {}
    with pytest.raises(TableError, match=r"version 3 does not exist; the last one is 2"):
        read_snapshot(table_uri, 3)


def test_a_table_that_is_not_there_is_told(table_uri: str) -> None:
    """A wrong URI is the commonest mistake."""
    with pytest.raises(NotFoundError, match=r"there is no table here"):
        read_snapshot(table_uri)


def test_format_is_fixed_by_the_first(table_uri: str) -> None:
    """Rows hash into shards by it, so a later job's number does not count."""
    first = create_format(table_uri, num_shards=4)
    assert create_format(table_uri, num_shards=9) == first == read_format(table_uri)


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    """Better no answer than a wrong one."""
    create_format(str(tmp_path), num_shards=1)
    path = tmp_path / "_dsvl/format.json"
    path.write_text(path.read_text().replace('"layout_version": 1', '"layout_version": 2'))
    with pytest.raises(TableError, match=r"has layout 2.* knows layout 1; upgrade"):
        read_snapshot(str(tmp_path))


def test_checkpoints_change_nothing_but_the_cost(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every version reads the same with them, without them, and while they are replaced."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 3)
    written = _open(table_uri)
    receipts = [_receipt(str(index)) for index in range(11)]
    for index, receipt in enumerate(receipts):
        assert written.append([receipt], [receipts[index - 1].path] if index % 4 == 3 else [])
    names = [i.uri for i in objects.list_objects(objects.join(table_uri, "_dsvl", "checkpoints"))]
    assert [name[-13:] for name in names] == ["00000006.json", "00000009.json"]

    reads: list[str] = []
    real = objects.read_many

    def count(uris: list[str]) -> list[bytes]:
        reads.extend(uris)
        return real(uris)

    monkeypatch.setattr(objects, "read_many", count)
    with_checkpoints = [read_snapshot(table_uri, version) for version in range(12)]
    reads.clear()
    assert read_snapshot(table_uri) == written.snapshot == with_checkpoints[11]
    assert len(reads) == 2
    objects.delete(names)
    assert [read_snapshot(table_uri, version) for version in range(12)] == with_checkpoints


def test_a_checkpoint_without_a_token_is_read(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions wrote such; without it 100 entries more would be read."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 3)
    written = _open(table_uri)
    for name in "abcd":
        written.append([_receipt(name)], [])
    checkpoint = objects.join(table_uri, "_dsvl/checkpoints/00000003.json")
    document = json.loads(objects.read(checkpoint))
    assert document.pop("last_token")
    objects.put(checkpoint, json.dumps(document).encode())
    first = objects.join(table_uri, "_dsvl/log/00000001.json")
    objects.delete([first])  # so that only the checkpoint knows of it
    assert read_snapshot(table_uri) == written.snapshot


def test_a_driver_that_ended_on_a_full_hundred_costs_no_checkpoint(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before it read its last entry back; the next one writes it."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 3)
    killed = _open(table_uri)
    for name in "abc":
        killed.append([_receipt(name)], [])
    checkpoint = objects.join(table_uri, "_dsvl/checkpoints/00000003.json")
    assert not objects.exists(checkpoint)
    _open(table_uri, lease=2).take_over()
    assert objects.exists(checkpoint)


def test_the_last_entry_can_be_moved_away_although_a_checkpoint_holds_it(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the advice for a damaged one says. Its number is taken again: the log has no hole."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 2)
    written = _open(table_uri)
    for name in "abcd":
        written.append([_receipt(name)], [])
    written.confirm()
    before = read_snapshot(table_uri, 3)
    objects.delete([objects.join(table_uri, "_dsvl/log/00000004.json")])
    assert read_snapshot(table_uri) == before
    checkpoint = objects.join(table_uri, "_dsvl/checkpoints/00000004.json")
    assert repair_checkpoints(before, is_dry=True) == [checkpoint]
    follower = _open(table_uri, lease=2)
    follower.take_over()
    assert read_snapshot(table_uri) == follower.snapshot
    assert follower.append([_receipt("e")], [])
    follower.confirm()
    assert [entry.number for entry in read_entries(table_uri)] == [1, 2, 3, 4, 5]
    assert list(read_snapshot(table_uri).parts) == [_receipt(name).path for name in "abce"]
    assert repair_checkpoints(follower.snapshot, is_dry=True) == []


def test_a_damaged_entry_that_a_checkpoint_covers_is_only_named(
    table_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it said is in the checkpoint; nothing would be won by an error."""
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 2)
    written = _open(table_uri)
    for name in "abc":
        written.append([_receipt(name)], [])
    objects.put(objects.join(table_uri, "_dsvl/log/00000002.json"), b"{")
    assert read_snapshot(table_uri) == written.snapshot
    assert "00000002.json: this file is damaged" in caplog.text


def test_a_hole_in_the_log_is_noticed(table_uri: str) -> None:
    """A lost entry would silently drop its rows, or bring superseded ones back."""
    written = _open(table_uri)
    for name in "abc":
        written.append([_receipt(name)], [])
    objects.delete([objects.join(table_uri, "_dsvl/log/00000002.json")])
    with pytest.raises(TableError, match="log entry 2 is missing, 3 is there"):
        read_snapshot(table_uri)


@pytest.mark.s3
def test_a_lost_answer_does_not_double_an_entry(s3_faults: FaultyServer) -> None:
    """The retry finds our own entry, refused, and knows it by its token."""
    uri = f"{s3_faults.uri}/table"
    written = _open(uri)
    s3_faults.rules = [Rule(method="PUT", path="/log/", action="reset_after", count=-1, every=2)]
    receipts = [_receipt(str(index)) for index in range(6)]
    for receipt in receipts:
        assert written.append([receipt], [])
    assert s3_faults.rules[0].count < -3
    assert list(read_snapshot(uri).parts.values()) == receipts
    assert read_snapshot(uri).version == 6


def _break_after(
    monkeypatch: pytest.MonkeyPatch, real: Callable[[str, bytes], bool], is_done: bool
) -> None:
    """Let the next claim fail for good, after or before the store has acted."""

    def claim(uri: str, body: bytes) -> bool:
        monkeypatch.setattr(objects, "put_if_absent", real)
        if is_done:
            real(uri, body)
        raise StorageError("the store has gone away")

    monkeypatch.setattr(objects, "put_if_absent", claim)


@pytest.mark.parametrize("is_done", [True, False])
def test_an_open_question_is_settled_by_the_next_append(
    table_uri: str, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """After an outage nobody knows whether the last entry stands; it must not be taken twice."""
    written = _open(table_uri)
    real = objects.put_if_absent
    _break_after(monkeypatch, real, is_done)
    with pytest.raises(StorageError):
        written.append([_receipt("a")], [])
    assert written.append([_receipt("b")], []) != is_done
    name = "a" if is_done else "b"
    assert list(written.snapshot.parts) == [_receipt(name).path]
    assert read_snapshot(table_uri) == written.snapshot


def test_a_driver_that_was_taken_over_can_never_append(table_uri: str) -> None:
    """Even if it was about to: the number it would take next is gone."""
    old = _open(table_uri, lease=1)
    old.append([_receipt("a")], [])
    new = _open(table_uri, lease=2)
    old.append([_receipt("b")], [])  # after the new driver read the log, before it took over
    new.take_over()
    assert set(new.snapshot.parts) == {_receipt("a").path, _receipt("b").path}
    with pytest.raises(LeaseError, match=r"run run-2 \(lease 2\) has written log entry 3"):
        old.append([_receipt("c")], [])
    assert new.append([_receipt("d")], [])
    assert _receipt("c").path not in read_snapshot(table_uri).parts


def test_a_late_driver_does_not_take_over_from_its_successor(table_uri: str) -> None:
    """Two drivers may start at once; the higher lease stands."""
    late = _open(table_uri, lease=1)
    _open(table_uri, lease=2).take_over()
    with pytest.raises(LeaseError, match=r"run run-2 took over the table \(lease 2, ours is 1\)"):
        late.take_over()
    with pytest.raises(LeaseError, match="took over"):
        _open(table_uri, lease=1).take_over()
