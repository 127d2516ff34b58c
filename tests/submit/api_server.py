"""A Kubernetes API server for tests: kmock's, over HTTP, in a thread, with a kubeconfig for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kmock import KubernetesEmulator, Server, resource

PLURALS = {
    "ConfigMap": "v1/configmaps",
    "CronJob": "batch/v1/cronjobs",
    "RayJob": "ray.io/v1/rayjobs",
    "Role": "rbac.authorization.k8s.io/v1/roles",
    "RoleBinding": "rbac.authorization.k8s.io/v1/rolebindings",
    "ServiceAccount": "v1/serviceaccounts",
}


class ApiServer:
    """What the tests see of it."""

    def __init__(self, emulator: KubernetesEmulator, url: str) -> None:
        self.emulator = emulator
        self.url = url

    def put(self, kind: str, name: str, **rest: Any) -> None:
        """Let there be an object."""
        self.emulator.objects[PLURALS[kind], "team", name] = {"metadata": {"name": name}, **rest}

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Give an object as it was sent; None if it is not there, or was deleted."""
        key = (resource(PLURALS[kind]), "team", name)
        found = dict(self.emulator.objects.items()).get(key)
        return None if found is None or found.deleted else dict(found.raw)

    def refuse(self, request: str, status: int, message: str) -> None:
        """Let a request, ``post /apis/...``, fail from now on."""
        self.emulator[request] << status << {"message": message}

    def requests(self) -> list[str]:
        """Give what was asked so far: method and path."""
        return [f"{one.method.upper()} {one.url.path}" for one in self.emulator]


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Start one, with the namespace ``team``, and write ``folder/kubeconfig``."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=900)

    emulator = KubernetesEmulator()
    server = Server(emulator)
    run(emulator.__aenter__())
    run(server.__aenter__())
    try:
        url = str(server.url).rstrip("/")
        (folder / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig(url)), encoding="utf-8")
        yield ApiServer(emulator, url)
    finally:
        run(server.__aexit__(None, None, None))
        run(emulator.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _kubeconfig(url: str) -> dict[str, Any]:
    context = {"cluster": "test", "user": "test", "namespace": "team"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": "of-a-test"}}],
        "contexts": [{"name": "test", "context": context}],
    }
