"""Repair: what is lost or damaged leaves the table at once, and comes back by the next run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dsvl_pipeline.cli import main
from dsvl_pipeline.errors import ConfigError, LeaseError, NotFoundError, StorageError, TableError
from dsvl_pipeline.export.export import export
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.compact import compact
from dsvl_pipeline.table.failures import Selection, read_failures
from dsvl_pipeline.table.history import row_histories
from dsvl_pipeline.table.log import list_versions, read_snapshot
from dsvl_pipeline.table.part import Receipt, keep_superseded, read_columns
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.repair import repair
from dsvl_pipeline.table.snapshot import Snapshot
from dsvl_pipeline.table.verify import verify
from tests.table.rows import image_rows, keys_of, open_table, write

NUM_PARTS = 3


def _fill(uri: str) -> list[Receipt]:
    """Three parts of two rows each."""
    with open_table(uri) as writer:
        receipts = [
            write(writer, image_rows({f"{n}a": "1", f"{n}b": "1"})) for n in range(NUM_PARTS)
        ]
        for receipt in receipts:
            writer.commit([receipt])
        writer.finish()
    return receipts


def _compute(uri: str, wanted: list[str]) -> list[str]:
    """Do what a run does: answer what is wanted and not there."""
    with open_table(uri, "next") as writer:
        there = read_table(uri)["row_id"].to_pylist()
        missing = [row_id for row_id in wanted if row_id not in there]
        if missing:
            writer.commit([write(writer, image_rows(dict.fromkeys(missing, "1")))])
        writer.finish()
    return missing


def _delete(uri: str) -> None:
    objects.delete([uri])


def _cut(uri: str) -> None:
    objects.put(uri, objects.read(uri)[:100])


def _empty(uri: str) -> None:
    objects.put(uri, b"")


def _flip(uri: str) -> None:
    body = bytearray(objects.read(uri))
    body[len(body) // 2] ^= 1
    objects.put(uri, bytes(body))


def _lengthen(uri: str) -> None:
    objects.put(uri, objects.read(uri) + b"\n")


def _replace_by_text(uri: str) -> None:
    objects.put(uri, b"Access denied. Please log in.")


DAMAGES = [_delete, _cut, _empty, _flip, _lengthen, _replace_by_text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_or_damaged_part_heals(table_uri: str, damage: Callable[[str], None]) -> None:
    """One commit takes it out, the next run brings its rows back, each once."""
    receipts = _fill(table_uri)
    wanted = read_table(table_uri)["row_id"].to_pylist()
    damage(objects.join(table_uri, receipts[1].path))
    version = read_snapshot(table_uri).version
    done = repair(table_uri)
    assert [d.part.path for d in done.dropped] == [receipts[1].path]
    assert (done.num_rows, done.num_parts, done.restored) == (2, NUM_PARTS, ())
    entries = list_versions(table_uri)[version:]
    assert [(len(v.entry.added), v.entry.removed) for v in entries] == [
        (0, ()),
        (0, (receipts[1].path,)),
    ]
    assert verify(table_uri).problems == ()
    assert _compute(table_uri, wanted) == ["1a", "1b"]
    assert sorted(read_table(table_uri)["row_id"].to_pylist()) == sorted(wanted)
    assert verify(table_uri).problems == ()
    assert repair(table_uri).dropped == ()


def test_a_good_table_is_not_touched(table_uri: str) -> None:
    """No version, no lease, no time of a run's."""
    _fill(table_uri)
    before = [info.uri for info in objects.list_objects(table_uri)]
    done = repair(table_uri)
    assert (done.dropped, done.restored, done.checkpoints) == ((), (), ())
    assert [info.uri for info in objects.list_objects(table_uri)] == before


def test_a_dry_repair_only_tells(table_uri: str) -> None:
    """Every damaged part, and nothing changes."""
    receipts = _fill(table_uri)
    _delete(objects.join(table_uri, receipts[0].path))
    _flip(objects.join(table_uri, receipts[2].path))
    before = [info.uri for info in objects.list_objects(table_uri)]
    done = repair(table_uri, is_dry=True)
    assert [d.part.path for d in done.dropped] == [receipts[0].path, receipts[2].path]
    assert [info.uri for info in objects.list_objects(table_uri)] == before


