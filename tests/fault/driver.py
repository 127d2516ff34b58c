"""Drivers that a test may kill: ``dsvl run`` in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PROCESSES = multiprocessing.get_context("forkserver")
# A driver then starts in no time: it is forked from a process that has imported everything.
_PROCESSES.set_forkserver_preload(["dsvl_pipeline.cli.main", "dsvl_pipeline.pipeline.run"])

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

    def start(self, job: Path, log: Path, *, lease_s: float | None = None) -> Driver:
        """Give a job to an idle process, or to a new one.

        Args:
            job: The job file.
            log: Extended.
            lease_s: Another lease time than usual; this driver's process is then a new one.
        """
        self._collect()
        process, connection = self._idle.pop() if self._idle and lease_s is None else _start()
        connection.send((str(job), str(log), lease_s))
        driver = Driver(log, process, connection)
        if lease_s is None:
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


class Program:
    """The same, started as a program: what LD_PRELOAD names comes in no other way."""

    def __init__(self, job: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fault.driver", str(job)],
                env=dict(os.environ) | dict(environment),
                stdout=out,
                stderr=out,
            )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, limit_s: float) -> int:
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"driver {self._process.pid} did not end in {limit_s:g} s; see {self.log}"
            ) from None


def _start() -> tuple[Any, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = _PROCESSES.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
    process.start()
    theirs.close()  # or the end of the process would not be the end of the connection
    return process, ours


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    while not code:
        job, log, lease_s = connection.recv()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        code = run(job, lease_s)
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(code)


def run(job: str, lease_s: float | None = None) -> int:
    """Run a job with frequent commits and, if it is given, another lease time."""
    from dsvl_pipeline.cli import main as cli
    from dsvl_pipeline.pipeline import run
    from dsvl_pipeline.table.writer import TableWriter

    run._COMMIT_EVERY_S = COMMIT_EVERY_S
    if lease_s is not None:
        TableWriter.open.__func__.__kwdefaults__["lease_s"] = lease_s  # type: ignore[attr-defined]
    return cli.main(["run", job])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
