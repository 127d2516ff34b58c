"""Which cluster a job ends up on, and that joining it leaves the process as it was."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import ray

from dsvl_pipeline.cluster import connect
from dsvl_pipeline.errors import ConfigError, RunStoppedError
from dsvl_pipeline.run.signals import stop_on_signals
from tests.jobs import fake_job, parse


class Clusters:
    """Stands in for ``ray.init``: only some addresses answer."""

    def __init__(self, *answering: str) -> None:
        self.answering = answering
        self.asked: list[str] = []
        self.num_cpus: int | None = None

    def init(self, *, address: str, num_cpus: int | None = None, **_: Any) -> None:
        """Join, as Ray does, with a handler of its own."""
        self.asked.append(address)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if address not in self.answering:
            raise ConnectionError(f"nobody at {address}")
        self.num_cpus = num_cpus


def connected(
    monkeypatch: pytest.MonkeyPatch, clusters: Clusters, *, variable: str = "", **cluster: Any
) -> None:
    """Connect where ``RAY_ADDRESS`` has this value."""
    monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", clusters.init)
    job = fake_job({"images": "x/*.jpg"}, "out")
    job["cluster"] |= cluster
    connect.connect(parse(job))


@pytest.mark.parametrize(
    ("variable", "address", "asked"),
    [
        ("", "auto", "local"),
        ("auto", "auto", "auto"),
        ("1.2.3.4:6379", "auto", "1.2.3.4:6379"),
        ("1.2.3.4:6379", "5.6.7.8:6379", "5.6.7.8:6379"),
        ("1.2.3.4:6379", "local", "local"),
    ],
)
def test_what_is_named_is_joined(
    monkeypatch: pytest.MonkeyPatch, variable: str, address: str, asked: str
) -> None:
    """The job file wins over the environment; the number of CPUs is ours to say only at home."""
    monkeypatch.setattr(connect, "check_reachable", lambda address: None)
    clusters = Clusters(asked)
    connected(monkeypatch, clusters, variable=variable, address=address)
    assert clusters.asked == [asked]
    assert (clusters.num_cpus is not None) == (asked == "local")


@pytest.mark.ray
def test_somebody_elses_cluster_is_joined_only_when_named(tmp_path: Path) -> None:
    """Ray's own order would join whatever runs on this machine."""
    folder = tempfile.mkdtemp(prefix="dsvl-")  # short: the names of Ray's sockets have a limit
    job = fake_job({"images": "x/*.jpg"}, "out")
    program = (
        "import logging, os, ray; logging.basicConfig(format='%(message)s')\n"
        "from dsvl_pipeline.cluster import connect\n"
        "from tests.jobs import parse\n"
        "from tests.quick_ray import quick_ray\n"
        f"job = parse({job!r})\n"
        "for address in ('', 'auto'):\n"
        "    os.environ['RAY_ADDRESS'] = address\n"
        "    with quick_ray(): connect.connect(job)\n"
        "    print(ray.get_runtime_context().gcs_address); ray.shutdown()\n"
    )
    environment = os.environ | {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
    start = "from ray.cluster_utils import Cluster\n"
    start += "from tests.quick_ray import few_processes\n"
    start += "with few_processes():\n"
    start += "    print(Cluster(initialize_head=True, head_node_args={'num_cpus': 1}).address)\n"
    foreign = subprocess.Popen(
        [sys.executable, "-c", start + "input()"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert foreign.stdout is not None
        address = foreign.stdout.readline().strip()
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=900,
        )
    finally:
        foreign.communicate("\n", timeout=900)
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    own, joined = done.stdout.split()
    assert own != address
    assert joined == address
    assert f"left at {address}, set RAY_ADDRESS=auto" in done.stderr


def test_a_ray_that_does_not_start_is_no_wrong_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong with the job: exit code 3."""

    def fail(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    clusters = Clusters()
    monkeypatch.setattr(clusters, "init", fail)
    with pytest.raises(RunStoppedError, match="Ray did not start on this machine: The current"):
        connected(monkeypatch, clusters)


def test_a_ray_that_does_not_start_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Mostly the machine is busy: how busy, what is needed, and where Ray tells more."""

    def fail(**_: Any) -> None:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    clusters = Clusters()
    monkeypatch.setattr(clusters, "init", fail)
    for session, told in (
        ("session_2026-01-01_00-00-00_000000_1", tmp_path / "ray/session_latest/logs"),
        (f"session_2026-01-02_00-00-00_000000_{os.getpid()}", None),
    ):
        (tmp_path / "ray" / session / "logs").mkdir(parents=True)
        with pytest.raises(RunStoppedError) as stopped:
            connected(monkeypatch, clusters)
        message = str(stopped.value)
        assert "The current node timed out during startup." in message
        assert "wait and run the same command again" in message
        assert re.search(r"\d+ processes want its \d+ CPUs?", message)
        assert f"({told or tmp_path / 'ray' / session / 'logs'})" in message


def test_the_memory_that_is_free_is_this_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a pod the machine's 60 GiB are of no use; what is kept of files gives way."""
    mib = 1 << 20
    monkeypatch.setattr(connect, "_CGROUP", tmp_path)
    of_machine = connect._free_memory_gib()
    for name, text in (
        ("memory.max", f"{48 * mib}\n"),
        ("memory.current", f"{40 * mib}\n"),
        ("memory.stat", f"anon {30 * mib}\ninactive_file {8 * mib}\n"),
    ):
        (tmp_path / name).write_text(text)
    assert connect._free_memory_gib() == 16 / 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert (connect._free_memory_gib() or 0.0) > 0.1 or of_machine is None


def test_a_cluster_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job for a cluster must not run on the laptop it was sent from, nor wait for minutes."""
    with socket.socket() as closed:  # bound, so nobody else takes the port, and not listening
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        clusters = Clusters("local", address)  # Ray itself is not even asked
        with pytest.raises(ConfigError, match=rf"cannot join the Ray cluster at {address}.*refuse"):
            connected(monkeypatch, clusters, address=address)
        assert clusters.asked == []


def test_a_web_server_is_no_ray_head() -> None:
    """Ray would wait for it without end; 8265 is the port that people take for the head's."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with pytest.raises(OSError, match=r"a web server answers there.* 6379"):
        connect.check_reachable(f"127.0.0.1:{server.server_port}")
    thread.join()
    server.server_close()


def test_joining_leaves_the_handlers_of_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own would end the process with exit code 15 and without a word."""
    with stop_on_signals() as stop:
        stop.is_abrupt = False
        connected(monkeypatch, Clusters("local"))
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
