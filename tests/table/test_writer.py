"""The driver's side: commits, superseding, take-over, and what a good end leaves behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from dsvl_pipeline.errors import AccessError, ConfigError, LeaseError, StorageError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import lease
from dsvl_pipeline.table.lease import Lease
from dsvl_pipeline.table.reader import counts, read_table
from dsvl_pipeline.table.verify import verify
from dsvl_pipeline.table.writer import TableWriter
from tests.s3 import FaultyServer, Rule
from tests.table.rows import image_rows, keys_of, open_table, write


def _texts(uri: str) -> dict[str, str]:
    """The table as a dictionary; doubled rows fail."""
    rows = read_table(uri, columns=["row_id", "text"]).to_pylist()
    answers = {row["row_id"]: row["text"] for row in rows}
    assert len(answers) == len(rows)
    return answers


def _bury_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every driver so far count as one whose process has ended."""
    starts = itertools.count()
    monkeypatch.setattr(lease, "_process_started", lambda pid: next(starts))


def test_a_place_that_holds_something_else_is_refused(table_uri: str) -> None:
    """Readers of ``data/`` would take a stranger's files for the table's; nothing is written."""
    stranger = objects.join(table_uri, "data", "photo.parquet")
    objects.put(stranger, b"1")
    with pytest.raises(ConfigError, match=r"output\.uri: .* neither empty nor a table") as caught:
        open_table(table_uri)
    assert stranger in str(caught.value)
    assert [info.uri for info in objects.list_objects(table_uri)] == [stranger]


def test_a_table_stays_one_whatever_is_laid_beside_it(table_uri: str) -> None:
    """Also a file that sorts before all of ours, and a driver that died before the format."""
    objects.put(objects.join(table_uri, "_dsvl", "probe-killed.json"), b"first")
    open_table(table_uri).close()
    objects.put(objects.join(table_uri, "A-NOTE.txt"), b"mine")
    open_table(table_uri).close()


@pytest.mark.parametrize("place", ["file", "file/table", "file/deep/table"])
def test_a_place_at_or_below_a_file_names_the_setting(tmp_path: Path, place: str) -> None:
    """A mistake of the job, not of the store: exit code 2."""
    (tmp_path / "file").write_text("image\n")
    with pytest.raises(ConfigError, match=r"^output\.uri: .*file") as caught:
        open_table(str(tmp_path / place))
    assert caught.value.exit_code == 2


@pytest.mark.s3
def test_a_wrong_bucket_names_the_setting(s3_bucket: str) -> None:
    """And what was being done there, not the cleaning up after it."""
    with pytest.raises(ConfigError, match=r"^output\.uri: .*no such bucket") as caught:
        open_table("s3://no-such-bucket-here/table")
    assert "delete" not in str(caught.value)


