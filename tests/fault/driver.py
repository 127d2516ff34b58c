"""Drivers that a test may kill: ``dsvl run`` in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from datetime import datetime, timedelta, tzinfo
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PROCESSES = multiprocessing.get_context("forkserver")
# A driver then starts in no time: it is forked from a process that has imported everything.
_PROCESSES.set_forkserver_preload(["dsvl_pipeline.cli.main", "dsvl_pipeline.run.run"])

COMMIT_EVERY_S = 0.3
"""A run of some seconds must commit more than once, or a kill finds nothing half done."""


class Driver:
    """One command on its way, in a process that took it.

    Attributes:
        log: Where its output goes.
    """

    def __init__(self, log: Path, process: Any, connection: Connection) -> None:
        self.log = log
        self._process = process
        self._connection = connection
        self._code: int | None = None

    def is_running(self) -> bool:
        return self._code is None and not self._connection.poll()

    def kill(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.is_running():
            os.kill(self._process.pid, number)

    def wait(self, limit_s: float) -> int:
        """Give its exit code; that of a signal is negative.

        Raises:
            TimeoutError: It still runs. It is left as it is, to be looked at.
        """
        if self._code is None:
            if not self._connection.poll(limit_s):
                raise TimeoutError(
                    f"driver {self._process.pid} did not end in {limit_s:g} s; see {self.log}"
                )
            try:
                self._code = self._connection.recv()
            except EOFError:
                self._process.join()
                self._code = self._process.exitcode
        assert self._code is not None
        return self._code


class DriverPool:
    """Processes that run commands. One whose command ended well takes the next.

    Ray starts workers anew for each process that connects, and that is most of what a small run
    costs; a process whose command failed, was killed or is a special one is not used again.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[Any, Connection]] = []
        self._busy: list[tuple[Driver, Any, Connection]] = []

    def start(
        self, job: Path, log: Path, *, lease_s: float | None = None, clock: Path | None = None
    ) -> Driver:
        """Give a job to an idle process, or to a new one.

        Args:
            job: The job file.
            log: Extended.
            lease_s: Another lease time than usual.
            clock: A file that says by how many seconds the driver's clock is wrong; it may change.
        """
        self._collect()
        is_usual = lease_s is None and clock is None
        process, connection = self._idle.pop() if self._idle and is_usual else _start()
        connection.send((str(job), str(log), lease_s, clock))
        driver = Driver(log, process, connection)
        if is_usual:
            self._busy.append((driver, process, connection))
        return driver

    def _collect(self) -> None:
        ended = [entry for entry in self._busy if not entry[0].is_running()]
        for entry in ended:
            self._busy.remove(entry)
            if entry[0].wait(0) == 0:
                self._idle.append(entry[1:])

    def close(self) -> None:
        """Kill those that are left."""
        for process, _ in [*self._idle, *(entry[1:] for entry in self._busy)]:
            process.kill()
            process.join()


def _start() -> tuple[Any, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = _PROCESSES.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
    process.start()
    theirs.close()  # or the end of the process would not be the end of the connection
    return process, ours


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """Run one job after the other, with frequent commits, until one does not end well."""
    from dsvl_pipeline.cli import main as cli
    from dsvl_pipeline.run import commits
    from dsvl_pipeline.table.writer import TableWriter

    os.environ.clear()
    os.environ.update(environment)
    code = 0
    while not code:
        job, log, lease_s, clock = connection.recv()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        commits.COMMIT_EVERY_S = COMMIT_EVERY_S
        if lease_s is not None:
            TableWriter.open.__func__.__kwdefaults__["lease_s"] = lease_s  # type: ignore[attr-defined]
        if clock is not None:
            _shift_clock(clock)
        code = cli.main(["run", job])
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(code)


def _shift_clock(clock: Path) -> None:
    """Let Python's wall clock be wrong in this process; the monotonic one goes on.

    libfaketime would do it for all libraries, but then `time.sleep` fails after a jump.
    """
    time_ns, real = time.time_ns, datetime

    def wrong_ns() -> int:
        return time_ns() + int(float(clock.read_text()) * 1e9)

    class WrongDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return real.now(tz) + timedelta(seconds=float(clock.read_text()))

    time.time_ns, time.time = wrong_ns, lambda: wrong_ns() / 1e9
    for name, module in list(sys.modules.items()):
        if name.startswith("dsvl_pipeline.") and getattr(module, "datetime", None) is real:
            module.datetime = WrongDatetime  # type: ignore[attr-defined]
