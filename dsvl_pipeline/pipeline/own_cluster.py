"""A Ray cluster that a run starts on this machine, for itself: nobody else needs to reach it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray._private import ray_constants

# Ray's own switch, which on Windows and macOS is off: without it a node's address is 127.0.0.1,
# and its servers (GCS, raylets, workers, agents, metrics) listen there alone. `_node_ip_address`
# does not do that: ray.init() replaces a loopback address by that of the network.
_SWITCH = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
_TOKEN = Path(".ray", "auth_token")
_START_WORKER = Path(__file__).with_name("start_worker.py")


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started meanwhile, and its processes, listen on loopback only.

    Who has set the switch himself has decided.
    """
    if _SWITCH in os.environ:
        yield
        return
    before = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_SWITCH], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[_SWITCH]
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def quick_workers() -> Iterator[None]:
    """Let the workers of a Ray that is started meanwhile begin without a detour.

    See `dsvl_pipeline.pipeline.start_worker`. Ray joins the name to a directory of its own, which
    an absolute one replaces. Where a later Ray has no such name, workers start as it has it.
    """
    names = vars(ray_constants)
    before = names.get("SETUP_WORKER_FILENAME")
    names["SETUP_WORKER_FILENAME"] = str(_START_WORKER)
    try:
        yield
    finally:
        names["SETUP_WORKER_FILENAME"] = before


def keep_token_private() -> None:
    """Let nobody else read the token of this user's clusters, which Ray would write for all.

    It is made here where Ray would make one.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    with suppress(OSError, RuntimeError):  # no home, or one of somebody else: Ray says so
        path = Path.home() / _TOKEN
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(file, "w", encoding="ascii") as written:
                written.write(secrets.token_hex(32))
        path.chmod(0o600)