def test_a_probe_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting it fails too, but that is not what went wrong."""
    refused: list[str] = []

    def refuse(uri: str, body: bytes) -> bool:
        if body == b"writer 1":
            raise AccessError(f"put {uri}: refused")
        return True

    def fail(uris: list[str]) -> None:
        refused.extend(uris)
        raise AccessError("delete: refused")

    monkeypatch.setattr(objects, "put_if_absent", refuse)
    monkeypatch.setattr(objects, "delete", fail)
    with pytest.raises(ConfigError, match=r"put .*refused"):
        open_table(str(tmp_path / "table"))
    assert refused


def test_a_table_may_lie_under_any_name(tmp_path: Path) -> None:
    """Letters that mean something in patterns mean nothing in ``output.uri``."""
    uri = str(tmp_path / "run[1]*?")
    for answer in ("1", "2"):
        with open_table(uri) as writer:
            rows = image_rows({"a": answer})
            writer.commit([write(writer, rows)], superseded=keys_of(rows))
            writer.finish()
    assert read_table(uri)["text"].to_pylist() == ["2"]
    assert not verify(uri).problems
    assert len(list((tmp_path / "run[1]*?" / "data").rglob("*.parquet"))) == 1


def test_nothing_is_visible_before_its_commit(table_uri: str) -> None:
    """And all of it at once afterwards."""
    with open_table(table_uri) as writer:
        receipts = [write(writer, image_rows({"a": "1"})), write(writer, image_rows({"b": "2"}))]
        assert _texts(table_uri) == {}
        writer.commit(receipts)
        assert _texts(table_uri) == {"a": "1", "b": "2"}


def test_a_repeated_commit_changes_nothing(table_uri: str) -> None:
    """Who got an error commits again without having to know how far it came."""
    with open_table(table_uri) as writer:
        receipt = write(writer, image_rows({"a": "1"}))
        writer.commit([receipt])
        version = writer.snapshot.version
        writer.commit([receipt])
        writer.commit([])
        assert writer.snapshot.version == version


def test_superseded_rows_leave_with_the_commit_of_the_new_ones(table_uri: str) -> None:
    """Each version has every row once; rows nobody asked again stay as they are."""
    with open_table(table_uri) as writer:
        writer.commit(
            [
                write(writer, image_rows({"a": "1", "b": "1", "c": "1"})),
                write(writer, image_rows({"d": "1"})),
            ]
        )
        writer.finish()
    with open_table(table_uri, "second") as writer:
        new = image_rows({"b": "2", "d": "2"})
        before = writer.snapshot.version
        writer.commit([write(writer, new)], superseded=keys_of(new))
        assert writer.snapshot.version == before + 1
        assert _texts(table_uri) == {"a": "1", "b": "2", "c": "1", "d": "2"}
        assert read_table(table_uri, version=before)["text"].to_pylist() == ["1"] * 4
        assert counts(table_uri).ok == 4
        # What is left of a part keeps its lineage.
        assert set(read_table(table_uri)["category"].to_pylist()) == {"shoes"}
        writer.finish()
    assert _texts(table_uri) == {"a": "1", "b": "2", "c": "1", "d": "2"}
    assert verify(table_uri).problems == ()


def test_a_writer_never_removes_what_it_committed_itself(table_uri: str) -> None:
    """The same list of superseded rows may be given with each commit of a run."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1", "b": "1", "c": "1"}))])
    with open_table(table_uri) as writer:
        stale = keys_of(image_rows({"a": "", "b": "", "c": ""}))
        writer.commit([write(writer, image_rows({"a": "2"}))], superseded=stale.slice(0, 1))
        writer.commit([write(writer, image_rows({"b": "2"}))], superseded=stale)
        writer.commit([], superseded=stale)
        assert _texts(table_uri) == {"a": "2", "b": "2"}


def test_after_a_good_end_the_directory_is_the_table(table_uri: str, tmp_path: Path) -> None:
    """For pandas, DuckDB and Spark, which know nothing of the log."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1", "b": "1"}))])
        write(writer, image_rows({"lost": "receipt"}))
    notes = objects.join(table_uri, "data", "00000", "notes.txt")
    objects.put(notes, b"somebody's")
    with open_table(table_uri) as writer:
        new = image_rows({"a": "2", "c": "1"})
        writer.commit([write(writer, new)], superseded=keys_of(new))
        write(writer, image_rows({"lost": "too"}))
        assert len(verify(table_uri).unlogged) == 3
        writer.finish()
    parts = [i.uri for i in objects.glob_objects(objects.join(table_uri, "data/**/*.parquet"))]
    assert len(parts) == len(writer.snapshot.parts)
    assert objects.read(notes) == b"somebody's"
    copy = tmp_path / "plain" / "data"
    copy.mkdir(parents=True)
    for index, uri in enumerate(parts):
        (copy / f"{index}.parquet").write_bytes(objects.read(uri))
    plain = pyarrow.dataset.dataset(str(copy)).to_table().replace_schema_metadata(None)
    assert plain.sort_by("row_id").equals(read_table(table_uri).sort_by("row_id"))


def test_a_good_end_leaves_the_parts_of_a_later_driver_alone(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that took over after the last look at the lease may have written parts by then."""
    writer = open_table(table_uri, "sleeper")
    writer.commit([write(writer, image_rows({"a": "1"}))])
    _bury_all(monkeypatch)
    with open_table(table_uri, "successor") as successor:
        receipt = write(successor, image_rows({"b": "1"}))
        monkeypatch.setattr(Lease, "check", lambda self: None)
        writer.finish()
        successor.commit([receipt])
        assert _texts(table_uri) == {"a": "1", "b": "1"}
        assert verify(table_uri).problems == ()


