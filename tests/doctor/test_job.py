"""The doctor finds what is wrong with a job's store, input and checkpoint, before it is started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from dsvl_pipeline.doctor.finding import Finding
from dsvl_pipeline.doctor.job import check_job
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.s3 import S3Store
from tests.jobs import fake_job, parse, write_manifest
from tests.submit.api_server import ApiServer, api_server

DEMO = Path(__file__).resolve().parents[2] / "dsvl_pipeline" / "demo" / "checkpoint"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """Start a Kubernetes API server that the kubeconfig names."""
    with api_server(tmp_path) as started:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield started


def findings(job: dict[str, Any]) -> dict[str, Finding]:
    """Look at a job; give what was found by what it is about."""
    return {found.about: found for found in check_job(parse(job))}


def job_at(place: str, **changed: Any) -> dict[str, Any]:
    """A job of the fake engine, input and output below one place."""
    source = write_manifest(objects.join(place, "in"), 3)
    return fake_job(source, objects.join(place, "out")) | changed


@pytest.mark.s3
def test_a_good_store_is_told_to_be_good(s3_bucket: str) -> None:
    """And is left as it was."""
    job = job_at(s3_bucket)
    before = list(objects.list_objects(s3_bucket))
    found = findings(job)
    assert {finding.grade for finding in found.values()} == {"ok"}
    assert found["credentials"].text.startswith("from env; endpoint http://127.0.0.1:")
    assert "the first row asks of row-00000" in found["input.manifest"].text
    assert "a second write to the same name refused" in found["output.uri"].text
    assert list(objects.list_objects(s3_bucket)) == before


@pytest.mark.s3
def test_a_store_that_ignores_conditions_is_a_problem(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers would overwrite each other's log."""
    job = job_at(s3_bucket)
    put = S3Store._put  # left out before the request is signed, or a real store refuses it
    monkeypatch.setattr(S3Store, "_put", lambda store, uri, body, **_: put(store, uri, body))
    found = findings(job)["output.uri"]
    assert found.grade == "problem"
    assert "does not honour conditional writes (If-None-Match: *)" in found.text
    assert "use a store that does" in found.text


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_a_problem(s3_bucket: str) -> None:
    """Each place is told for itself."""
    job = job_at(s3_bucket)
    job["output"] = {"uri": "s3://bucket-of-nobody/out"}
    found = findings(job)
    assert found["input.manifest"].grade == "ok"
    assert found["output.uri"].grade == "problem"
    assert "bucket-of-nobody" in found["output.uri"].text
    assert found["output.uri"].advice


def test_no_credentials_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for a store that would say no."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:secret@127.0.0.1:9")
    job = job_at(str(tmp_path), output={"uri": "s3://bucket/out"})
    found = next(check_job(parse(job)))
    assert (found.about, found.grade) == ("credentials", "problem")
    assert "AWS_ACCESS_KEY_ID" in found.advice
    assert "secret@" not in found.text


def test_input_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """With the columns that there are; the store of the output is looked at all the same."""
    job = job_at(str(tmp_path))
    job["input"]["columns"]["image"] = "picture"
    found = findings(job)
    assert found["input.manifest"].grade == "problem"
    assert "no column 'picture'" in found["input.manifest"].text
    assert found["output.uri"].grade == "ok"
    assert not (tmp_path / "out").exists()
    job["input"] = {"images": str(tmp_path / "nowhere")}
    assert "does not exist" in findings(job)["input.images"].text


