"""Drivers that take each other for dead, killed between any two operations, and readers beside."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsvl_pipeline.errors import LeaseError, StorageError
from dsvl_pipeline.table.compact import compact
from dsvl_pipeline.table.log import list_versions, read_entries, read_snapshot
from dsvl_pipeline.table.reader import committed_keys, read_table
from dsvl_pipeline.table.vacuum import vacuum
from dsvl_pipeline.table.verify import verify
from tests.table.rows import image_rows, keys_of, open_table, write
from tests.table.simulation import URI, Killed, Simulation, install

ROWS = [f"row-{n}" for n in range(6)]


def _drive(run_id: str, committed: list[str]) -> None:
    """Answer every row anew, in parts of a few, and end well; append what was committed."""
    with open_table(URI, run_id) as writer:
        stale = keys_of(committed_keys(writer.snapshot, 0))
        for start in range(0, len(ROWS), 4):
            rows = image_rows(dict.fromkeys(ROWS[start : start + 4], run_id))
            is_new = stale.filter(pa.compute.is_in(stale["row_id"], rows["row_id"]))
            receipt = write(writer, rows)
            writer.commit([receipt], superseded=is_new)
            committed.append(receipt.path)
        writer.finish()


def _vacuum() -> None:
    """Take everything that may be taken, however young."""
    vacuum(URI, grace_s=-60)


def _driver(simulation: Simulation, name: str, committed: list[str]) -> Callable[[], None]:
    """A job that is started again a few times, whatever it ended with."""

    def act() -> None:
        for life in range(4):
            try:
                if name == "compactor":
                    compact(URI)
                elif name.startswith("vacuum"):
                    _vacuum()
                else:
                    _drive(f"{name}.{life}", committed)
            except (LeaseError, StorageError):
                continue
            except Killed:
                simulation.revive()

    return act


def _reader(simulation: Simulation) -> Callable[[], None]:
    """Every row once, at every moment, in the last version and in each before."""

    def act() -> None:
        for _ in range(8):
            try:
                assert sorted(read_table(URI)["row_id"].to_pylist()) == ROWS
                version = read_snapshot(URI).version
                assert sorted(read_table(URI, version=version)["row_id"].to_pylist()) == ROWS
            except Killed:
                simulation.revive()

    return act


def _reader_of_the_last(simulation: Simulation) -> Callable[[], None]:
    """Every row once in the last version; earlier ones go."""

    def act() -> None:
        for _ in range(8):
            try:
                assert sorted(read_table(URI)["row_id"].to_pylist()) == ROWS
            except Killed:
                simulation.revive()

    return act


def _plain_rows(simulation: Simulation) -> list[str]:
    """What a reader of the directory alone sees."""
    found: list[str] = []
    for uri, (body, _) in simulation.objects.items():
        if uri.startswith(f"{URI}/data/"):
            found += pq.read_table(io.BytesIO(body))["row_id"].to_pylist()
    return sorted(found)


def _interleave(
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    kill_rate: float,
    names: tuple[str, ...],
    reader: Callable[[Simulation], Callable[[], None]],
) -> tuple[Simulation, str]:
    """Let drivers loose on a table: no row is lost or doubled, nothing committed is not logged.

    Returns:
        The simulation, in which nobody is killed any more, and what it was, for messages.
    """
    simulation = Simulation(seed, kill_rate=0.0)
    install(monkeypatch, simulation)
    _drive("first", [])
    simulation.kill_rate = kill_rate
    committed: list[str] = []
    drivers = {name: _driver(simulation, name, committed) for name in names}
    ends = simulation.run(drivers | {"reader": reader(simulation)})
    where = f"seed {seed}, kill rate {kill_rate}, {simulation.num_steps} steps"
    for name, end in ends.items():
        assert end is None, f"{name}: {end!r} ({where})"
    assert sorted(read_table(URI)["row_id"].to_pylist()) == ROWS, where
    added = [receipt.path for entry in read_entries(URI) for receipt in entry.added]
    assert len(added) == len(set(added)), where
    assert set(added).issuperset(committed), where
    assert verify(URI).problems == (), where
    simulation.kill_rate = 0.0
    return simulation, where


@pytest.mark.parametrize("kill_rate", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("seeds", [range(start, start + 3) for start in (0, 3, 6)], ids=str)
def test_no_interleaving_loses_or_doubles_a_row(
    monkeypatch: pytest.MonkeyPatch, seeds: range, kill_rate: float
) -> None:
    """Two jobs that never see each other's sign of life, a compaction, two readers."""
    for seed in seeds:
        names = ("a", "b", "compactor")
        simulation, where = _interleave(monkeypatch, seed, kill_rate, names, _reader)
        assert all(version.is_readable for version in list_versions(URI)), where
        _drive("last", [])
        assert set(read_table(URI)["text"].to_pylist()) == {"last"}, where
        assert _plain_rows(simulation) == ROWS, where
        assert verify(URI).unlogged == (), where


@pytest.mark.parametrize("kill_rate", [0.0, 0.02])
@pytest.mark.parametrize("seeds", [range(start, start + 4) for start in (100, 104)], ids=str)
def test_no_interleaving_lets_vacuum_take_what_is_committed(
    monkeypatch: pytest.MonkeyPatch, seeds: range, kill_rate: float
) -> None:
    """Beside jobs that give no sign of life, with no regard for age."""
    num_taken = 0
    for seed in seeds:
        names = ("a", "b", "vacuum", "vacuum-too")
        simulation, where = _interleave(monkeypatch, seed, kill_rate, names, _reader_of_the_last)
        num_taken += sum(e.author.operation == "vacuum" for e in read_entries(URI))
        _vacuum()
        assert verify(URI).unlogged == (), where
        assert _plain_rows(simulation) == ROWS, where
    assert num_taken  # else nothing was tried


def test_the_simulation_interleaves_and_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would prove nothing; and a seed is one interleaving."""
    logs = []
    for _ in range(2):
        simulation = Simulation(7, kill_rate=0.0)
        install(monkeypatch, simulation)
        _drive("first", [])
        simulation.kill_rate = 0.02
        simulation.run({name: _driver(simulation, name, []) for name in "ab"})
        authors = [version.entry.author.run_id for version in list_versions(URI)]
        logs.append((authors, simulation.num_steps, simulation.num_kills))
    assert logs[0] == logs[1]
    authors, num_steps, num_kills = logs[0]
    assert num_kills > 0
    assert num_steps > 50
    assert len([name for name, _ in itertools.groupby(authors)]) > 2
