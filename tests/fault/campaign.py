"""Runs with faults drawn by a seed, and what must hold after each of them.

`Campaign` holds what is expensive: a Ray cluster, an S3 server behind a proxy that makes it fail,
the inputs, and for each job the rows that an undisturbed run gives. A `Scene` is one run: a fresh
table, one fault of `tests.fault.faults`, then the same command until it ends well, then the checks.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pytest
from s3fs import S3FileSystem

from dsvl_pipeline.store import objects
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.schema import logical_key
from dsvl_pipeline.table.verify import verify
from tests.environment import KEPT_WORKERS
from tests.fault.cluster import LocalCluster
from tests.fault.driver import Driver, DriverPool
from tests.jobs import fake_job, write_manifest
from tests.payload import payload_digest
from tests.quick_ray import quick_ray
from tests.s3 import (
    FaultyServer,
    Rule,
    make_bucket,
    moto_server,
    proxy,
    s3_environment,
)

LIMIT_S = 240.0
"""A driver that takes longer hangs."""
MOST_REPEATS = 3
JOBS = ("few", "many", "pages")
SAMPLE_PDF = Path("dsvl_pipeline/demo/samples")
_NOT_LISTINGS = r"^(?!.*list-type)"
_GETS = ("GET", _NOT_LISTINGS)
_PUTS = ("PUT", "")
_ANY = ("GET|PUT|HEAD|DELETE", "")

SMALL_FAULTS: tuple[tuple[str, str, Any, float], ...] = (
    (*_ANY, "slow_down", 0.03),
    (*_ANY, "internal", 0.01),
    (*_ANY, "reset_before", 0.02),
    (*_ANY, "reset_after", 0.03),
    (*_GETS, "truncate", 0.03),
    (*_GETS, "flip", 0.03),
    (*_PUTS, "flip_sent", 0.01),
    (*_ANY, "stall", 0.01),
)
"""What any run over S3 has to live with: method, path, action, chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One scene, as the results file has it.

    Attributes:
        seed: Draws everything.
        fault: Name in `tests.fault.faults.FAULTS`.
        store: ``local`` or ``s3``.
        job: Name of the input.
        had_rows: Whether the table held other answers before, which the run replaced.
        exit_codes: Of each driver, as it ended.
        store_faults: What the proxy did, by action.
        seconds: Of the whole scene.
        problem: None if all checks held.
    """

    seed: int
    fault: str
    store: str
    job: str
    had_rows: bool
    exit_codes: tuple[int, ...]
    store_faults: Mapping[str, int]
    seconds: float
    problem: str | None


@dataclass(kw_only=True)
class Scene:
    """One run and its fault.

    Attributes:
        draw: The scene's own randomness.
        cluster: Ray; shared with other scenes.
        pool: Where drivers come from.
        server: The proxy; its rules are this scene's.
        table: URI.
        job: The job file.
        folder: For logs and what the fault needs.
        store: ``local`` or ``s3``.
        typical_s: What the same run takes undisturbed.
        exit_codes: Of the drivers that ended so far.
    """

    draw: random.Random
    cluster: LocalCluster
    pool: DriverPool
    server: FaultyServer
    table: str
    job: Path
    folder: Path
    store: str
    typical_s: float
    exit_codes: list[int] = field(default_factory=list)
    drivers: list[Driver] = field(default_factory=list)

    def start(self, *, lease_s: float | None = None, clock: Path | None = None) -> Driver:
        """Start the run, with the same command each time; see `DriverPool.start`."""
        log = self.folder / f"driver-{len(self.drivers)}.log"
        self.drivers.append(self.pool.start(self.job, log, lease_s=lease_s, clock=clock))
        return self.drivers[-1]

    def pause(self) -> None:
        """Wait for a random part of the time that the run takes."""
        time.sleep(self.draw.uniform(0.05, 1.1) * self.typical_s)

    def ended(self, driver: Driver, *allowed: int) -> int:
        """Wait for a driver and hold its exit code against what the documentation says."""
        code = driver.wait(LIMIT_S)
        self.exit_codes.append(code)
        said = driver.log.read_text(errors="replace") if driver.log.exists() else ""
        assert code in allowed, f"exit code {code}, allowed {allowed}:\n{said[-3000:]}"
        assert "is a bug" not in said, said[-3000:]
        return code

    def run_to_a_good_end(self) -> None:
        """Give the same command until it ends with 0, as a user would."""
        for _ in range(MOST_REPEATS):
            if self.exit_codes and self.exit_codes[-1] == 0:
                return
            self.ended(self.start(), 0, 1)
        assert self.exit_codes[-1] == 0, f"no good end: {self.exit_codes}"


class Campaign:
    """What scenes share. Use `open_campaign`."""

    def __init__(
        self, folder: Path, cluster: LocalCluster, pool: DriverPool, server: FaultyServer
    ) -> None:
        self._folder = folder
        self._cluster = cluster
        self._pool = pool
        self._server = server
        self._templates: dict[tuple[str, str, bool], tuple[str, pa.Table, float]] = {}
        self._number = 0

    def play(
        self, fault: str, seed: int, *, store: str | None = None, job: str | None = None
    ) -> Outcome:
        """Play one scene. It never raises: a problem is part of the outcome."""
        from tests.fault.faults import FAULTS

        disturb, stores = FAULTS[fault]
        draw = random.Random(f"{fault} {seed}")
        drawn = (
            draw.choice(stores),
            draw.choice(JOBS),
        )  # also when not needed: what follows hangs on it
        store, job = store or drawn[0], job or drawn[1]
        had_rows = draw.random() < 0.35
        started = time.monotonic()
        scene, problem = None, None
        self._server.faults.clear()
        try:
            _, wanted, typical_s = self._template(store, job)
            scene = self._scene(store, job, draw, typical_s)
            if had_rows:
                _copy(self._template(store, job, is_older=True)[0], scene.table)
            self._server.seed, self._server.rules = seed, _small_faults(draw)
            disturb(scene)
            scene.run_to_a_good_end()
            self._server.rules = []
            check_table(scene.table, wanted)
        except (AssertionError, TimeoutError):
            problem = traceback.format_exc()
        finally:
            self._server.rules = []
            if scene is not None:
                _clear(scene, keep=problem is not None)
        return Outcome(
            seed=seed,
            fault=fault,
            store=store,
            job=job,
            had_rows=had_rows,
            exit_codes=tuple(scene.exit_codes) if scene else (),
            store_faults=dict(self._server.faults),
            seconds=round(time.monotonic() - started, 1),
            problem=problem,
        )

    def _template(
        self, store: str, job: str, *, is_older: bool = False
    ) -> tuple[str, pa.Table, float]:
        """Give the table of an undisturbed run, its rows and how long it took."""
        key = (store, job, is_older)
        if key not in self._templates:
            scene = self._scene(store, job, random.Random(), 0.0, is_older=is_older)
            started = time.monotonic()
            scene.ended(scene.start(), 0)
            took_s = time.monotonic() - started
            self._templates[key] = (scene.table, read_table(scene.table), took_s)
        return self._templates[key]

    def _scene(
        self, store: str, job: str, draw: random.Random, typical_s: float, is_older: bool = False
    ) -> Scene:
        self._number += 1
        folder = self._folder / f"scene-{self._number:04d}"
        folder.mkdir()
        home = self._server.uri if store == "s3" else str(self._folder)
        source = self._source(objects.join(home, f"in-{job}"), job)
        table = objects.join(home, f"scene-{self._number:04d}", "table")
        description = fake_job(source, table, mean_delay_s=0.03)
        description["output"] |= {"rows_per_part": 10, "seconds_per_part": 1, "num_shards": 2}
        description["cluster"] |= {"rows_per_batch": 5}
        if is_older:
            description["prompts"][0]["text"] = "Say something else."
        (folder / "job.yaml").write_text(json.dumps(description))
        return Scene(
            draw=draw,
            cluster=self._cluster,
            pool=self._pool,
            server=self._server,
            table=table,
            job=folder / "job.yaml",
            folder=folder,
            store=store,
            typical_s=typical_s,
        )

    def _source(self, folder: str, job: str) -> dict[str, Any]:
        if job != "pages":
            return write_manifest(folder, {"few": 24, "many": 80}[job])
        (sample,) = SAMPLE_PDF.glob("*.pdf")
        for number in range(4):
            objects.put_if_absent(objects.join(folder, f"{number}.pdf"), sample.read_bytes())
        source = write_manifest(objects.join(folder, "m"), 12)
        return source | {"documents": objects.join(folder, "*.pdf")}


@contextmanager
def open_campaign() -> Iterator[Campaign]:
    """Start the servers and Ray; stop them and delete everything at the end."""
    with ExitStack() as stack:
        # Short: the names of Ray's sockets have a limit.
        folder = Path(tempfile.mkdtemp(prefix="fault-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        upstream = os.environ.get("DSVL_TEST_S3_ENDPOINT") or stack.enter_context(moto_server())
        for name, value in s3_environment(upstream).items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        server = FaultyServer(make_bucket(upstream))
        patch.setenv("AWS_ENDPOINT_URL", stack.enter_context(proxy(server, upstream)))
        patch.setenv("RAY_TMPDIR", str(folder))
        for name, value in KEPT_WORKERS.items():
            patch.setenv(name, value)
        stack.enter_context(quick_ray())
        cluster = LocalCluster()
        stack.callback(cluster.close)
        patch.setenv("RAY_ADDRESS", cluster.address)
        pool = DriverPool()
        stack.callback(pool.close)
        yield Campaign(folder, cluster, pool, server)


def _small_faults(draw: random.Random) -> list[Rule]:
    rules = [
        Rule(method=method, path=path, action=action, count=-1, chance=chance)
        for method, path, action, chance in SMALL_FAULTS
    ]
    if draw.random() < 0.08:  # costs all of the client's retries, 30 s
        rules.insert(0, Rule(method="GET|PUT", path="", action="hang", every=draw.randint(5, 60)))
    return rules


def check_table(table: str, wanted: pa.Table) -> None:
    """Every row once, with the answer that an undisturbed run gives, and nothing else.

    Raises:
        AssertionError: It is not so.
    """
    rows = read_table(table)
    _check_rows("read_table", rows, wanted)
    assert payload_digest(rows) == payload_digest(wanted), "the rows hold other answers"
    _check_rows("pyarrow.dataset", _plain_rows(table), wanted)
    found = verify(table)
    assert not found.problems, [str(problem) for problem in found.problems]
    assert not found.unlogged, f"parts that no log entry names: {found.unlogged}"
    assert found.last_run == "done", found.last_run
    parts = read_snapshot(table).parts
    for info in objects.list_objects(table):
        name = info.uri.removeprefix(table + "/")
        assert name in parts or not name.startswith(("data/", "_dsvl/plan/")), f"debris: {name}"


def _check_rows(what: str, rows: pa.Table, wanted: pa.Table) -> None:
    found, needed = (logical_key(table).to_pylist() for table in (rows, wanted))
    lost, doubled = set(needed) - set(found), len(found) - len(set(found))
    assert not lost, f"{what}: {len(lost)} of {len(needed)} rows are lost"
    assert not doubled, f"{what}: {doubled} rows stand twice"
    assert len(found) == len(needed), f"{what}: {len(found)} rows, wanted {len(needed)}"


def _plain_rows(table: str) -> pa.Table:
    """What a tool that knows nothing of the log sees."""
    place, filesystem = objects.join(table, "data"), None
    if table.startswith("s3://"):
        place = place.removeprefix("s3://")
        filesystem = S3FileSystem(use_listings_cache=False)
    return pyarrow.dataset.dataset(place, filesystem=filesystem, format="parquet").to_table()


def _copy(source: str, target: str) -> None:
    for info in objects.list_objects(source):
        objects.put(target + info.uri.removeprefix(source), objects.read(info.uri))


def _clear(scene: Scene, *, keep: bool) -> None:
    """End what still runs; delete the scene unless it is to be looked at."""
    for driver in scene.drivers:
        driver.kill(9)
    if not keep:
        shutil.rmtree(scene.folder, ignore_errors=True)
        objects.delete(info.uri for info in objects.list_objects(scene.table))
