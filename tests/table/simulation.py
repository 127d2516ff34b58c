"""A store in memory whose every operation is a step that a seed schedules, or kills its actor at.

Actors are threads of which one runs at a time: until its next operation on the store, or until it
sleeps. So a seed is one interleaving, and runs the same again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dsvl_pipeline.errors import NotFoundError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.table import claim, compact, history, lease, reader, verify, writer

URI = "/simulated/table"


class Killed(BaseException):
    """Ends an actor, like SIGKILL: everything it still tries on the store does as well."""


class Simulation:
    """A store, a clock and a scheduler, all of one seed.

    Args:
        seed: Of everything that is left to chance.
        kill_rate: Share of an actor's operations that kill it, half of them after the store acted.
    """

    def __init__(self, seed: int, *, kill_rate: float) -> None:
        self.chance = random.Random(seed)
        self.kill_rate = kill_rate
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.num_steps = 0
        self.num_kills = 0
        self.now_s = 0.0
        self._baton = threading.Condition()
        self._turn: str | None = None
        self._last = ""
        self._waiting: set[str] = set()
        self._alive: set[str] = set()
        self._doomed: set[str] = set()

    def run(self, actors: dict[str, Callable[[], None]]) -> dict[str, BaseException | None]:
        """Let actors run to their ends, interleaved; give what each ended with."""
        ends: dict[str, BaseException | None] = {}

        def live(name: str, act: Callable[[], None]) -> None:
            try:
                self.step()
                act()
                ends[name] = None
            except BaseException as error:
                ends[name] = error
            finally:
                with self._baton:
                    self._alive.discard(name)
                    self._doomed.discard(name)
                    self._pass_on()

        self._alive = set(actors)
        threads = [
            threading.Thread(target=live, args=item, name=item[0]) for item in actors.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends

    def step(self) -> None:
        """Wait for this actor's next turn; an operation outside of `run` needs none."""
        name = threading.current_thread().name
        if name not in self._alive:
            return
        with self._baton:
            self._waiting.add(name)
            if self._turn in (None, name):
                self._pass_on()
            while self._turn != name:
                self._baton.wait()
            self._waiting.discard(name)
            self.num_steps += 1

    def operation(self, act: Callable[[], Any]) -> Any:
        """Do one thing on the store, or die before or after it."""
        name = threading.current_thread().name
        self.step()
        if name in self._doomed:
            raise Killed
        is_killed = name in self._alive and self.chance.random() < self.kill_rate
        if is_killed:
            self._doomed.add(name)
            self.num_kills += 1
            if self.chance.random() < 0.5:
                raise Killed
        result = act()
        if is_killed:
            raise Killed
        return result

    def revive(self) -> None:
        """Let this actor, which was killed, act again: as its successor on the same host."""
        self._doomed.discard(threading.current_thread().name)

    def _pass_on(self) -> None:
        """Choose whose turn it is, once everybody who lives waits for it."""
        if self._waiting >= self._alive - {self._turn} or self._turn is None:
            ready = sorted(self._waiting)
            is_complete = self._waiting == self._alive
            if not ready or not is_complete:
                self._turn = None
            elif self._last not in ready or self.chance.random() < 0.15:
                # Bursts: an actor that stands still for long is what takes others in.
                self._turn = self._last = self.chance.choice(ready)
            else:
                self._turn = self._last
            self._baton.notify_all()

    # The store, as `dsvl_pipeline.store.backend.Store`.

    def read(self, uri: str, max_bytes: int | None) -> tuple[bytes, ObjectInfo]:
        def act() -> tuple[bytes, ObjectInfo]:
            if uri not in self.objects:
                raise NotFoundError(f"read {uri}: there is no such object")
            body, time_ns = self.objects[uri]
            return body, ObjectInfo(uri=uri, size=len(body), mtime_ns=time_ns)

        found: tuple[bytes, ObjectInfo] = self.operation(act)
        return found

    def stat(self, uri: str) -> ObjectInfo:
        return self.read(uri, None)[1]

    def walk(self, prefix: str, *, is_flat: bool, start_after: str | None) -> Iterator[ObjectInfo]:
        def act() -> list[ObjectInfo]:
            return [
                ObjectInfo(uri=uri, size=len(body), mtime_ns=time_ns)
                for uri, (body, time_ns) in sorted(self.objects.items())
                if uri.startswith(prefix) and (start_after is None or uri > start_after)
            ]

        return iter(self.operation(act))

    def put(self, uri: str, body: bytes) -> None:
        self.operation(lambda: self.objects.update({uri: (body, self.num_steps)}))

    def put_if_absent(self, uri: str, body: bytes) -> bool:
        def act() -> bool:
            is_new = uri not in self.objects
            if is_new:
                self.objects[uri] = (body, self.num_steps)
            return is_new

        return bool(self.operation(act))

    def delete(self, uri: str) -> None:
        self.operation(lambda: self.objects.pop(uri, None))

    # The clock, as the module `time`: each actor's sleep is a turn for the others.

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        # More may have passed than was asked for: a host that was suspended.
        self.now_s += seconds + self.chance.choice([0, 0, 0, 100])
        self.step()

    def jumping_clock(self) -> str:
        """What a host's clock says: anything."""
        jump = timedelta(seconds=self.chance.choice([0, 0, -86400, 5, 86400 * 365]))
        return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now_s) + jump).isoformat()


class _InLine:
    """A thread pool without threads: what is one actor's is one thread's."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> _InLine:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def map(self, act: Callable[..., Any], *arguments: Iterable[Any]) -> Iterable[Any]:
        return list(map(act, *arguments))

    def submit(self, act: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(act(*arguments))
        return done


def install(monkeypatch: pytest.MonkeyPatch, simulation: Simulation) -> None:
    """Put the table on the simulated store and clock, each actor on a host of its own."""
    monkeypatch.setattr(objects, "_LOCAL", simulation)
    for module in (objects, claim, reader, writer, history, verify, compact):
        monkeypatch.setattr(module, "ThreadPoolExecutor", _InLine)
    monkeypatch.setattr(lease, "time", simulation)
    monkeypatch.setattr(lease, "_now", simulation.jumping_clock)
    monkeypatch.setattr(lease, "_host_id", lambda: threading.current_thread().name)
    # A driver that never renews is taken for dead while it lives: the worst that clocks can do.
    monkeypatch.setattr(lease.Lease, "_keep", lambda self: None)
