"""Compaction: fewer parts, the same rows, for every reader and after every crash."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline.errors import LeaseError, NotFoundError, StorageError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.compact import compact
from dsvl_pipeline.table.lineage import read_run, write_run
from dsvl_pipeline.table.log import list_versions, read_snapshot
from dsvl_pipeline.table.reader import counts, read_table
from dsvl_pipeline.table.vacuum import vacuum
from dsvl_pipeline.table.verify import verify
from dsvl_pipeline.table.writer import TableWriter
from tests.payload import payload_digest
from tests.table.rows import image_rows, keys_of, open_table, write
from tests.table.test_lineage import RUN


def _fill(uri: str, num_parts: int) -> None:
    with open_table(uri) as writer:
        for number in range(num_parts):
            answers = {f"row-{number}-{n}": "1" for n in range(3)}
            writer.commit([write(writer, image_rows(answers))])
        writer.finish()


def _plain(uri: str) -> pa.Table:
    return pyarrow.dataset.dataset(Path(uri) / "data", format="parquet").to_table()


def test_compaction_merges_parts_and_changes_no_row(table_uri: str) -> None:
    """For readers of the log and of the directory; a second time there is nothing to do."""
    _fill(table_uri, 7)
    before = payload_digest(read_table(table_uri))
    done = compact(table_uri, rows_per_part=9)
    assert (done.num_parts_before, done.num_parts) == (7, 3)
    assert payload_digest(read_table(table_uri)) == before
    assert counts(table_uri).ok == 21
    found = verify(table_uri)
    assert (found.problems, found.unlogged, found.num_parts) == ((), (), 3)
    assert compact(table_uri, rows_per_part=9).num_parts == 3
    if not table_uri.startswith("s3://"):
        assert payload_digest(_plain(table_uri)) == before


def test_a_merged_part_says_what_it_was_made_of(tmp_path: Path) -> None:
    """What its parts agreed on stays, and their names and digests are kept."""
    uri = str(tmp_path)
    _fill(uri, 2)
    before = read_snapshot(uri).parts
    compact(uri)
    (path,) = read_snapshot(uri).parts
    metadata = pq.read_metadata(tmp_path / path).metadata
    assert metadata[b"dsvl.run"] == b"run"
    origins = json.loads(metadata[b"dsvl.compacted_from"])
    assert origins == [{"path": r.path, "sha256": r.sha256} for r in before.values()]


def test_parts_from_before_the_logprobs_are_merged_with_later_ones(tmp_path: Path) -> None:
    """Their rows have none; before and after, whichever part comes last."""
    uri, names = str(tmp_path), ["mean_logprob", "min_logprob", "logprobs"]
    old, new = image_rows({"a": "1"}), image_rows({"b": "1"})
    said = {"mean_logprob": -1.0, "min_logprob": -1.5, "logprobs": [-0.5, -1.5]}
    for name, value in said.items():
        at, field = new.schema.get_field_index(name), new.schema.field(name)
        new = new.set_column(at, field, pa.array([value], field.type))
    with open_table(uri) as writer:
        writer.commit([write(writer, old.drop_columns(names))])
        assert read_table(uri, columns=names).to_pylist() == [dict.fromkeys(names)]
        writer.commit([write(writer, new)])
        writer.commit([write(writer, image_rows({"c": "1"}).drop_columns(names))])
        writer.finish()
    for _ in range(2):
        rows = read_table(uri, columns=["row_id", *names]).to_pylist()
        assert {row.pop("row_id"): row for row in rows} == {
            "a": dict.fromkeys(names),
            "b": said,
            "c": dict.fromkeys(names),
        }
        compact(uri)
    assert verify(uri).problems == ()


def test_rows_of_different_columns_are_merged(tmp_path: Path) -> None:
    """A later run carried more, or a carried column changed its type."""
    uri = str(tmp_path)
    with open_table(uri) as writer:
        old, new = image_rows({"a": "1"}), image_rows({"b": "1"})
        at = new.schema.get_field_index("category")
        new = new.set_column(at, "category", pa.array([7])).append_column("more", pa.array(["x"]))
        writer.commit([write(writer, old), write(writer, new)])
    before = read_table(uri)
    assert before["category"].to_pylist() == ["shoes", "7"]
    compact(uri)
    assert read_table(uri).equals(before)


def test_every_earlier_version_stays_readable_until_vacuum(table_uri: str) -> None:
    """After replaced rows, a good end and a compaction; the last version always is."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1", "b": "1"}))])
        writer.finish()
        first = writer.snapshot.version
    with open_table(table_uri, "second") as writer:
        new = image_rows({"b": "2"})
        writer.commit([write(writer, new)], superseded=keys_of(new))
        writer.finish()
        second = writer.snapshot.version
    compact(table_uri)
    assert sorted(read_table(table_uri, version=first)["text"].to_pylist()) == ["1", "1"]
    assert sorted(read_table(table_uri, version=second)["text"].to_pylist()) == ["1", "2"]
    versions = list_versions(table_uri)
    assert [v.entry.number for v in versions] == list(range(1, len(versions) + 1))
    assert all(v.is_readable for v in versions)
    assert versions[-1].entry.author.operation == "compact"

    assert vacuum(table_uri) == []
    assert len(vacuum(table_uri, grace_s=-60)) == 3  # the first part, what was left of it, b's
    assert not list_versions(table_uri)[first - 1].is_readable
    with pytest.raises(TableError, match="can be read until `dsvl vacuum` removes it"):
        read_table(table_uri, version=first)
    assert sorted(read_table(table_uri)["text"].to_pylist()) == ["1", "2"]


