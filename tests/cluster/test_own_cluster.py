"""A run's own Ray is reachable from nowhere else, and its token is its user's alone."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray._private import ray_constants

from dsvl_pipeline.cluster import own_cluster
from dsvl_pipeline.cluster.own_cluster import keep_token_private, on_loopback
from dsvl_pipeline.cluster.private_ray import NETWORK_SWITCH
from tests.jobs import fake_job, jpeg

_LISTEN = "0A"


def descendants(pid: int) -> Iterator[int]:
    """Give a process and all that it started, by what /proc says now."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from descendants(int(child))


def sockets(pid: int) -> set[str]:
    """Give the inodes of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def listeners() -> Iterator[tuple[str, str]]:
    """Give address and inode of whatever listens on this machine."""
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            (
                _,
                local,
                _,
                state,
                *_,
            ) = (fields := line.split())
            if state == _LISTEN:
                words = bytes.fromhex(local.rpartition(":")[0])
                # Each word of 32 bits is in this machine's order.
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                ip = ipaddress.ip_address(packed)
                mapped = getattr(ip, "ipv4_mapped", None)
                yield str(mapped or ip), fields[9]


def command_of(pid: int) -> str:
    """Give the command line of a process; empty where it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def listening(pid: int) -> set[str]:
    """Give the addresses on which a process, or one that it started, listens."""
    ours: set[str] = set()
    for one in list(descendants(pid)):
        try:
            ours |= sockets(one)
        except OSError:  # it has just ended
            continue
    return {address for address, inode in listeners() if inode in ours}


@pytest.mark.ray
def test_a_runs_own_ray_listens_on_loopback_only(tmp_path: Path) -> None:
    """GCS, raylet, workers, agents and the metrics of all: Ray's default is every interface."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    job = fake_job({"images": str(tmp_path / "*.jpg")}, str(tmp_path / "out"))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    folder = tempfile.mkdtemp(prefix="dsvl-")  # short: the names of Ray's sockets have a limit
    hidden = ("RAY_ADDRESS", "RAY_AUTH_MODE", NETWORK_SWITCH)
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"PYTHONPATH": os.getcwd(), "RAY_TMPDIR": folder, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "dsvl_pipeline", "run", str(tmp_path / "job.yaml")]
    try:
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as run:
            found: set[str] = set()
            are_workers_quick = False
            while run.poll() is None:
                found |= listening(run.pid)
                commands = map(command_of, list(descendants(run.pid)))
                are_workers_quick |= any(str(own_cluster._START_WORKER) in c for c in commands)
                time.sleep(0.2)
        assert run.returncode == 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert are_workers_quick, "Ray takes no other script to start workers any more"
    assert found, "nothing listened: then this test sees nothing"
    assert {address for address in found if not ipaddress.ip_address(address).is_loopback} == set()
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_a_listener_on_all_addresses_would_be_seen() -> None:
    """Else the test above could not fail."""
    code = "import socket, sys; s = socket.create_server(('0.0.0.0', 0)); print(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert listening(os.getpid()) >= {"0.0.0.0"}
        child.send_signal(signal.SIGTERM)


def test_the_switch_holds_only_while_the_cluster_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is joined afterwards has an address of the network."""
    monkeypatch.delenv(NETWORK_SWITCH, raising=False)
    with on_loopback():
        assert (os.environ[NETWORK_SWITCH], ray_constants.ENABLE_RAY_CLUSTER) == ("0", False)
    assert NETWORK_SWITCH not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER


def test_who_wants_the_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Prometheus elsewhere may read a laptop's metrics, if its user means that."""
    monkeypatch.setenv(NETWORK_SWITCH, "1")
    with on_loopback():
        assert ray_constants.ENABLE_RAY_CLUSTER


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray looks for the token of a user who has set nothing."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def test_a_new_token_is_the_users_alone(token: Path) -> None:
    """From its first byte on, whatever the umask: who reads it may run code as this user."""
    before = os.umask(0)
    try:
        keep_token_private()
    finally:
        os.umask(before)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) == 64


def test_an_older_token_stays_but_is_closed(token: Path) -> None:
    """Ray wrote it for all to read; clusters that run know it."""
    token.parent.mkdir()
    token.write_text("old")
    token.chmod(0o644)
    keep_token_private()
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("old", 0o600)


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "/x")],
)
def test_no_token_is_made_that_ray_would_not_make(
    token: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """It has one from elsewhere, or wants none."""
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not token.exists()
