"""A Ray cluster that a run starts on this machine, for itself: nobody else needs to reach it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsvl_pipeline.cluster import private_ray
from dsvl_pipeline.cluster.private_ray import NETWORK_SWITCH

_TOKEN = Path(".ray", "auth_token")
_START_WORKER = Path(__file__).with_name("start_worker.py")


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started meanwhile, and its processes, listen on loopback only.

    Who has set the switch himself has decided.
    """
    if NETWORK_SWITCH in os.environ:
        yield
        return
    os.environ[NETWORK_SWITCH] = "0"
    try:
        with private_ray.setting("ENABLE_RAY_CLUSTER", False):
            yield
    finally:
        del os.environ[NETWORK_SWITCH]


@contextmanager
def quick_workers() -> Iterator[None]:
    """Let the workers of a Ray that is started meanwhile begin without a detour.

    See `dsvl_pipeline.cluster.start_worker`. Ray joins the name to a directory of its own, which
    an absolute one replaces. Where a later Ray has no such name, workers start as it has it.
    """
    with private_ray.setting("SETUP_WORKER_FILENAME", str(_START_WORKER)):
        yield


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
