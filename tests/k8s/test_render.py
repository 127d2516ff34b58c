"""What ``kubectl apply -k`` would send is what a cluster takes, and what this project wants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.kuberay import render as dsvl_render
from dsvl_pipeline.kuberay import schedule as dsvl_schedule
from tests.k8s.conftest import Compose
from tests.k8s.kustomize import K8S, ROOT, render
from tests.k8s.policy import Rendering, check_all, documents_of
from tests.k8s.schemas import Schemas

ROOTS = sorted(path.parent for path in K8S.rglob("kustomization.yaml"))
KIND = {path: yaml.safe_load((path / "kustomization.yaml").read_text())["kind"] for path in ROOTS}
COMPONENTS = [str(path.relative_to(K8S)) for path in ROOTS if KIND[path] == "Component"]
BUILDS = [path for path in ROOTS if KIND[path] == "Kustomization"]
TOGETHER = (
    ("components/kueue", "components/model-cache"),
    ("components/model-cache", "components/spot", "components/raycronjob"),
    ("components/model-cache", "components/gke-workload-identity", "components/spot"),
)


def everything_wrong(rendering: Rendering, schemas: Schemas) -> list[str]:
    """Say what the API server or this project's policy would not take."""
    return list(map(str, schemas.check(rendering.manifests) + check_all(rendering)))


@pytest.mark.parametrize("path", BUILDS, ids=lambda path: str(path.relative_to(K8S)))
def test_every_build_is_valid_and_allowed(path: Path, schemas: Schemas) -> None:
    """Base, overlays and schedule, as they are applied."""
    rendering = Rendering.of(render(path))
    assert rendering.manifests
    assert everything_wrong(rendering, schemas) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_is_valid_on_the_base(
    component: str, compose: Compose, schemas: Schemas
) -> None:
    """Each alone: none may need another, and each changes what the base renders."""
    rendering = compose(component)
    assert everything_wrong(rendering, schemas) == []
    assert rendering.manifests != compose().manifests


@pytest.mark.parametrize("components", TOGETHER, ids=" and ".join)
def test_components_go_together(
    components: tuple[str, ...], compose: Compose, schemas: Schemas
) -> None:
    """Patches that count on a place in a list must still find it after another component's."""
    assert everything_wrong(compose(*components), schemas) == []


def test_every_mounted_job_loads(tmp_path: Path) -> None:
    """A mistake in a job file would be told only once a cluster has started."""
    names = set()
    for manifest in [one for path in BUILDS for one in render(path)]:
        if manifest["kind"] == "ConfigMap" and "job.yaml" in manifest["data"]:
            file = tmp_path / "job.yaml"
            file.write_text(manifest["data"]["job.yaml"], encoding="utf-8")
            job = load_job(file)
            assert job.output.uri.startswith("s3://")
            names.add(job.name)
    assert names >= {"caption-products", "read-documents", "demo"}


def test_the_demo_is_the_demo_of_a_laptop() -> None:
    """But for where things lie, and how large its cluster is."""
    here = load_job(K8S / "overlays" / "dev" / "job.yaml").model_dump()
    there = load_job(ROOT / "configs" / "demo.yaml").model_dump()
    for job in (here, there):
        del job["input"]["images"], job["input"]["documents"], job["output"]["uri"]
        del job["kubernetes"]
    assert here == there


@pytest.mark.parametrize("command", ["submit", "schedule"])
def test_what_dsvl_creates_is_valid_and_allowed(command: str, schemas: Schemas) -> None:
    """From any job file, on the platform, in whatever namespace it is created."""
    job = load_job(ROOT / "configs" / "reprocess.yaml", ["kubernetes.workers=4"])
    created = {
        "submit": lambda: dsvl_render.manifests(job),
        "schedule": lambda: dsvl_schedule.manifests(job, "@daily", "Europe/Berlin"),
    }[command]()
    created = Rendering.of(created).manifests
    platform = render(K8S / "base" / "platform")
    assert everything_wrong(Rendering([*platform, *created], tuple(created)), schemas) == []


def test_components_reach_what_dsvl_prints(tmp_path: Path, schemas: Schemas) -> None:
    """By a kustomization around it, as the README has it for jobs on GKE, scheduled ones too."""
    job = load_job(ROOT / "configs" / "reprocess.yaml", ["kubernetes.namespace=dsvl"])
    printed = dsvl_render.dump(dsvl_render.manifests(job))
    (tmp_path / "rayjob.yaml").write_text(printed, encoding="utf-8")
    above = Path(os.path.relpath(K8S / "components", tmp_path.resolve()))
    names = ("gke-workload-identity", "model-cache", "spot")
    around = {"resources": ["rayjob.yaml"], "components": [str(above / one) for one in names]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(around), encoding="utf-8")
    rendering = Rendering.of([*render(K8S / "base" / "platform"), *render(tmp_path)])
    assert everything_wrong(rendering, schemas) == []
    nodes = [pod for pod in rendering.pods if pod.role in ("head", "worker")]
    assert len(nodes) == 3
    for pod in nodes:
        variables = {one["name"] for one in pod.spec["containers"][0]["env"]}
        assert "AWS_ROLE_ARN" in variables, pod.where


def test_the_job_that_is_mounted_is_the_job_that_is_named(compose: Compose) -> None:
    """Each RayJob mounts the ConfigMap that kustomize made of its own job file."""
    rendering = compose()
    jobs = {m["metadata"]["name"]: m for m in rendering.manifests if m["kind"] == "ConfigMap"}
    for manifest in rendering.manifests:
        if manifest["kind"] == "RayJob":
            head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
            ((_, job),) = documents_of(jobs[head["volumes"][0]["configMap"]["name"]])
            assert job["name"] == manifest["metadata"]["name"]


def test_spot_workers_come_before_those_on_demand(compose: Compose) -> None:
    """The same pods, on other nodes, and preferred by the autoscaler."""
    rendering = compose("components/spot")
    for _, spec in rendering.ray_jobs:
        on_demand, spot = spec["rayClusterSpec"]["workerGroupSpecs"]
        assert spot["priority"] > on_demand.get("priority", 0)
        assert on_demand["maxReplicas"] >= spot["maxReplicas"]
        assert on_demand["maxReplicas"] >= on_demand["replicas"] >= on_demand["minReplicas"] > 0
        assert "affinity" not in on_demand["template"]["spec"]


def test_a_queued_job_starts_suspended_and_does_not_grow(compose: Compose) -> None:
    """Kueue refuses jobs that scale themselves."""
    for manifest in compose("components/kueue").manifests:
        if manifest["kind"] == "RayJob":
            assert manifest["spec"]["suspend"] is True
            assert manifest["spec"]["shutdownAfterJobFinishes"] is True
            cluster = manifest["spec"]["rayClusterSpec"]
            assert not cluster["enableInTreeAutoscaling"]
            assert all(g["minReplicas"] == g["maxReplicas"] for g in cluster["workerGroupSpecs"])


def test_the_ray_cron_job_is_the_ray_job(compose: Compose) -> None:
    """Patches of other components reach it, and the name of its ConfigMap is the rendered one."""
    rendering = compose("components/model-cache", "components/raycronjob")
    (job,) = [
        m["spec"]
        for m in rendering.manifests
        if m["metadata"]["name"] == "caption-products" and m["kind"] == "RayJob"
    ]
    (cron,) = [m["spec"] for m in rendering.manifests if m["kind"] == "RayCronJob"]
    assert cron["jobTemplate"] == job