def test_the_last_run_is_still_known_after_a_compaction(tmp_path: Path) -> None:
    """``verify`` holds the rows against what that run wanted, not the compaction."""
    uri = str(tmp_path)
    _fill(uri, 2)
    write_run(uri, RUN.__class__(**{**_fields(RUN), "run_id": "run", "rows_expected": {0: 7}}))
    compact(uri)
    found = verify(uri)
    assert found.last_run == read_run(uri, "run").status == "done"  # type: ignore[union-attr]
    assert ["has 6 rows, but its last run wanted 7" in str(p) for p in found.problems] == [True]


def _fields(run: object) -> dict[str, object]:
    return {name: getattr(run, name) for name in run.__slots__} | {"status": "done"}  # type: ignore[attr-defined]


def test_neither_compacts_beside_a_run_nor_runs_beside_a_compaction(table_uri: str) -> None:
    """One driver a table, whatever it does."""
    with open_table(table_uri, "nightly"), pytest.raises(LeaseError, match="run nightly"):
        compact(table_uri)


def test_compaction_makes_no_table(tmp_path: Path) -> None:
    """A wrong URI leaves nothing behind."""
    with pytest.raises(NotFoundError, match="there is no table here"):
        compact(str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()


def test_readers_see_each_row_once_while_parts_are_merged(tmp_path: Path) -> None:
    """A reader that had planned to read a part which is now gone gets the version it began with."""
    uri = str(tmp_path)
    _fill(uri, 12)
    wanted = read_table(uri)["row_id"].to_pylist()
    is_over = threading.Event()
    seen: list[object] = []

    def read() -> None:
        while not is_over.is_set():
            try:
                seen.append(sorted(read_table(uri)["row_id"].to_pylist()))
            except Exception as error:
                seen.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for rows_per_part in (6, 12, 100):
        compact(uri, rows_per_part=rows_per_part)
    is_over.set()
    for reader in readers:
        reader.join()
    assert len(seen) > 4
    assert all(found == sorted(wanted) for found in seen)


def test_a_compaction_killed_anywhere_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two operations on the store, before or after the store has acted."""
    real = {name: getattr(objects, name) for name in ("put", "put_if_absent", "delete")}
    step = 0
    while True:
        uri = str(tmp_path / str(step))
        _fill(uri, 4)
        before = payload_digest(read_table(uri))
        left = step // 2

        def dying(name: str, is_late: bool = bool(step % 2)) -> object:
            def act(*arguments: object) -> object:
                nonlocal left
                if left < 0:
                    raise StorageError("dead")
                left -= 1
                result = real[name](*arguments) if left >= 0 or is_late else None
                if left < 0:
                    raise StorageError("killed")
                return result

            return act

        for name in real:
            monkeypatch.setattr(objects, name, dying(name))
        try:
            compact(uri)
            is_through = True
        except StorageError:
            is_through = False
        for name, function in real.items():
            monkeypatch.setattr(objects, name, function)
        assert payload_digest(read_table(uri)) == before, f"killed at operation {step // 2}"
        assert verify(uri).problems == ()
        if is_through:
            break
        _release(monkeypatch)
        with TableWriter.open(uri, num_shards=1, run_id="next", recipe="") as writer:
            writer.finish()
        assert payload_digest(_plain(uri)) == before
        assert verify(uri).unlogged == ()
        step += 1
    assert step > 16


def _release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dead compaction count as a process that has ended."""
    from itertools import count

    from dsvl_pipeline.table import lease

    starts = count()
    monkeypatch.setattr(lease, "_process_started", lambda pid: next(starts))