def test_many_parts_leave_in_one_commit(table_uri: str) -> None:
    """All of them, so that a table may become empty and full again."""
    receipts = _fill(table_uri)
    wanted = read_table(table_uri)["row_id"].to_pylist()
    objects.delete(objects.join(table_uri, receipt.path) for receipt in receipts)
    version = read_snapshot(table_uri).version
    assert repair(table_uri, is_sure=True).num_rows == 6
    assert read_snapshot(table_uri).version == version + 2
    assert read_table(table_uri).num_rows == 0
    assert _compute(table_uri, wanted) == wanted
    assert verify(table_uri).problems == ()


@pytest.mark.parametrize(
    ("num_parts", "num_lost", "is_large"),
    [(1, 1, False), (2, 1, False), (2, 2, True), (5, 4, True), (41, 5, True), (50, 5, False)],
)
def test_many_parts_leave_only_when_that_is_sure(
    tmp_path: Path, num_parts: int, num_lost: int, is_large: bool
) -> None:
    """Where data/ was moved, or restored only in part, one command would empty the table."""
    uri = str(tmp_path)
    with open_table(uri) as writer:
        receipts = [write(writer, image_rows({str(n): "1"})) for n in range(num_parts)]
        writer.commit(receipts)
    for receipt in receipts[:num_lost]:
        (tmp_path / receipt.path).unlink()
    version = read_snapshot(uri).version
    assert repair(uri, is_dry=True).is_large == is_large
    if is_large:
        with pytest.raises(ConfigError, match=rf"{num_lost} of {num_parts} parts are missing"):
            repair(uri)
        assert read_snapshot(uri).version == version
    assert len(repair(uri, is_sure=is_large).dropped) == num_lost


def test_the_command_asks_before_it_empties_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2, with what to check; put back, the parts are good again; --yes does it."""
    uri = str(tmp_path)
    _fill(uri)
    (tmp_path / "data").rename(tmp_path / "data.old")
    assert main.main(["repair", uri]) == 2
    err = capsys.readouterr().err
    assert "3 of 3 parts are missing or damaged" in err
    assert f"Was {uri}/data moved" in err
    assert f"`dsvl repair {uri} --dry-run`" in err
    assert main.main(["repair", uri, "--dry-run"]) == 1
    assert "that many leave with --yes only" in capsys.readouterr().out
    (tmp_path / "data.old").rename(tmp_path / "data")
    assert main.main(["repair", uri]) == 0
    assert read_table(uri).num_rows == 6
    (tmp_path / "data").rename(tmp_path / "data.old")
    assert main.main(["repair", uri, "--yes"]) == 0
    assert read_table(uri).num_rows == 0


def test_a_part_of_which_there_is_a_copy_is_put_back(table_uri: str) -> None:
    """A run was killed between its copy and its commit, and later somebody deleted the part."""
    receipts = _fill(table_uri)
    keep_superseded(table_uri, receipts[0].path)
    keep_superseded(table_uri, receipts[1].path)
    _flip(objects.join(table_uri, "_dsvl/superseded", receipts[1].path))
    for receipt in receipts[:2]:
        _delete(objects.join(table_uri, receipt.path))
    done = repair(table_uri)
    assert [d.part.path for d in done.restored] == [receipts[0].path]
    assert [d.part.path for d in done.dropped] == [receipts[1].path]  # its copy is damaged as well
    assert verify(table_uri).problems == ()
    assert read_table(table_uri).num_rows == 4


def test_after_the_last_entry_was_moved_away_repair_finds_the_parts_it_had_removed(
    table_uri: str,
) -> None:
    """As the message about a damaged entry advises."""
    _fill(table_uri)
    with open_table(table_uri, "second") as writer:
        rows = image_rows({"0a": "2"})
        writer.commit([write(writer, rows)], superseded=keys_of(rows))
        writer.finish()
        version = writer.snapshot.version
    entry = objects.join(table_uri, f"_dsvl/log/{version:08d}.json")
    objects.put(entry, b"")
    with pytest.raises(TableError, match=rf"{version:08d}\.json: .* `dsvl repair` the table"):
        repair(table_uri)
    objects.delete([entry])
    assert len(repair(table_uri).restored) == 1
    assert sorted(set(read_table(table_uri)["text"].to_pylist())) == ["1"]
    assert verify(table_uri).problems == ()


def test_what_is_left_of_a_damaged_part_is_kept(tmp_path: Path) -> None:
    """One byte may be all that is wrong with answers that took a day."""
    uri = str(tmp_path)
    receipts = _fill(uri)
    _flip(objects.join(uri, receipts[0].path))
    body = (tmp_path / receipts[0].path).read_bytes()
    repair(uri)
    assert not (tmp_path / receipts[0].path).exists()
    assert (tmp_path / "_dsvl/superseded" / receipts[0].path).read_bytes() == body


def test_a_store_that_does_not_answer_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is no damage."""
    uri = str(tmp_path)
    _fill(uri)
    version = read_snapshot(uri).version
    real = objects.read

    def fail(name: str, **kwargs: object) -> bytes:
        if name.endswith(".parquet"):
            raise StorageError(f"read {name}: no answer")
        return real(name)

    with monkeypatch.context() as patch:
        patch.setattr(objects, "read", fail)
        with pytest.raises(StorageError, match="no answer"):
            repair(uri)
    assert read_snapshot(uri).version == version


