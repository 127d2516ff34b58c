"""A job file to what Kubernetes is given: a ConfigMap with the job, and the RayJob that runs it.

``rayjob.yaml`` beside this file is the one source of every RayJob of the project; ``k8s/`` holds
its output for the jobs of ``configs/``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.places import absolute, relative_places
from dsvl_pipeline.job.text_files import read_text
from dsvl_pipeline.store.uris import is_object

Manifest = dict[str, Any]

ACCOUNT = "dsvl"
"""The service account of a job's pods; ``k8s/base`` makes it."""

_MAX_CONFIG_BYTES = 1_000_000  # etcd takes a little more
_MAX_NAME = {"RayJob": 47, "RayCronJob": 36, "CronJob": 52}
INSTANCE = "app.kubernetes.io/instance"
"""Label with the job's name on all that is made for it."""


def check_name(kind: str, name: str) -> str:
    """Return a name that the operator takes for a kind of object.

    Raises:
        ConfigError: It is too long, or does not begin with a letter.
    """
    longest = _MAX_NAME[kind]
    if len(name) > longest or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        raise ConfigError(
            f"name: {name!r} ({len(name)} characters) cannot be the name of a {kind}, which begins "
            f"with a letter and has at most {longest} characters; change it in the job file"
        )
    return name


def summary(job: JobConfig) -> str:
    """Return what cluster a job asks for, much of which may be defaults."""
    wanted = job.kubernetes
    gpus = f"{wanted.gpus_per_worker} GPU, " if wanted.gpus_per_worker else ""
    return (
        f"{wanted.workers} x ({gpus}{wanted.cpus_per_worker} CPU, "
        f"{wanted.memory_gib_per_worker} GiB) and a head, of image {wanted.image}; see "
        "`kubernetes:` in the job file"
    )


def script_of(job: JobConfig) -> str:
    """Return the script of ``jobs/`` that runs a job."""
    return "documents" if job.input.documents or job.input.columns.document else "caption"


def config_map(job: JobConfig) -> Manifest:
    """Render the ConfigMap that holds a job.

    Raises:
        ConfigError: The pods could not run the job: it writes to their own disk, reads from this
            machine's, or is too large.
    """
    _check(job)
    text = absolute(job).as_yaml()
    if len(text.encode()) > _MAX_CONFIG_BYTES:
        raise ConfigError(
            f"the job file has {len(text.encode())} bytes, and Kubernetes takes at most "
            f"{_MAX_CONFIG_BYTES} of them; shorten prompts or schemas"
        )
    return named_by_content(job.name, job.name, job=text)


def named_by_content(prefix: str, instance: str, **texts: str) -> Manifest:
    """Render a ConfigMap that never changes, because its name says what is in it.

    Args:
        prefix: The name's beginning.
        instance: Of the job.
        texts: Contents of its ``.yaml`` files.
    """
    digest = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()[:10]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{prefix}-{digest}",
            "labels": {"app.kubernetes.io/part-of": "dsvl-pipeline", INSTANCE: instance},
        },
        "immutable": True,
        "data": {f"{name}.yaml": text for name, text in texts.items()},
    }


def rayjob(job: JobConfig, *, config: str, script: str, arguments: Sequence[str] = ()) -> Manifest:
    """Render the RayJob of a job.

    Args:
        job: Gives the name, the image and the size of the cluster; nothing else of it is used.
        config: Name of the ConfigMap that holds the job as ``job.yaml``.
        script: Of ``jobs/``, without its ending.
        arguments: More for the script. They reach a shell: nothing that a user wrote as text.

    Raises:
        ConfigError: The job's name cannot be a RayJob's.
    """
    name, wanted = check_name("RayJob", job.name), job.kubernetes
    rendered: Manifest = yaml.safe_load(
        resources.files(__package__).joinpath("rayjob.yaml").read_text(encoding="utf-8")
    )
    spec = rendered["spec"]
    cluster = spec["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"]
    templates = (spec["submitterPodTemplate"], head, workers["template"])

    command = ["python", f"jobs/{script}.py", "--config", "/etc/dsvl/job.yaml", *arguments]
    spec["entrypoint"] = " ".join(command)
    rendered["metadata"]["name"] = name
    for labelled in (rendered, *templates):
        labelled["metadata"]["labels"] = labelled["metadata"]["labels"] | {INSTANCE: name}
    for template in templates:
        template["spec"]["containers"][0]["image"] = wanted.image
        if template is not spec["submitterPodTemplate"]:
            template["spec"]["volumes"][0]["configMap"]["name"] = config

    workers["groupName"] = "gpu" if wanted.gpus_per_worker else "cpu"
    for count in ("replicas", "minReplicas", "maxReplicas"):
        workers[count] = wanted.workers
    memory = {"memory": f"{wanted.memory_gib_per_worker}Gi"}
    gpus = {"nvidia.com/gpu": str(wanted.gpus_per_worker)} if wanted.gpus_per_worker else {}
    workers["template"]["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": str(wanted.cpus_per_worker), **memory, **gpus},
        "limits": {**memory, **gpus},
    }
    if not gpus:
        del workers["template"]["spec"]["tolerations"]
    return rendered


def manifests(job: JobConfig, arguments: Sequence[str] = ()) -> list[Manifest]:
    """Render all that a job needs, in the order of its creation; see `rayjob`."""
    config = config_map(job)
    name = config["metadata"]["name"]
    made = rayjob(job, config=name, script=script_of(job), arguments=arguments)
    return placed([config, made], job)


def placed(manifests: list[Manifest], job: JobConfig) -> list[Manifest]:
    """Set the job's namespace in manifests, if it names one, for those who apply them by hand."""
    if job.kubernetes.namespace:
        for manifest in manifests:
            manifest["metadata"]["namespace"] = job.kubernetes.namespace
    return manifests


def read(path: str | Path) -> list[Manifest]:
    """Read what `dump` wrote; nothing where the file is none of ours, such as a job file.

    Raises:
        ConfigError: It holds objects that a submission does not create.
    """
    try:
        documents = list(yaml.safe_load_all(read_text(Path(path))))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return []  # `load_job` says what is wrong
    if not documents or not all(isinstance(one, dict) and "kind" in one for one in documents):
        return []
    found = [str(one.get("kind")) for one in documents]
    if found not in (["ConfigMap", "RayJob"], ["RayJob"]):
        raise ConfigError(
            f"{path} holds {', '.join(found) or 'nothing'}, expected a job file, or the ConfigMap "
            "and RayJob that --dry-run prints"
        )
    return documents


def dump(documents: list[Manifest]) -> str:
    """Write manifests as one YAML text."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """YAML as people write manifests: texts of several lines as they are, nothing referred to."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)


def _check(job: JobConfig) -> None:
    if not is_object(job.output.uri):
        raise ConfigError(
            f"output.uri is {job.output.uri!r}, a place on the disk of a pod, which is gone when "
            "the job ends; give s3://BUCKET/PREFIX"
        )
    for setting, place in relative_places(job):
        if setting == "model.checkpoint":
            raise ConfigError(
                f"{setting} is {place!r}, a directory on this machine, which pods do not have; "
                "give a hub id, or an absolute path that is there on a volume of the pods"
            )
        raise ConfigError(
            f"{setting}: {place!r} is a path on this machine, which pods do not have; give "
            "s3://..., or an absolute path that is there in the image or on a volume of the pods"
        )
    if job.cluster.address != "auto":
        raise ConfigError(
            f"cluster.address is {job.cluster.address!r}, but a RayJob brings its own cluster; "
            "leave it out"
        )
