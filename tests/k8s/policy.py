"""What this project asks of its manifests beyond their schemas.

Each check is a function that yields findings as (where, what is wrong and what to do); `CHECKS`
names them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from tests.k8s.kustomize import ROOT
from tests.k8s.schemas import Finding, name_of

Manifest = Mapping[str, Any]
Problem = tuple[str, str]

GPU = "nvidia.com/gpu"
QUEUE = "kueue.x-k8s.io/queue-name"  # the label that puts a job into one of Kueue's queues
# Of a pod with all its containers, in seconds: a spot node gives its pods two minutes at most, on
# GKE 15 s.
GRACE_PERIOD_S = 110
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"  # of it, for batches that have begun
# After so long the autoscaler gives up a pod that has not started.
PATIENCE = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"
# KubeRay appends suffixes to the names of what it makes; its own webhook refuses longer ones.
MAX_NAME = {"RayJob": 47, "RayCronJob": 36, "CronJob": 52}
MAX_OTHER_NAME = 63
GENERATED_SUFFIX = 5  # what the API server appends to a generateName
CLUSTER_SCOPED = {
    "Namespace",
    "ClusterQueue",
    "ResourceFlavor",
    "ClusterRole",
    "ClusterRoleBinding",
}
# Made by hand before the first job, because no secret lies in this tree.
SECRETS_MADE_BY_HAND = {"dsvl-credentials"}

_IMAGE = re.compile(
    r"^(?P<name>[^@]+?)(?::(?P<tag>[\w][\w.-]*))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?$"
)
# The operator pastes the entrypoint into a shell line as it stands.
_SHELL_SAFE = re.compile(r"^[A-Za-z0-9_./: =-]+$")
_SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|ACCESS_?KEY|API_?KEY", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|\bhf_[A-Za-z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]+:[^/\s@]+@|\bgh[pousr]_[A-Za-z0-9]{30,}|\beyJ[\w-]{10,}\.[\w-]{10,}\."
)
# Names that hold where a secret lies, not the secret.
_SECRET_PLACE = re.compile(r"_(FILE|PATH|URI|DIR)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pod:
    """A pod that the manifests will make.

    Attributes:
        where: For findings: the manifest and the part of it.
        role: ``head``, ``worker``, ``submitter`` (of a RayJob) or ``other``.
        group: Name of its worker group, for workers.
        template: Metadata and spec.
    """

    where: str
    role: str
    group: str
    template: Mapping[str, Any]

    @property
    def spec(self) -> Mapping[str, Any]:
        """The pod's spec; empty where a template has none."""
        return self.template.get("spec") or {}

    @property
    def containers(self) -> list[tuple[str, Mapping[str, Any]]]:
        """All containers with where they stand, those that run first too."""
        found = [*self.spec.get("initContainers", ()), *self.spec.get("containers", ())]
        return [(f"{self.where}/{one.get('name')}", one) for one in found]


@dataclass(frozen=True)
class Rendering:
    """What kustomize makes of a directory.

    Attributes:
        manifests: All of it, also what ConfigMaps hold for someone to create later.
        later: Those of the second kind.
    """

    manifests: list[dict[str, Any]]
    later: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, manifests: list[dict[str, Any]]) -> Rendering:
        """Find the manifests inside of ConfigMaps, too."""
        maps = [manifest for manifest in manifests if manifest.get("kind") == "ConfigMap"]
        later = [one for found in maps for _, one in documents_of(found) if "kind" in one]
        return cls([*manifests, *later], tuple(later))

    def named(self, kind: str) -> set[str]:
        """Names of the manifests of a kind."""
        return {m["metadata"]["name"] for m in self.manifests if m.get("kind") == kind}

    @cached_property
    def ray_jobs(self) -> list[tuple[str, Manifest]]:
        """Each RayJob's spec, those of RayCronJobs too, with where it stands."""
        found = []
        for manifest in self.manifests:
            spec = manifest.get("spec") or {}
            if manifest.get("kind") == "RayJob":
                found.append((name_of(manifest), spec))
            elif manifest.get("kind") == "RayCronJob":
                found.append((f"{name_of(manifest)}: jobTemplate", spec["jobTemplate"]))
        return found

    @cached_property
    def pods(self) -> list[Pod]:
        """Every pod, with the part it plays."""
        found = []
        for where, spec in self.ray_jobs:
            cluster = spec["rayClusterSpec"]
            submitter = spec.get("submitterPodTemplate", {})
            found.append(Pod(f"{where}: submitter", "submitter", "", submitter))
            head = cluster["headGroupSpec"]["template"]
            found.append(Pod(f"{where}: head", "head", "", head))
            for group in cluster.get("workerGroupSpecs", ()):
                name = group["groupName"]
                found.append(Pod(f"{where}: {name}", "worker", name, group["template"]))
        for manifest in self.manifests:
            spec = manifest.get("spec") or {}
            match manifest.get("kind"):
                case "Pod":
                    found.append(Pod(name_of(manifest), "other", "", manifest))
                case "CronJob":
                    template = spec["jobTemplate"]["spec"]["template"]
                    found.append(Pod(name_of(manifest), "other", "", template))
                case "Job" | "Deployment" | "StatefulSet" | "DaemonSet":
                    found.append(Pod(name_of(manifest), "other", "", spec["template"]))
        return found