def test_places_are_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the home directory; and what cannot be listed hides no other finding."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    job = job_at(str(tmp_path))
    job |= {"output": {"uri": "~/out"}}
    job["input"]["manifest"] = "~/in/manifest.jsonl"
    assert {finding.grade for finding in findings(job).values()} <= {"ok", "warning"}
    assert not (tmp_path / "~").exists()
    job["input"]["images"] = "https://host/a.jpg"
    found = findings(job)
    assert "cannot be listed" in found["input.images"].text
    assert found["output.uri"].grade == "ok"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("model.safetensors", "the download was probably interrupted, fetch it again"),
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer.json"),
    ],
)
def test_a_broken_checkpoint_is_a_problem(tmp_path: Path, broken: str, told: str) -> None:
    """Every file, before an engine on a rented GPU finds it."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DEMO, checkpoint)
    job = job_at(str(tmp_path), model={"checkpoint": str(checkpoint)}, engine={})
    assert findings(job)["checkpoint"].grade == "ok"
    body = (checkpoint / broken).read_bytes()
    (checkpoint / broken).write_bytes(body[: len(body) // 2])
    found = findings(job)["checkpoint"]
    assert found.grade == "problem"
    assert told in found.text
    assert "fetch it again" in found.advice


def test_a_checkpoint_that_is_nowhere_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither here nor, as far as one can see, on the hub; nothing is downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    job = job_at(str(tmp_path), model={"checkpoint": "nobody/nothing"}, engine={})
    found = findings(job)["checkpoint"]
    assert found.grade == "problem"
    assert "nobody/nothing is not on this disk" in found.text
    assert "HF_TOKEN" in found.advice


def test_the_hubs_cache_needs_no_more_than_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client calls a cache without the repository's README incomplete, if asked for all."""

    def cached(_: str, *, allow_patterns: list[str], local_files_only: bool, **__: object) -> str:
        assert local_files_only
        assert not any(fnmatch("README.md", pattern) for pattern in allow_patterns)
        return str(DEMO)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    found = findings(job_at(str(tmp_path), model={"checkpoint": "some/model"}, engine={}))
    assert found["checkpoint"].grade == "ok"


def test_whatever_the_hubs_client_raises_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors are not all its own: those of the HTTP library under it come through."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    job = job_at(str(tmp_path), model={"checkpoint": "nobody/nothing"}, engine={})
    found = findings(job)["checkpoint"]
    assert found.grade == "problem"
    assert "name or service not known" in found.text


def test_the_ray_cluster_must_answer(tmp_path: Path) -> None:
    """Ray itself would try for minutes."""
    job = job_at(str(tmp_path), cluster={"address": "127.0.0.1:9"})
    found = findings(job)["Ray cluster"]
    assert (found.grade, found.text[:29]) == ("problem", "127.0.0.1:9 does not answer: ")


def test_kubernetes_must_have_what_pods_need(server: ApiServer, tmp_path: Path) -> None:
    """The same that `dsvl submit` asks for; a job without the section is not looked at."""
    job = job_at(str(tmp_path)) | {"kubernetes": {"workers": 2}}
    missing = findings(job)["kubernetes"]
    assert missing.grade == "warning"
    assert "service account dsvl is missing in namespace team" in missing.text
    server.put("ServiceAccount", "dsvl")
    found = findings(job)["kubernetes"]
    assert found.grade == "ok"
    assert found.text == f"RayJobs and service account dsvl in team of {server.url}"
    server.refuse("get /api/v1/namespaces/team/serviceaccounts/dsvl", 401, "who are you?")
    assert "log in again" in findings(job)["kubernetes"].text
    assert "kubernetes" not in findings(job_at(str(tmp_path)))


def test_an_end_of_answers_that_is_a_word_is_a_warning(tmp_path: Path) -> None:
    """The run leaves it out, and its answers are not what the file says."""
    copy = tmp_path / "copy"
    shutil.copytree(DEMO, copy)
    job = job_at(str(tmp_path), engine={"kind": "model"}, model={"checkpoint": str(copy)})
    assert "end of answers" not in findings(job)
    (copy / "generation_config.json").write_text('{"eos_token_id": [1, 70]}')
    found = findings(job)["end of answers"]
    assert found.grade == "warning"
    assert "ends answers at 70, no special token of the tokenizer" in found.text