def test_a_table_keeps_its_number_of_shards(table_uri: str) -> None:
    """Rows hash into shards by it."""
    with open_table(table_uri, num_shards=4) as writer:
        assert writer.num_shards == 4
    with open_table(table_uri, num_shards=9) as writer:
        assert writer.num_shards == 4


def test_only_one_driver_has_a_table(table_uri: str) -> None:
    """The second is told who has it, and the first goes on."""
    with open_table(table_uri, "first") as first:
        with pytest.raises(LeaseError, match="run first"):
            open_table(table_uri, "second")
        first.commit([write(first, image_rows({"a": "1"}))])
    assert _texts(table_uri) == {"a": "1"}


@pytest.mark.parametrize("is_noticed_early", [True, False])
def test_a_driver_that_slept_too_long_commits_nothing_more(
    table_uri: str, monkeypatch: pytest.MonkeyPatch, is_noticed_early: bool
) -> None:
    """Whether it sees the new lease, or was taken over between looking and appending."""
    sleeper = open_table(table_uri, "sleeper")
    _bury_all(monkeypatch)
    with open_table(table_uri, "successor") as successor:
        if not is_noticed_early:
            monkeypatch.setattr(Lease, "check", lambda self: None)
        receipt = write(sleeper, image_rows({"a": "old"}))
        successor.commit([write(successor, image_rows({"a": "new"}))])
        with pytest.raises(LeaseError, match=r"run successor.*let the other run finish"):
            sleeper.commit([receipt])
        assert _texts(table_uri) == {"a": "new"}
        successor.finish()
    assert verify(table_uri).unlogged == ()
    sleeper.close()


def test_a_store_without_conditions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some stores ignore If-None-Match and overwrite."""

    def overwrite(uri: str, body: bytes) -> bool:
        objects.put(uri, body)
        return True

    monkeypatch.setattr(objects, "put_if_absent", overwrite)
    with pytest.raises(ConfigError, match="does not honour conditional writes"):
        open_table(str(tmp_path))
    assert list((tmp_path / "_dsvl").iterdir()) == []


def test_a_table_that_cannot_be_opened_is_given_back(table_uri: str) -> None:
    """A damaged log must not look like a living driver."""
    with open_table(table_uri) as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
    entry = objects.join(table_uri, "_dsvl/log/00000001.json")
    body = objects.read(entry)
    objects.delete([entry])
    with pytest.raises(Exception, match="log entry 1 is missing"):
        open_table(table_uri)
    objects.put(entry, body)
    started = time.monotonic()
    open_table(table_uri).close()
    assert time.monotonic() - started < lease.LEASE_TIME_S / 4  # nobody's lease was waited for


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_table_equals_a_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Random runs that add, replace and drop rows, lose answers, crash, and end well."""
    _live(str(tmp_path), random.Random(seed), monkeypatch, lives=8)


