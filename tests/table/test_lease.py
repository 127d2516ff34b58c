"""One driver per table, whatever dies and whatever the clocks say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from dsvl_pipeline.errors import LeaseError, StorageError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import lease
from dsvl_pipeline.table.lease import Holder, Lease


def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process counts as one of another host."""
    monkeypatch.setattr(lease, "_host_id", lambda: "elsewhere")


def _die(held: Lease) -> None:
    """Stop renewing without a word."""
    held._released.set()
    held._thread.join()


def test_the_next_driver_starts_at_once_after_a_release(table_uri: str) -> None:
    """The ordinary case must not wait."""
    first = Lease.acquire(table_uri, run_id="a")
    first.check()
    first.release()
    first.release()
    second = Lease.acquire(table_uri, run_id="b")
    assert (first.number, second.number) == (1, 2)
    second.release()


def test_a_living_driver_of_this_host_keeps_its_table(table_uri: str) -> None:
    """A cron job that overlaps is told at once, and who is in its way."""
    held = Lease.acquire(table_uri, run_id="nightly")
    started = time.monotonic()
    with pytest.raises(LeaseError, match=rf"run nightly \(process {os.getpid()} on .* is writing"):
        Lease.acquire(table_uri, run_id="b")
    assert time.monotonic() - started < 5
    held.check()
    held.release()


