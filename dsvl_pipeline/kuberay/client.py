"""The few things that are asked of a Kubernetes API server: create, look, delete."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsvl_pipeline import extras
from dsvl_pipeline.errors import AccessError, ConfigError, NotFoundError
from dsvl_pipeline.kuberay.render import Manifest

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# The client has methods of their own for the core group, and generic ones for all others.
_CORE = {"ConfigMap": "config_map", "ServiceAccount": "service_account"}
_ENDED = ("Complete", "Failed", "ValidationFailed")
_TIMEOUT_S = 30.0
_DELETION_S = 120.0


class Cluster:
    """A namespace of a Kubernetes cluster.

    Args:
        namespace: None is the one of the kubeconfig's current context, or of this pod.

    Attributes:
        namespace: As it was given or found.
        server: Address of the API server.

    Raises:
        ConfigError: There is no client, no kubeconfig and no pod's account, or it is broken.
    """

    def __init__(self, namespace: str | None = None) -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            told = extras.missing("kubernetes", "kubernetes", "a cluster's API server")
            raise ConfigError(told) from error
        try:
            if "KUBECONFIG" not in os.environ and (_ACCOUNT / "token").is_file():
                config.load_incluster_config()
                default = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            else:
                # As kubectl; without it the client goes by what it found when it was imported.
                file = os.environ.get("KUBECONFIG") or "~/.kube/config"
                config.load_kube_config(file)
                context = config.list_kube_config_contexts(file)[1]["context"]
                default = context.get("namespace", "default")
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"no Kubernetes cluster is known here: {error}; set KUBECONFIG, or let your "
                "cloud's tool write ~/.kube/config, until `kubectl cluster-info` works"
            ) from error
        self.namespace = namespace or default
        settings = client.Configuration.get_default_copy()
        settings.retries = False  # people wait, and can repeat the command
        api = client.ApiClient(settings)
        self._core, self._others = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self.server = settings.host

    def create(self, manifests: Sequence[Manifest], *, is_replacing: bool = False) -> list[str]:
        """Create objects in their order; return their names.

        A RayJob of the name must not be there; other objects that are there already are changed
        to what is wanted.

        Args:
            manifests: ConfigMaps, RayJobs, CronJobs and what those need.
            is_replacing: Delete a RayJob of the name if it has ended.

        Raises:
            ConfigError: The server cannot be reached or refuses, the operator or the service
                account is missing, or there is a RayJob of the name.
        """
        for manifest in manifests:  # first, so that a refusal leaves nothing behind
            if manifest["kind"] == "RayJob":
                self._make_way(manifest, is_replacing=is_replacing)
        return [self._create(manifest) for manifest in manifests]

    def check_account(self, name: str) -> None:
        """Check that pods can run as a service account.

        Raises:
            AccessError: One may not look.
            ConfigError: There is none of the name, or the server cannot be reached.
        """
        try:
            self._ask("get", "v1", "ServiceAccount", name)
        except NotFoundError:
            raise ConfigError(
                f"service account {name} is missing in namespace {self.namespace}, so the job's "
                "pods could not start; kubectl apply -k k8s/base/platform first (k8s/README.md)"
            ) from None

    def check_operator(self) -> None:
        """Check that RayJobs are known here.

        Raises:
            AccessError: One may not look.
            ConfigError: They are not, or the server cannot be reached.
        """
        with suppress(NotFoundError):  # of RayJobs there need be none
            self._ask("get", "ray.io/v1", "RayJob", "any")

    def _create(self, manifest: Manifest) -> str:
        version, kind, name = manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]
        try:
            self._ask("create", version, kind, name, manifest)
        except FileExistsError as error:
            if kind == "RayJob":
                raise ConfigError(f"RayJob {name} was created by somebody else just now") from error
            # Of a ConfigMap that never changes the name says what it holds.
            if not manifest.get("immutable"):
                self._ask("patch", version, kind, name, manifest)
        return f"{kind.lower()}/{name}"

    def _make_way(self, rayjob: Manifest, *, is_replacing: bool) -> None:
        name = rayjob["metadata"]["name"]
        place = f"RayJob {name} in namespace {self.namespace}"
        state = self._state(rayjob)
        if state is None:
            return
        if state not in _ENDED:
            raise ConfigError(
                f"{place} has not ended ({state or 'just created'}), and two runs of a job would "
                f"stand in each other's way; wait, or kubectl delete rayjob -n {self.namespace} "
                f"{name}"
            )
        if not is_replacing:
            raise ConfigError(
                f"{place} exists already and has ended ({state}); --replace deletes it and runs "
                "the job again, for what is missing"
            )
        self._ask("delete", rayjob["apiVersion"], "RayJob", name)
        end_s = time.monotonic() + _DELETION_S
        while self._state(rayjob) is not None:
            if time.monotonic() > end_s:
                raise ConfigError(
                    f"{place} is still being deleted after {_DELETION_S:g} s; its cluster may "
                    "still be going down, try again later"
                )
            time.sleep(1)

    def _state(self, rayjob: Manifest) -> str | None:
        """Return where a RayJob stands, ``""`` if it has not begun; None if there is none."""
        try:
            found = self._ask("get", rayjob["apiVersion"], "RayJob", rayjob["metadata"]["name"])
        except NotFoundError:
            return None
        return str(found.get("status", {}).get("jobDeploymentStatus", ""))

    def _ask(
        self, verb: str, version: str, kind: str, name: str, body: Manifest | None = None
    ) -> Any:
        """Make one request.

        Raises:
            NotFoundError: There is no such object.
            AccessError: Who asks may not.
            FileExistsError: There is one already.
            ConfigError: The server cannot be reached or refuses.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        where: dict[str, Any] = {"namespace": self.namespace, "_request_timeout": _TIMEOUT_S}
        if kind in _CORE:
            verb_there = {"get": "read"}.get(verb, verb)
            method = getattr(self._core, f"{verb_there}_namespaced_{_CORE[kind]}")
        else:
            method = getattr(self._others, f"{verb}_namespaced_custom_object")
            group, _, version = version.partition("/")
            where |= {"group": group, "version": version, "plural": f"{kind.lower()}s"}
        if verb != "create":
            where["name"] = name
        if body is not None:
            where |= {"body": body, "field_validation": "Strict"}
        what = f"{verb} {kind} {name} in namespace {self.namespace} of {self.server}"
        try:
            return method(**where)
        except ApiException as error:
            if error.status == 409 and verb == "create":
                raise FileExistsError(what) from error
            message = _message(error)
            if error.status == 404 and verb != "create" and "page not found" not in message:
                raise NotFoundError(what) from error
            refused = AccessError if error.status == 403 else ConfigError
            raise refused(f"{what}: {error.status} {message}{_advice(error, kind)}") from error
        except (HTTPError, OSError) as error:
            raise ConfigError(
                f"{what}: the API server does not answer: {error}; is it the right cluster "
                "(kubectl config current-context), and can it be reached from here?"
            ) from error


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.body or error.reason).strip()


def _advice(error: Any, kind: str) -> str:
    if error.status == 401:
        return "; log in again (kubectl auth whoami)"
    if error.status == 403:
        return f"; you may not: ask for a role that may create {kind.lower()}s there"
    if error.status == 404 and kind == "RayJob":
        return "; is the namespace there, and the KubeRay operator installed (k8s/README.md)?"
    if error.status == 404:
        return "; is the namespace there?"
    return ""
