"""What is created on Kubernetes is the one template, filled in from the job file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.kuberay import render, schedule
from tools.render_k8s import rendered

ROOT = Path(__file__).resolve().parents[2]


def job(**changed: Any) -> JobConfig:
    """A job with other settings."""
    values = yaml.safe_load((ROOT / "configs" / "caption.yaml").read_text(encoding="utf-8"))
    return JobConfig.model_validate(values | changed)


@pytest.mark.parametrize("place", sorted(rendered()))
def test_k8s_holds_the_renderers_output(place: str) -> None:
    """One source of truth: ``python -m tools.render_k8s`` writes what was changed."""
    assert (ROOT / place).read_text(encoding="utf-8") == rendered()[place]


def test_the_ray_version_is_the_locked_one() -> None:
    """The operator and the submitter go by it; the image holds the lock's."""
    lock = (ROOT / "requirements" / "base.txt").read_text(encoding="utf-8")
    spec = render.rayjob(job(), config="any", script="caption")["spec"]
    assert f"\nray=={spec['rayClusterSpec']['rayVersion']}\n" in lock


def test_the_config_map_holds_the_job_as_it_was_meant(tmp_path: Path) -> None:
    """With ``--set`` and with what files of the submitting machine hold: pods have neither."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    prompts = f"prompts=[{{id: a, text: 'Ä: \"$(reboot)\"', schema: {schema}}}]"
    wanted = load_job(ROOT / "configs" / "caption.yaml", [prompts, "generation.max_new_tokens=7"])
    (tmp_path / "job.yaml").write_text(render.config_map(wanted)["data"]["job.yaml"])
    schema.unlink()
    assert load_job(tmp_path / "job.yaml") == wanted


@pytest.mark.parametrize("name", ["caption", "demo", "documents", "reprocess"])
def test_a_job_survives_being_written(name: str, tmp_path: Path) -> None:
    """Otherwise its rows would get other keys elsewhere, and run again."""
    wanted = load_job(ROOT / "configs" / f"{name}.yaml")
    (tmp_path / "job.yaml").write_text(wanted.as_yaml(), encoding="utf-8")
    assert load_job(tmp_path / "job.yaml") == wanted


def test_nothing_of_the_user_reaches_a_shell() -> None:
    """The operator pastes the entrypoint, unquoted, into a line of shell."""
    prompts = [{"id": "a", "text": "$(reboot); `reboot`"}]
    config, rayjob = render.manifests(job(prompts=prompts))
    assert rayjob["spec"]["entrypoint"] == "python jobs/caption.py --config /etc/dsvl/job.yaml"
    assert "reboot" not in str(rayjob)
    assert "reboot" in config["data"]["job.yaml"]


def test_documents_run_by_their_own_script() -> None:
    """As one would by hand."""
    documents = load_job(ROOT / "configs" / "documents.yaml")
    entrypoint = render.manifests(documents)[1]["spec"]["entrypoint"]
    assert entrypoint == "python jobs/documents.py --config /etc/dsvl/job.yaml"


def test_another_job_has_another_config_map() -> None:
    """So that a retry of a running job never reads the next one's settings."""
    names = {render.config_map(job(max_error_fraction=x))["metadata"]["name"] for x in (0.1, 0.2)}
    assert len(names) == 2
    config, rayjob = render.manifests(job())
    volumes = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {"name": "config", "configMap": {"name": config["metadata"]["name"]}} in volumes
    assert config["immutable"] is True


def test_every_blank_of_the_template_is_filled() -> None:
    """And with what the job says."""
    wanted = {"image": "here/dsvl:1", "workers": 3, "gpus_per_worker": 2, "cpus_per_worker": 30}
    text = render.dump(render.manifests(job(kubernetes=wanted)))
    assert '"{}"' not in text
    assert "'{}'" not in text
    assert text.count(" image: here/dsvl:1\n") == 4  # three containers and the job itself
    _, rayjob = yaml.safe_load_all(text)
    (workers,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {workers[f"{count}eplicas"] for count in ("r", "minR", "maxR")} == {3}
    resources = workers["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"] == {"memory": "48Gi", "nvidia.com/gpu": "2"}
    assert resources["requests"] == {"cpu": "30", **resources["limits"]}


def test_a_cluster_without_gpus_asks_for_none() -> None:
    """Otherwise its pods would wait for ever."""
    text = render.dump(render.manifests(job(kubernetes={"gpus_per_worker": 0})))
    assert "nvidia.com/gpu" not in text
    assert "groupName: cpu" in text


@pytest.mark.parametrize(
    ("kind", "name"),
    [("RayJob", "a" * 48), ("RayCronJob", "a" * 37), ("RayJob", "7b-captions"), ("RayJob", "a-")],
)
def test_a_name_the_operator_refuses_is_told_before(kind: str, name: str) -> None:
    """It would only say so in its log, or cut the name."""
    with pytest.raises(ConfigError, match=rf"{name}.*cannot be the name of a {kind}"):
        render.check_name(kind, name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": {"uri": "out/captions"}}, "out/captions.*disk of a pod"),
        ({"input": {"images": "photos/*.jpg"}}, "'photos/.*jpg' is a path on this machine"),
        ({"model": {"checkpoint": "./gone"}}, "'./gone', a directory on this machine"),
        ({"model": {"checkpoint": "tests"}}, "'tests', a directory on this machine"),
        ({"cluster": {"address": "ray://head:10001"}}, "a RayJob brings its own cluster"),
        ({"prompts": [{"id": "a", "text": "x" * 1_000_001}]}, "Kubernetes takes at most"),
    ],
)
def test_a_job_that_cannot_run_there_is_refused(changed: Any, message: str) -> None:
    """Before pods are paid for."""
    with pytest.raises(ConfigError, match=message):
        render.manifests(job(**changed))


def test_the_namespace_is_in_what_is_printed() -> None:
    """So that `kubectl apply` puts it where `dsvl submit` would."""
    elsewhere = job(kubernetes={"namespace": "elsewhere"})
    for made in (render.manifests(elsewhere), schedule.manifests(elsewhere, "@daily", "Etc/UTC")):
        assert {one["metadata"]["namespace"] for one in made} == {"elsewhere"}
    assert all("namespace" not in one["metadata"] for one in render.manifests(job()))


@pytest.mark.parametrize("image", ["dsvl", "here:5000/dsvl", "dsvl:latest", "a:b; reboot"])
def test_an_image_is_named_by_tag_or_digest(image: str) -> None:
    """What ran must be known afterwards."""
    with pytest.raises(ValueError, match=re.escape("kubernetes.image")):
        job(kubernetes={"image": image})