def test_bytes_that_were_damaged_on_their_way_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything leaves the table."""
    uri = str(tmp_path)
    receipts = _fill(uri)
    real, damaged = objects.read, [receipts[0].path]

    def flip(name: str, **kwargs: object) -> bytes:
        body = real(name)
        if damaged and name.endswith(damaged[0]):
            damaged.clear()
            return body[:-1] + b"?"
        return body

    monkeypatch.setattr(objects, "read", flip)
    done = repair(uri)
    assert not damaged
    assert (done.dropped, done.restored) == ((), ())
    assert read_table(uri).num_rows == 6


def test_repair_waits_for_a_run(tmp_path: Path) -> None:
    """One driver a table."""
    uri = str(tmp_path)
    receipts = _fill(uri)
    (tmp_path / receipts[0].path).unlink()
    with open_table(uri, "nightly"), pytest.raises(LeaseError, match="run nightly"):
        repair(uri)


def test_repair_makes_no_table(tmp_path: Path) -> None:
    """A wrong URI leaves nothing behind."""
    with pytest.raises(NotFoundError, match="there is no table here"):
        repair(str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"version": "x"}', b"\x00" * 40])
def test_a_damaged_checkpoint_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """It is derived; readers do without it until then."""
    table_uri = str(tmp_path)
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 2)
    _fill(table_uri)
    before = read_snapshot(table_uri)
    checkpoint = objects.join(table_uri, "_dsvl/checkpoints/00000004.json")
    objects.put(checkpoint, body)
    assert read_snapshot(table_uri) == before
    assert repair(table_uri, is_dry=True).checkpoints == (checkpoint,)
    assert repair(table_uri).checkpoints == (checkpoint,)
    assert repair(table_uri).checkpoints == ()
    assert read_snapshot(table_uri).parts == before.parts


def test_a_checkpoint_of_an_entry_that_was_moved_away_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice for a damaged last entry ends with `dsvl repair`."""
    uri = str(tmp_path)
    monkeypatch.setattr(Snapshot, "ENTRIES_PER_CHECKPOINT", 2)
    receipts = _fill(uri)
    (tmp_path / "_dsvl/log/00000004.json").unlink()
    checkpoint = objects.join(uri, "_dsvl/checkpoints/00000004.json")
    assert repair(uri).checkpoints == (checkpoint,)
    assert repair(uri, is_dry=True).checkpoints == ()
    assert list(read_snapshot(uri).parts) == [receipt.path for receipt in receipts[:2]]
    assert [version.entry.number for version in list_versions(uri)] == [1, 2, 3, 4]