def documents_of(config_map: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the YAML documents in a ConfigMap that are mappings, with their keys."""
    for key, text in (config_map.get("data") or {}).items():
        if key.endswith((".yaml", ".yml", ".json")):
            for one in yaml.safe_load_all(text):
                if isinstance(one, dict):
                    yield key, one


def locked_ray() -> str:
    """Give the version of Ray that the image installs."""
    lock = (ROOT / "requirements" / "base.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ray==([\w.]+)", lock, re.MULTILINE)
    return version


def check_image(rendering: Rendering) -> Iterator[Problem]:
    """An image that may change under a running job makes two kinds of workers."""
    images = [(where, one.get("image")) for pod in rendering.pods for where, one in pod.containers]
    for where, spec in rendering.ray_jobs:
        options = spec["rayClusterSpec"].get("autoscalerOptions") or {}
        if "image" in options:
            images.append((f"{where}: autoscaler", options["image"]))
    for where, image in images:
        found = _IMAGE.match(image or "")
        if found is None or not (found["tag"] or found["digest"]):
            yield where, f"the image {image!r} has neither tag nor digest; name one"
        elif found["tag"] == "latest" and not found["digest"]:
            yield where, f"the image {image!r} is whatever is latest; name a version or a digest"


def check_ray_version(rendering: Rendering) -> Iterator[Problem]:
    """The operator decides by it what it may use; the image has the locked one."""
    for where, spec in rendering.ray_jobs:
        found = spec["rayClusterSpec"].get("rayVersion")
        if found != locked_ray():
            yield where, f"rayVersion is {found}, but the image has Ray {locked_ray()}; set it"


def _containers(rendering: Rendering) -> Iterator[tuple[str, Manifest]]:
    """All that run, the autoscaler's that the operator adds included."""
    for pod in rendering.pods:
        yield from pod.containers
    for where, spec in rendering.ray_jobs:
        cluster = spec["rayClusterSpec"]
        if cluster.get("enableInTreeAutoscaling"):
            yield f"{where}: autoscaler", cluster.get("autoscalerOptions") or {}


def check_memory(rendering: Rendering) -> Iterator[Problem]:
    """The operator sizes /dev/shm by it; and what exceeds its request is killed first."""
    for where, container in _containers(rendering):
        resources = container.get("resources") or {}
        limit = (resources.get("limits") or {}).get("memory")
        request = (resources.get("requests") or {}).get("memory")
        if limit is None or request != limit:
            yield where, f"requests {request} of memory with a limit of {limit}; make them equal"


def check_secrets(rendering: Rendering) -> Iterator[Problem]:
    """Manifests are committed, and anyone who may list pods reads them."""
    for manifest in rendering.manifests:
        where = name_of(manifest)
        if manifest.get("kind") == "Secret" and (
            manifest.get("data") or manifest.get("stringData")
        ):
            yield where, "holds values; leave it out of the tree and create it by hand"
        for path, value in _strings(manifest):
            if _SECRET_VALUE.search(value):
                yield f"{where}: {path}", "looks like a secret; refer to a Secret instead"
    for pod in rendering.pods:
        for where, container in pod.containers:
            for variable in container.get("env") or ():
                name = variable["name"]
                if (
                    variable.get("value")
                    and _SECRET_NAME.search(name)
                    and not _SECRET_PLACE.search(name)
                ):
                    yield f"{where}: {name}", "has its value written down; use secretKeyRef"


def _strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _strings(child, f"{path}/{name}".lstrip("/"))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _strings(child, f"{path}/{index}")
    elif isinstance(value, str):
        yield path, value


def check_non_root(rendering: Rendering) -> Iterator[Problem]:
    """As Kubernetes' restricted Pod Security Standard, which the namespace enforces."""
    for pod in rendering.pods:
        context = pod.spec.get("securityContext") or {}
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield pod.where, f"{key} is true; no pod here needs its node"
        for volume in pod.spec.get("volumes") or ():
            if "hostPath" in volume:
                yield pod.where, f"volume {volume['name']} is a hostPath; use an emptyDir or claim"
        if not pod.containers:
            yield (
                pod.where,
                "has no containers, so the operator's defaults apply, which run as root",
            )
        for where, container in pod.containers:
            own = {**context, **(container.get("securityContext") or {})}
            if own.get("runAsNonRoot") is not True:
                yield where, "may run as root; set securityContext.runAsNonRoot: true"
            if own.get("runAsUser") == 0:
                yield where, "runs as user 0; set another"
            if (own.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
                yield where, "has no seccompProfile; set RuntimeDefault"


def check_capabilities(rendering: Rendering) -> Iterator[Problem]:
    """No container keeps or gains a privilege."""
    for where, container in _containers(rendering):
        context = container.get("securityContext") or {}
        capabilities = context.get("capabilities") or {}
        if "ALL" not in capabilities.get("drop", ()) or capabilities.get("add"):
            yield where, "keeps capabilities; set capabilities: {drop: [ALL]} and add none"
        if context.get("privileged"):
            yield where, "is privileged; nothing here needs that"
        if context.get("allowPrivilegeEscalation") is not False:
            yield where, "may gain privileges; set allowPrivilegeEscalation: false"


def check_gpu(rendering: Rendering) -> Iterator[Problem]:
    """A GPU that nobody computes on costs as much as one that works."""
    for pod in rendering.pods:
        is_gpu_group = pod.role == "worker" and pod.group.startswith("gpu")
        counts = []
        for where, container in pod.containers:
            resources = container.get("resources") or {}
            limit = int((resources.get("limits") or {}).get(GPU, 0))
            request = int((resources.get("requests") or {}).get(GPU, limit))
            counts.append(limit)
            if (limit or request) and not is_gpu_group:
                yield where, f"takes {GPU}, but only worker groups named gpu-* may; remove it"
            if request != limit:
                yield where, f"requests {request} and is limited to {limit} {GPU}; make them equal"
        if is_gpu_group and not any(counts):
            yield pod.where, f"is named as a GPU group and has no limit of {GPU}; set one"


def check_auth(rendering: Rendering) -> Iterator[Problem]:
    """Without it whoever reaches the head runs code there."""
    for where, spec in rendering.ray_jobs:
        mode = (spec["rayClusterSpec"].get("authOptions") or {}).get("mode")
        if mode != "token":
            yield where, f"authOptions.mode is {mode}, so nobody is asked who they are; set token"


def check_names(rendering: Rendering) -> Iterator[Problem]:
    """A name that is too long is refused by the operator, once the object is there."""
    label = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
    seen = set()
    for manifest in rendering.manifests:
        kind, metadata = manifest.get("kind", ""), manifest.get("metadata") or {}
        name = metadata.get("name") or metadata.get("generateName", "") + "x" * GENERATED_SUFFIX
        limit = MAX_NAME.get(kind, MAX_OTHER_NAME)
        if len(name) > limit:
            yield name_of(manifest), f"the name has {len(name)} characters; {kind} takes {limit}"
        if not all(label.fullmatch(part) for part in name.split(".")):
            yield name_of(manifest), "use lower case letters, digits and dashes in the name"
        key = (manifest.get("apiVersion"), kind, metadata.get("namespace"), name)
        if key in seen and metadata.get("name"):
            yield name_of(manifest), "is there twice; rename or remove one"
        seen.add(key)
    for where, spec in rendering.ray_jobs:
        groups = [g["groupName"] for g in spec["rayClusterSpec"].get("workerGroupSpecs", ())]
        for group in groups:
            if not label.fullmatch(group) or groups.count(group) > 1:
                yield where, f"the group name {group!r} is no DNS label, or is there twice"


def check_references(rendering: Rendering) -> Iterator[Problem]:
    """What a pod names exists, or it waits for ever."""
    config_maps = {
        m["metadata"]["name"]: set(m.get("data") or {}) | set(m.get("binaryData") or {})
        for m in rendering.manifests
        if m.get("kind") == "ConfigMap"
    }
    accounts, claims = rendering.named("ServiceAccount"), rendering.named("PersistentVolumeClaim")
    for pod in rendering.pods:
        account = pod.spec.get("serviceAccountName")
        if account is None:
            yield pod.where, "names no serviceAccountName and gets the default one; name one"
        elif account not in accounts:
            yield pod.where, f"ServiceAccount {account!r} does not exist here; add or rename it"
        for what, name, keys, is_optional in _references(pod):
            if is_optional:
                continue
            if what == "ConfigMap" and name not in config_maps:
                yield pod.where, f"ConfigMap {name!r} does not exist here; add or rename it"
            elif what == "ConfigMap" and (missing := keys - config_maps[name]):
                yield pod.where, f"ConfigMap {name!r} has no {', '.join(sorted(missing))}"
            elif what == "Secret" and name not in SECRETS_MADE_BY_HAND:
                yield pod.where, f"Secret {name!r} is none that the README makes; add it there"
            elif what == "PersistentVolumeClaim" and name not in claims:
                yield pod.where, f"PersistentVolumeClaim {name!r} does not exist here; add it"
        volumes = {volume["name"] for volume in pod.spec.get("volumes") or ()}
        for where, container in pod.containers:
            for mount in container.get("volumeMounts") or ():
                if mount["name"] not in volumes:
                    yield where, f"mounts {mount['name']!r}, which is no volume of the pod"
    for manifest in rendering.manifests:
        if manifest.get("kind") in ("RoleBinding", "ClusterRoleBinding"):
            role = manifest["roleRef"]
            if role["name"] not in rendering.named(role["kind"]):
                yield name_of(manifest), f"{role['kind']} {role['name']!r} does not exist here"
            for subject in manifest.get("subjects") or ():
                if subject["kind"] == "ServiceAccount" and subject["name"] not in accounts:
                    yield name_of(manifest), f"ServiceAccount {subject['name']!r} does not exist"
        queue = ((manifest.get("metadata") or {}).get("labels") or {}).get(QUEUE)
        if queue is not None and queue not in rendering.named("LocalQueue"):
            yield name_of(manifest), f"LocalQueue {queue!r} does not exist here"


def _references(pod: Pod) -> Iterator[tuple[str, str, set[str], bool]]:
    """Give what a pod refers to: kind, name, keys needed, whether it may be missing."""
    volumes: list[Mapping[str, Any]] = []
    for volume in pod.spec.get("volumes") or ():
        volumes += [volume, *((volume.get("projected") or {}).get("sources") or ())]
    for volume in volumes:
        if claim := volume.get("persistentVolumeClaim"):
            yield "PersistentVolumeClaim", claim["claimName"], set(), False
        for key, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if source := volume.get(key):
                keys = {item["key"] for item in source.get("items") or ()}
                name = source.get("name") or source.get("secretName")
                yield kind, name, keys, bool(source.get("optional"))
    for _, container in pod.containers:
        for source in container.get("envFrom") or ():
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if found := source.get(key):
                    yield kind, found["name"], set(), bool(found.get("optional"))
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if found := source.get(key):
                    yield kind, found["name"], {found["key"]}, bool(found.get("optional"))


def check_namespace(rendering: Rendering) -> Iterator[Problem]:
    """Everything lies in one namespace, which its own limits hold; nothing in whatever is current.

    Kustomize takes all kinds of other operators for namespaced, those of clusters too.
    """
    for manifest in rendering.manifests:
        found = (manifest.get("metadata") or {}).get("namespace")
        if manifest in rendering.later:
            continue  # in that of whoever creates it
        if manifest.get("kind") in CLUSTER_SCOPED:
            if found is not None:
                yield name_of(manifest), f"is of the cluster and has no namespace; remove {found!r}"
        elif found not in rendering.named("Namespace"):
            yield (
                name_of(manifest),
                f"is in the namespace {found!r}, which is not made here; set it",
            )


def check_ray_job(rendering: Rendering) -> Iterator[Problem]:
    """What keeps a run going, or ends it, as the operator's behaviour demands it."""
    for where, spec in rendering.ray_jobs:
        cluster, head = spec["rayClusterSpec"], spec["rayClusterSpec"]["headGroupSpec"]
        if spec.get("submissionMode", "K8sJobMode") != "K8sJobMode":
            yield where, "submissionMode does not survive a restart; leave it at K8sJobMode"
        if not spec.get("backoffLimit"):
            yield where, "backoffLimit is 0: a lost head ends the job; set 1 or more"
        if not spec.get("preRunningDeadlineSeconds"):
            yield where, "waits for ever for GPUs that never come; set preRunningDeadlineSeconds"
        if not (spec.get("shutdownAfterJobFinishes") and spec.get("ttlSecondsAfterFinished")):
            yield where, "its cluster stays after the end; set shutdownAfterJobFinishes and a ttl"
        if "entrypointNumCpus" in spec or "entrypointNumGpus" in spec:
            yield where, "the driver would land on a worker; leave entrypointNumCpus out"
        if not _SHELL_SAFE.match(spec.get("entrypoint", "")):
            yield where, f"entrypoint {spec.get('entrypoint')!r} is pasted into a shell unquoted"
        if "runtimeEnvYAML" in spec or "metadata" in spec:
            yield where, "runtimeEnvYAML and metadata end up on a command line; use a mounted file"
        if head.get("rayStartParams", {}).get("num-cpus") != "0":
            yield where, 'rows would be worked on beside the driver; set the head\'s num-cpus: "0"'
        options = cluster.get("autoscalerOptions") or {}
        if cluster.get("enableInTreeAutoscaling") and options.get("version") != "v2":
            yield where, "autoscalerOptions.version must say v2: group priorities need it"
        for group in [head, *cluster.get("workerGroupSpecs", ())]:
            place = f"{where}: {group.get('groupName', 'head')}"
            yield from _check_spilling(place, group)
        environment = _environment(head["template"]["spec"]["containers"][0])
        spill = head.get("rayStartParams", {}).get("object-spilling-directory")
        if environment.get("TMPDIR") != spill:
            yield where, f"plans on the container's own layer; set the head's TMPDIR: {spill}"
        if environment.get("RAY_TMPDIR") != "/tmp":
            yield where, "the autoscaler reads /tmp/ray; set the head's RAY_TMPDIR: /tmp"
        if cluster.get("enableInTreeAutoscaling"):
            first = cluster["workerGroupSpecs"][0]
            if first.get("minReplicas") != first.get("replicas"):
                yield where, "idle workers go while the driver plans; set minReplicas to replicas"


def _environment(container: Manifest) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in container.get("env") or ()}


def _check_spilling(where: str, group: Manifest) -> Iterator[Problem]:
    directory = group.get("rayStartParams", {}).get("object-spilling-directory")
    spec = group["template"]["spec"]
    mounts = {m["mountPath"]: m["name"] for m in spec["containers"][0].get("volumeMounts", ())}
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    if "emptyDir" not in volumes.get(mounts.get(directory, ""), {}):
        yield where, f"spills to {directory}, no emptyDir; mount one, on the node's NVMe disk"


def check_eviction(rendering: Rendering) -> Iterator[Problem]:
    """The head stays, and workers have the time that draining takes."""
    not_evictable = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    for pod in rendering.pods:
        if pod.role in ("head", "worker"):
            grace = pod.spec.get("terminationGracePeriodSeconds", 30)
            if grace != GRACE_PERIOD_S:
                yield (
                    pod.where,
                    (f"has {grace} s to end; set terminationGracePeriodSeconds: {GRACE_PERIOD_S}"),
                )
            drain = float(_environment(pod.containers[-1][1]).get(DRAIN) or 0)
            if not 30 < drain < grace:
                yield pod.where, f"drains for {drain:g} of its {grace} s to end; set {DRAIN}: 90"
        if pod.role == "head":
            annotations = (pod.template.get("metadata") or {}).get("annotations") or {}
            for key, value in not_evictable.items():
                if annotations.get(key) != value:
                    yield pod.where, f"may be moved for a tidier cluster; annotate {key}: {value!r}"
            if "spot" not in str(pod.spec.get("affinity", "")).lower():
                yield pod.where, "may land on a spot node; keep it off by nodeAffinity"
    for where, spec in rendering.ray_jobs:
        groups = spec["rayClusterSpec"].get("workerGroupSpecs", ())
        spot = [g.get("priority", 0) for g in groups if g["groupName"].endswith("-spot")]
        others = [g.get("priority", 0) for g in groups if not g["groupName"].endswith("-spot")]
        if spot and (not others or max(others) >= min(spot)):
            yield where, "needs an on-demand group of lower priority beside its spot group"
        if spot:
            yield from _check_spot(where, spec)


def _check_spot(where: str, spec: Manifest) -> Iterator[Problem]:
    """Spot workers are what the others are, and a try does not wait for them to its end."""
    cluster = spec["rayClusterSpec"]
    on_demand, *groups = cluster["workerGroupSpecs"]
    pod = _anywhere(on_demand)
    for group in groups:
        for key in sorted(pod | _anywhere(group)):
            if _anywhere(group).get(key) != pod.get(key):
                yield (
                    f"{where}: {group['groupName']}",
                    f"{key} is not that of {on_demand['groupName']}; list the spot component last",
                )
    patience = int(_environment(cluster.get("autoscalerOptions") or {}).get(PATIENCE, 3600))
    if patience >= spec["preRunningDeadlineSeconds"] / 2:
        yield where, f"waits {patience} s for a spot node, too long for the try; set {PATIENCE}"


def _anywhere(group: Manifest) -> dict[str, Any]:
    """A group's pod spec, but for where the pods may run."""
    spec = group["template"]["spec"]
    return {key: spec[key] for key in spec if key not in ("affinity", "tolerations")}


def check_network(rendering: Rendering) -> Iterator[Problem]:
    """Where policies hold, a pod reaches what it cannot do without."""
    policies = [m for m in rendering.manifests if m.get("kind") == "NetworkPolicy"]
    for pod in rendering.pods:
        labels = (pod.template.get("metadata") or {}).get("labels") or {}
        if pod.role != "other":  # the operator's own
            labels = {**labels, "ray.io/node-type": pod.role}
        mine = [p["spec"] for p in policies if _selects(p["spec"]["podSelector"], labels)]
        for direction in ("Ingress", "Egress"):
            if not any(direction in spec.get("policyTypes", ()) for spec in mine):
                yield pod.where, f"no NetworkPolicy holds its {direction.lower()}; label it"
        ports = {
            (port.get("protocol", "TCP"), port["port"])
            for spec in mine
            for rule in spec.get("egress") or ()
            for port in rule.get("ports") or ()
        }
        for needed in (("UDP", 53), ("TCP", 53), ("TCP", 443)):
            if needed not in ports:
                yield pod.where, f"cannot reach {needed[0]} {needed[1]}; allow that egress"
        creates = labels.get("app.kubernetes.io/component") == "schedule"
        if (pod.role == "head" or creates) and ("TCP", 6443) not in ports:
            yield pod.where, "cannot reach the API server; allow egress to TCP 6443"
        if pod.role == "head":
            callers = str([rule for spec in mine for rule in spec.get("ingress") or ()])
            if "kuberay-operator" not in callers:
                yield pod.where, "the operator cannot ask the head for the job; allow its ingress"


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels") or {}
    assert not selector.get("matchExpressions"), "not known here: podSelector.matchExpressions"
    return all(labels.get(key) == value for key, value in wanted.items())


def check_schedule(rendering: Rendering) -> Iterator[Problem]:
    """A CronJob waits for its last run, and its account may do nothing else."""
    for manifest in rendering.manifests:
        where = name_of(manifest)
        if manifest.get("kind") == "CronJob":
            if manifest["spec"].get("concurrencyPolicy") != "Forbid":
                yield where, "runs beside its last run; set concurrencyPolicy: Forbid"
            if manifest["spec"].get("startingDeadlineSeconds") is None:
                yield where, "after 100 missed runs it never starts again; set a deadline"
        if manifest.get("kind") == "RayCronJob" and manifest["spec"]["jobTemplate"].get("suspend"):
            yield where, "nobody, Kueue included, resumes what it starts; leave out suspend"
        if manifest.get("kind") in ("Role", "ClusterRole"):
            for rule in manifest.get("rules") or ():
                if "*" in [*rule.get("verbs", ()), *rule.get("resources", ()), *rule["apiGroups"]]:
                    yield where, "allows everything (*); name what is needed"
                if "secrets" in rule.get("resources", ()):
                    yield where, "reads secrets; nothing here needs that"


Check = Callable[[Rendering], Iterator[Problem]]
CHECKS: dict[str, Check] = {
    "image": check_image,
    "ray-version": check_ray_version,
    "memory": check_memory,
    "secrets": check_secrets,
    "non-root": check_non_root,
    "capabilities": check_capabilities,
    "gpu": check_gpu,
    "auth": check_auth,
    "names": check_names,
    "references": check_references,
    "namespace": check_namespace,
    "ray-job": check_ray_job,
    "eviction": check_eviction,
    "network": check_network,
    "schedule": check_schedule,
}


def check_all(rendering: Rendering) -> list[Finding]:
    """Give what any check finds."""
    return [
        Finding(name, where, message)
        for name, check in CHECKS.items()
        for where, message in check(rendering)
    ]
