"""What Ray runs to start a worker of a cluster that tests share: a fork, not a new Python.

Imports are most of what a small run costs: each run ends the processes of its engine and its
ledger, and Ray starts two in their place. Here the first worker of a raylet starts a server, which
imports once what workers need and is forked for each of them. It has the environment of a worker,
as Ray reads some of it while it is imported, a job's id above all.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PLAIN = Path(__file__).parent.parent / "dsvl_pipeline" / "cluster" / "start_worker.py"
_PRELOADED = ("ray.data", "dsvl_pipeline.cluster.graph", "dsvl_pipeline.cluster.ledger")
_ALSO_PRELOADED = "DSVL_TEST_ALSO_PRELOADED"


def ask() -> None:
    """Become a worker in another process, and end with it; by itself in a runtime environment."""
    if any(word.startswith("--serialized-runtime-env-context") for word in sys.argv):
        os.execv(sys.executable, [sys.executable, str(_PLAIN), *sys.argv[1:]])
    (raylet,) = (word for word in sys.argv if word.startswith("--raylet-name="))
    # Beside Ray's own sockets, with no longer a name: their paths have a limit. Nodes of a machine
    # share that folder, and a server ends with its raylet: each has one (raylet, raylet.1, ...).
    socket_of_raylet = Path(raylet.partition("=")[2])
    number = socket_of_raylet.name.removeprefix("raylet")
    address = str(socket_of_raylet.with_name(f"f{number}"))
    wanted = {
        "arguments": [word for word in sys.argv[1:] if not word.startswith("--language=")],
        "environment": dict(os.environ),
        "directory": os.getcwd(),
    }
    data = json.dumps(wanted).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, address)
        socket.send_fds(connection, [len(data).to_bytes(8, "little")], [0, 1, 2])
        connection.sendall(data)
        connection.recv(1)


def _connect(connection: socket.socket, address: str) -> None:
    """Connect to the server, or start it: there was none, or it has ended with an older raylet."""
    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if connection.connect_ex(address) == 0:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        command = [sys.executable, __file__, "serve", address]
        # Of no job, like workers that Ray starts before there is one: a later job takes them too.
        environment = os.environ | {"RAY_JOB_ID": "ffffffff"}
        server = subprocess.Popen(command, env=environment, start_new_session=True)
        while not os.path.exists(address):
            assert server.poll() is None, "the server of workers has ended; see raylet.err"
            time.sleep(0.05)
        connection.connect(address)


def serve(address: str) -> None:
    """Fork a worker for each request, as long as the raylet lives."""
    preload()
    gc.freeze()  # a collection would write to what is imported, and each worker get a copy of it
    raylet = int(os.environ["RAY_RAYLET_PID"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}_")
        listener.listen(64)
        listener.settimeout(1)
        os.rename(f"{address}_", address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while os.path.exists(f"/proc/{raylet}"):
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    break
                connection.close()
        else:
            return
    # In a group of its own: Ray ends the group of a worker with it.
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    wanted = _receive(connection)
    sys.argv = wanted["arguments"]
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["directory"])
    runpy.run_path(sys.argv[0], run_name="__main__")


def preload() -> None:
    """Import what workers need, and leave Ray's random numbers alone.

    Ray seeds them when it needs the first one. If that were here, all workers would have the same
    ids for what they make, and those that start together would stop each other.
    """
    import ray.actor

    class Ids:
        @staticmethod
        def from_random() -> ray.actor.ActorClassID:
            return known(os.urandom(known.size()))

    known, ray.actor.ActorClassID = ray.actor.ActorClassID, Ids
    for name in (*_PRELOADED, *os.environ.get(_ALSO_PRELOADED, "").split()):
        importlib.import_module(name)
    ray.actor.ActorClassID = known


def _receive(connection: socket.socket) -> dict[str, Any]:
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    with connection.makefile("rb") as stream:
        wanted: dict[str, Any] = json.loads(stream.read(int.from_bytes(size, "little")))
    return wanted


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        ask()