def _supersede(uri: str) -> None:
    with open_table(uri, "second") as writer:
        rows = image_rows({"0a": "2"})
        writer.commit([write(writer, rows)], superseded=keys_of(rows))


READERS: dict[str, Callable[[str], object]] = {
    "read_table": read_table,
    "compact": compact,
    "the rewrite of superseded parts": _supersede,
    "export": lambda uri: export(uri, uri + "/../copy.jsonl"),
    "failures": lambda uri: read_failures(uri, Selection(row_ids=frozenset({"0a"}))),
    "lineage": lambda uri: row_histories(uri, "0a"),
    "columns": lambda uri: [
        read_columns(uri, receipt, ["row_id"]) for receipt in read_snapshot(uri).parts.values()
    ],
}


@pytest.mark.parametrize("damage", [_delete, _cut])
@pytest.mark.parametrize("name", READERS)
def test_whoever_finds_such_a_part_advises_repair(
    tmp_path: Path, name: str, damage: Callable[[str], None]
) -> None:
    """The message is where people learn of the command."""
    uri = str(tmp_path / "table")
    receipts = _fill(uri)
    damage(objects.join(uri, receipts[0].path))
    with pytest.raises(TableError, match=rf"{receipts[0].path}.*`dsvl repair {uri}` take it out"):
        READERS[name](uri)


@pytest.mark.parametrize("damage", [_delete, _cut])
def test_what_verify_and_repair_print_names_a_part_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[str], None]
) -> None:
    """Verify advises repair, once; repair itself does not."""
    uri = str(tmp_path / "table")
    receipts = _fill(uri)
    for receipt in receipts[:2]:
        damage(objects.join(uri, receipt.path))
    assert main.main(["verify", uri]) == 1
    out = capsys.readouterr().out
    assert [out.count(receipt.path) for receipt in receipts] == [1, 1, 0]
    assert out.count(f"`dsvl repair {uri}`") == 1
    assert "2 parts lost or damaged: restore" in out
    assert main.main(["repair", uri, "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert [out.count(receipt.path) for receipt in receipts] == [1, 1, 0]
    assert "dsvl repair" not in out


@pytest.mark.parametrize("damage", [_delete, _cut, _empty, _replace_by_text])
def test_a_large_part_of_which_columns_are_read_is_named_too(
    table_uri: str, monkeypatch: pytest.MonkeyPatch, damage: Callable[[str], None]
) -> None:
    """By ranges, where a store refuses what lies beyond the end."""
    monkeypatch.setattr("dsvl_pipeline.table.part._WHOLE_BYTES", 0)
    monkeypatch.setattr("dsvl_pipeline.table.part._FOOTER_BYTES", 1 << 20)
    (receipt, *_) = _fill(table_uri)
    damage(objects.join(table_uri, receipt.path))
    with pytest.raises(TableError, match="dsvl repair"):
        read_columns(table_uri, receipt, ["row_id"])


def test_the_command_tells_what_it_did_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dry first: 1, as a check that does not hold; then for good; then there is nothing."""
    uri = str(tmp_path)
    receipts = _fill(uri)
    (tmp_path / receipts[0].path).unlink()
    assert main.main(["repair", uri, "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert f"to be dropped: {receipts[0].path}: " in out
    assert "2 rows would leave the table: run its job again" in out
    assert main.main(["repair", uri]) == 0
    out = capsys.readouterr().out
    assert f"dropped: {receipts[0].path}: " in out
    assert "1 part of 3 lost or damaged" in out
    assert "Rows whose input is gone cannot be computed again" in out
    assert main.main(["repair", uri]) == 0
    assert capsys.readouterr().out == "0 parts of 2 lost or damaged\n"
    assert main.main(["repair", str(tmp_path / "none")]) == 2
