"""``dsvl submit --target k8s`` against an API server: what it creates, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dsvl_pipeline.cli import main
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.kuberay import render
from tests.submit.api_server import ApiServer, api_server

JOB = """\
name: try
input: {images: s3://bucket/photos}
prompts: [{id: caption, text: "Describe the image."}]
model: {checkpoint: demo}
output: {uri: s3://bucket/try}
"""
POST = "post /apis/ray.io/v1/namespaces/team/rayjobs"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Start a cluster with the service account of ``k8s/base``."""
    with api_server(tmp_path) as started:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        started.put("ServiceAccount", "dsvl")
        yield started


@pytest.fixture
def job(tmp_path: Path) -> str:
    """A job file."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    return str(tmp_path / "job.yaml")


def submit(*arguments: str) -> int:
    """Run the command."""
    return main.main(["submit", "--target", "k8s", *arguments])


def test_it_creates_exactly_what_is_rendered(
    server: ApiServer, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing added, nothing lost on the way; the job's settings in the ConfigMap."""
    assert submit(job, "--dry-run", "--set", "kubernetes.workers=3", "--limit", "10") == 0
    config, rayjob = yaml.safe_load_all(capsys.readouterr().out)
    assert not server.requests()  # a dry run asks nobody
    assert submit(job, "--set", "kubernetes.workers=3", "--limit", "10") == 0
    assert server.get("RayJob", "try") == rayjob
    assert server.get("ConfigMap", config["metadata"]["name"]) == config
    wanted = render.manifests(load_job(job, ["kubernetes.workers=3"]), ["--limit", "10"])
    assert [config, rayjob] == wanted
    assert rayjob["spec"]["entrypoint"].endswith(" --config /etc/dsvl/job.yaml --limit 10")
    assert "kubectl get rayjob -n team try" in capsys.readouterr().out


def test_what_a_dry_run_printed_can_be_edited_and_submitted(
    server: ApiServer, job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For what the job file has no setting for."""
    submit(job, "--dry-run")
    edited = capsys.readouterr().out.replace("ttlSecondsAfterFinished: 600", "suspend: true")
    (tmp_path / "edited.yaml").write_text(edited, encoding="utf-8")
    assert submit(str(tmp_path / "edited.yaml")) == 0
    created = server.get("RayJob", "try")
    assert created == list(yaml.safe_load_all(edited))[1]
    assert submit(str(tmp_path / "edited.yaml"), "--limit", "1") == 2
    assert "come too late" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["Running", ""])
def test_a_running_job_is_left_alone(
    server: ApiServer, job: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of one job would only wait for each other's lease."""
    server.put("RayJob", "try", status={"jobDeploymentStatus": state})
    assert submit(job, "--replace") == 2
    assert "RayJob try in namespace team has not ended" in capsys.readouterr().err
    assert not [one for one in server.requests() if not one.startswith("GET ")]


def test_a_job_that_has_ended_is_replaced_where_one_says_so(
    server: ApiServer, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again goes on with what is missing."""
    server.put("RayJob", "try", status={"jobDeploymentStatus": "Failed"})
    assert submit(job) == 2
    assert "exists already and has ended (Failed); --replace" in capsys.readouterr().err
    assert submit(job, "--replace") == 0
    created = server.get("RayJob", "try")
    assert created is not None
    assert "status" not in created


def test_the_same_job_twice_shares_its_config_map(server: ApiServer, job: str) -> None:
    """Its name says what is in it."""
    assert submit(job) == 0
    server.put("RayJob", "try", status={"jobDeploymentStatus": "Complete"})
    assert submit(job, "--replace") == 0
    assert not [one for one in server.requests() if one.startswith(("PUT", "PATCH"))]


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        (401, "Unauthorized", "log in again"),
        (403, "rayjobs.ray.io is forbidden", "you may not: ask for a role"),
        (404, "404 page not found", "the KubeRay operator installed"),
        (422, "spec.rayVersion: Invalid value", "422 spec.rayVersion: Invalid value"),
    ],
)
def test_a_refusal_is_told_with_what_to_do(
    server: ApiServer,
    job: str,
    status: int,
    message: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the server's words and ours."""
    server.refuse(POST, status, message)
    assert submit(job) == 2
    error = capsys.readouterr().err
    assert message in error
    assert told in error
    assert "create RayJob try in namespace team" in error


def test_a_missing_service_account_is_told_first(
    server: ApiServer, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pods would never be made, and nobody would say why."""
    del server.emulator.objects["v1/serviceaccounts", "team", "dsvl"]
    assert submit(job) == 2
    assert "service account dsvl is missing in namespace team" in capsys.readouterr().err
    assert not [one for one in server.requests() if one.startswith("POST")]


def test_a_missing_operator_is_told_before_anything_is_created(
    server: ApiServer, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that knows no RayJobs says only that there is no such page."""
    server.refuse("get /apis/ray.io/v1/namespaces/team/rayjobs/try", 404, "404 page not found")
    assert submit(job) == 2
    assert "the KubeRay operator installed" in capsys.readouterr().err
    assert not [one for one in server.requests() if one.startswith("POST")]


@pytest.mark.parametrize(
    ("target", "option"),
    [("k8s", ["--address", "http://head:8265"]), ("k8s", ["--no-wait"]), ("ray", ["--replace"])],
)
def test_an_option_of_the_other_target_is_refused(
    target: str, option: list[str], job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rather than ignored: who wrote it meant something by it."""
    assert main.main(["submit", job, "--target", target, "--dry-run", *option]) == 2
    assert f"{option[0]} is for --target" in capsys.readouterr().err


def test_no_cluster_is_told(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No kubeconfig, or one of a server that is gone."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    assert submit(job) == 2
    assert "no Kubernetes cluster is known here" in capsys.readouterr().err
    with api_server(tmp_path):
        pass
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert submit(job) == 2
    assert "the API server does not answer" in capsys.readouterr().err