def test_a_living_driver_elsewhere_is_seen_by_its_renewals(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may be years off: only that something changes counts."""
    monkeypatch.setattr(lease, "_now", lambda: "1999-01-01T00:00:00+00:00")
    held = Lease.acquire(table_uri, run_id="a", time_s=1.0)
    _elsewhere(monkeypatch)
    with pytest.raises(LeaseError, match="run a "):
        Lease.acquire(table_uri, run_id="b", time_s=1.0)
    held.release()


@pytest.mark.parametrize("clock", [None, "1999-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"])
def test_a_silent_driver_elsewhere_is_followed_when_its_time_is_up(
    table_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clock: str | None,
) -> None:
    """Neither sooner nor later, whether its clock is right, behind or ahead."""
    if clock is not None:
        monkeypatch.setattr(lease, "_now", lambda: clock)
    held = Lease.acquire(table_uri, run_id="a", time_s=0.6)
    _die(held)
    _elsewhere(monkeypatch)
    started = time.monotonic()
    successor = Lease.acquire(table_uri, run_id="b", time_s=0.6)
    assert time.monotonic() - started >= 0.6
    assert "waiting up to 0.6 s for a sign of life" in caplog.text
    with pytest.raises(LeaseError, match=r"run b .* took over, because this driver gave no sign"):
        held.check()
    successor.check()
    successor.release()


def test_a_killed_driver_of_this_host_is_followed_at_once(table_uri: str) -> None:
    """Who restarts a killed job does not wait a minute for its ghost."""
    program = (
        "import sys, time; from dsvl_pipeline.table.lease import Lease\n"
        "Lease.acquire(sys.argv[1], run_id='killed'); print('held', flush=True); time.sleep(60)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, table_uri], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    with pytest.raises(LeaseError, match=f"process {driver.pid} on"):
        Lease.acquire(table_uri, run_id="b")
    driver.send_signal(signal.SIGKILL)
    started = time.monotonic()
    while True:  # a zombie until waited for, and dead all the same
        try:
            successor = Lease.acquire(table_uri, run_id="b")
            break
        except LeaseError:
            assert time.monotonic() - started < 5
    assert successor.number == 2
    successor.release()
    driver.wait()
    driver.stdout.close()


def test_a_process_id_used_again_is_not_the_old_driver(tmp_path: Path) -> None:
    """After a reboot of a container the driver often has the same process id."""
    mine = Lease.acquire(str(tmp_path), run_id="a")
    _die(mine)
    path = tmp_path / "_dsvl/lease/00000001.json"
    holder = Holder(**json.loads(path.read_text()))
    assert holder.pid_started is not None
    path.write_text(json.dumps(asdict(holder) | {"pid_started": holder.pid_started - 1}))
    Lease.acquire(str(tmp_path), run_id="b").release()


def test_many_drivers_at_once_get_one_lease(table_uri: str) -> None:
    """Started by the same clock tick, all see a free table."""

    def acquire(index: int) -> Lease | LeaseError:
        try:
            return Lease.acquire(table_uri, run_id=f"run-{index}")
        except LeaseError as error:
            return error

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(acquire, range(8)))
    held = [one for one in found if isinstance(one, Lease)]
    assert len(held) == 1
    held[0].check()
    held[0].release()


def test_trouble_with_the_store_does_not_end_the_renewals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage shorter than the lease costs nothing."""
    held = Lease.acquire(str(tmp_path), run_id="a", time_s=0.2)
    real = objects.put
    calls: list[str] = []

    def fail_twice(uri: str, body: bytes) -> None:
        calls.append(uri)
        if len(calls) <= 2:
            raise StorageError("no answer")
        real(uri, body)

    monkeypatch.setattr(objects, "put", fail_twice)
    deadline = time.monotonic() + 10
    while len(calls) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(calls) >= 4
    assert "could not be renewed: no answer" in caplog.text
    held.release()


def test_a_lease_that_cannot_be_released_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of a good run must not fail for it."""
    held = Lease.acquire(str(tmp_path), run_id="a")

    def fail(uri: str, body: bytes) -> None:
        raise StorageError("no answer")

    monkeypatch.setattr(objects, "put", fail)
    held.release()
    assert "it will expire: no answer" in caplog.text


def _win_twice(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the next claim of a name succeed although it is taken; the later body stands."""
    real = objects.put_if_absent

    def forge(uri: str, body: bytes) -> bool:
        if uri.endswith(name) and objects.exists(uri):
            monkeypatch.setattr(objects, "put_if_absent", real)
            objects.put(uri, body)
            return True
        return real(uri, body)

    monkeypatch.setattr(objects, "put_if_absent", forge)


def _hold_the_same(monkeypatch: pytest.MonkeyPatch, uri: str) -> tuple[Lease, Lease]:
    """Two drivers that saw a free table at the same moment, and a store that let both in."""
    first = Lease.acquire(uri, run_id="a", time_s=0.4)
    _win_twice(monkeypatch, "00000001.json")
    with monkeypatch.context() as patch:
        patch.setattr(lease, "wait_until_free", lambda uri, time_s: 0)
        second = Lease.acquire(uri, run_id="b", time_s=0.4)
    assert first.number == second.number == 1
    return first, second


def test_of_two_who_won_one_lease_the_later_holds(
    table_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number proves nothing where the store lies; the token in the file does."""
    first, second = _hold_the_same(monkeypatch, table_uri)
    with pytest.raises(LeaseError, match=r"now names run b .* the store let two drivers") as caught:
        first.check()
    assert caught.value.exit_code == 3
    second.check()
    first.release()
    with pytest.raises(LeaseError, match=r"run b .* is writing"):
        Lease.acquire(table_uri, run_id="c", time_s=0.4)  # the first did not release for it
    second.release()


def test_a_renewal_notices_that_the_lease_is_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would keep the other's lease alive beyond its death."""
    first, second = _hold_the_same(monkeypatch, str(tmp_path))
    first._thread.join(timeout=10)
    assert not first._thread.is_alive()
    second.check()
    second.release()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"number": 1}', b"\xff\xfe"])
def test_a_damaged_lease_is_waited_for_and_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """Nobody knows its holder; the log keeps that one from committing, whoever it is."""
    table_uri = str(tmp_path)
    Lease.acquire(table_uri, run_id="a", time_s=0.3)._released.set()
    for name in ("00000001.json", "00000001.renewed.json"):
        objects.put(objects.join(table_uri, "_dsvl/lease", name), body)
    follower = Lease.acquire(table_uri, run_id="b", time_s=0.3)
    assert follower.number == 2
    assert "00000001.json: this file is damaged" in caplog.text
    follower.release()


def test_strange_files_beside_the_leases_are_passed_over(
    table_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever copies a table with a file manager leaves some."""
    names = ("README", ".DS_Store", "Thumbs.db", "00000009 (1).json", "7.json", "old/00000009.json")
    for name in names:
        objects.put(objects.join(table_uri, "_dsvl/lease", name), b"x")
    held = Lease.acquire(table_uri, run_id="a")
    assert held.number == 1
    held.check()
    held.release()
    for name in set(names) - {".DS_Store"}:  # sorts before all leases, and is not even listed
        assert f"{name}: this is no file of the table's" in caplog.text