@pytest.mark.s3
def test_whatever_happens_the_table_equals_a_dictionary_on_s3(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, over HTTP."""
    _live(f"{s3_bucket}/table", random.Random(99), monkeypatch, lives=4)


def _live(uri: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch, *, lives: int) -> None:
    real = objects.put_if_absent
    _bury_all(monkeypatch)
    model: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for life in range(lives):
            monkeypatch.setattr(objects, "put_if_absent", real)
            writer = open_table(uri, f"run-{life}")
            stack.callback(writer.close)
            _run_once(writer, f"run-{life}", model, chance, real, monkeypatch)
            assert _texts(uri) == model
            assert verify(uri).problems == ()


def _run_once(
    writer: TableWriter,
    run_id: str,
    model: dict[str, str],
    chance: random.Random,
    real: Callable[[str, bytes], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One driver's life, to a good end or a sudden one; follows it in the model."""
    done: set[str] = set()
    for step in range(chance.randrange(4)):
        names = [f"row-{chance.randrange(12)}" for _ in range(chance.randrange(1, 6))]
        answers = {name: f"{run_id}.{step}" for name in names if name not in done}
        dropped = {name for name in model if name not in done and chance.random() < 0.1}
        gone = keys_of(image_rows(dict.fromkeys({*answers, *dropped}, "")))
        receipts = [write(writer, image_rows(answers))] if answers else []
        _cause(chance.choice(TROUBLES), real, monkeypatch)
        while True:
            try:
                writer.commit(receipts, superseded=gone)
                break
            except StorageError:
                continue
        for name in dropped:
            del model[name]
        model |= answers
        done |= answers.keys()
        assert _texts(writer.uri) == model
    if chance.random() < 0.5:
        write(writer, image_rows({"never": "committed"}))
    if chance.random() < 0.4:
        writer.finish()
        assert verify(writer.uri).unlogged == ()


TROUBLES = ["none", "none", "lost answer", "gone after", "gone before"]


def _cause(
    trouble: str, real: Callable[[str, bytes], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the next claim meet trouble, after or before the store has acted."""

    def claim(uri: str, body: bytes) -> bool:
        monkeypatch.setattr(objects, "put_if_absent", real)
        if trouble in ("lost answer", "gone after"):
            real(uri, body)
        if trouble == "lost answer":
            return real(uri, body)
        raise StorageError("gone away")

    if trouble != "none":
        monkeypatch.setattr(objects, "put_if_absent", claim)


_DRIVER = """
import json, sys
from dsvl_pipeline.store import s3_client
s3_client.FIRST_DELAY_S = 0.01
from dsvl_pipeline.table.reader import committed_keys
from tests.table.rows import image_rows, open_table, write
uri, num_rows, run = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with open_table(uri, run) as writer:
    done = set(committed_keys(writer.snapshot, 0)["row_id"].to_pylist())
    todo = [f"row-{i}" for i in range(num_rows) if f"row-{i}" not in done]
    print("planned", flush=True)
    for start in range(0, len(todo), 10):
        batch = {name: run for name in todo[start:start + 10]}
        writer.commit([write(writer, image_rows(batch))])
        print("committed", flush=True)
    writer.finish()
"""


def _kill_until_done(uri: str, num_rows: int, num_kills: int) -> None:
    for attempt in range(num_kills + 1):
        driver = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, uri, str(num_rows), f"run-{attempt}"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        assert driver.stdout is not None
        if attempt < num_kills:
            for _ in range(2 + attempt):
                driver.stdout.readline()
            driver.send_signal(signal.SIGKILL)
        driver.stdout.read()
        code = driver.wait()
        driver.stdout.close()
    assert code == 0
    found = verify(uri)
    assert (found.num_rows, found.problems, found.unlogged) == (num_rows, (), ())
    assert len(_texts(uri)) == num_rows
    assert len(set(_texts(uri).values())) > 1, "the kills came too late to test anything"


def test_killed_drivers_lose_and_double_nothing(tmp_path: Path) -> None:
    """Killed in the middle of its work, a run goes on where its commits ended."""
    _kill_until_done(str(tmp_path / "table"), 200, 2)


@pytest.mark.s3
def test_killed_drivers_and_a_failing_store_lose_and_double_nothing(
    s3_faults: FaultyServer,
) -> None:
    """With lost answers, resets and 503s on top."""
    s3_faults.rules = [
        Rule(method="PUT", path="/_dsvl/", action="reset_after", count=-1, every=5),
        Rule(method="PUT", path="/data/", action="reset_before", count=-1, every=7),
        Rule(method="GET", path="/", action="slow_down", count=-1, every=9),
    ]
    _kill_until_done(f"{s3_faults.uri}/table", 150, 2)
    assert all(rule.count < -1 for rule in s3_faults.rules)


def test_log_entries_can_be_read_by_anybody(tmp_path: Path) -> None:
    """The layout is a contract; other tools read it as plain JSON."""
    with open_table(str(tmp_path), "nightly") as writer:
        writer.commit([write(writer, image_rows({"a": "1"}))])
    opened, committed = (
        json.loads((tmp_path / f"_dsvl/log/0000000{number}.json").read_text()) for number in (1, 2)
    )
    assert opened["added"] == []
    assert committed["run_id"] == "nightly"
    assert (committed["number"], committed["lease"], committed["statuses"]) == (2, 1, {"ok": 1})
    (part,) = committed["added"]
    assert pa.parquet.read_table(tmp_path / part["path"]).num_rows == part["num_rows"] == 1
