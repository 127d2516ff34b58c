"""``dsvl schedule``: a schedule that Kubernetes takes, a CronJob with the least rights."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsvl_pipeline.cli import main
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.kuberay import render, schedule
from tests.submit.api_server import api_server

ROOT = Path(__file__).resolve().parents[2]
JOB = str(ROOT / "configs" / "reprocess.yaml")
NOW = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)


def by_kind(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give the manifests by their kind; of ConfigMaps the one with the RayJob."""
    return {document["kind"]: document for document in documents}


def test_starts_follow_the_time_zone() -> None:
    """Two o'clock does not exist in Berlin on the last Sunday of March."""
    found = schedule.starts("30 2 * * *", "Europe/Berlin", NOW, count=2)
    assert [f"{time:%d %H:%M}" for time in found] == ["29 03:00", "30 02:30"]
    (weekly,) = schedule.starts("@weekly", "Etc/UTC", NOW, count=1)
    assert f"{weekly:%a %H:%M}" == "Sun 00:00"


@pytest.mark.parametrize(
    "cron",
    ["", "* * * *", "0 2 * * * *", "61 * * * *", "0 2 * * FOO", "0 2 L * *", "0 2 ? * *", "@often"],
)
def test_a_wrong_schedule_is_told(cron: str) -> None:
    """Also what other dialects know, and Kubernetes does not."""
    with pytest.raises(ConfigError, match=r"is no schedule .* such as"):
        schedule.starts(cron, "Etc/UTC", NOW)


def test_a_schedule_that_never_comes_is_told() -> None:
    """The 30th of February."""
    with pytest.raises(ConfigError, match=r"never comes|is no schedule"):
        schedule.starts("0 0 30 2 *", "Etc/UTC", NOW)


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "../etc/passwd"])
def test_a_wrong_time_zone_is_told(zone: str) -> None:
    """The API server of a cluster may know fewer, never more."""
    with pytest.raises(ConfigError, match="is no time zone"):
        schedule.starts("@daily", zone, NOW)


def test_it_creates_the_cron_job_and_all_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is what is created; again with other times it is changed."""
    command = ["schedule", JOB, "--cron", "0 2 * * *"]
    assert main.main(command) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    with api_server(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        server.put("ServiceAccount", "dsvl")
        assert main.main([*command, "--create"]) == 0
        for manifest in printed:
            assert server.get(manifest["kind"], manifest["metadata"]["name"]) == manifest
        assert main.main([*command[:-1], "@daily", "--create"]) == 0
        changed = server.get("CronJob", "recaption")
        assert changed is not None
        assert changed["spec"]["schedule"] == "@daily"
        assert not [one for one in server.requests() if "/rayjobs" in one]


def test_the_cron_job_creates_the_rayjob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own command, with its own file, while the last one runs and when it has ended."""
    manifests = schedule.manifests(load_job(JOB), "@daily", "Etc/UTC")
    found = by_kind(manifests)
    held, by_clock = found["ConfigMap"], found["CronJob"]["spec"]
    assert by_clock["concurrencyPolicy"] == "Forbid"
    pod = by_clock["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == held["metadata"]["name"]
    program, *arguments = pod["containers"][0]["command"]
    assert program == "dsvl"
    (tmp_path / "rayjob.yaml").write_text(held["data"]["rayjob.yaml"], encoding="utf-8")
    arguments = [one.replace("/etc/dsvl", str(tmp_path)) for one in arguments]
    with api_server(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        # What its role does not allow.
        server.refuse("get /api/v1/namespaces/team/serviceaccounts/dsvl", 403, "forbidden")
        assert main.main(arguments) == 0
        created = server.get("RayJob", "recaption")
        assert main.main(arguments) == 2
        assert "has not ended" in capsys.readouterr().err
        server.put("RayJob", "recaption", status={"jobDeploymentStatus": "Complete"})
        assert main.main(arguments) == 0
        assert server.get("RayJob", "recaption") == created
        asked = {one.partition("/")[0] + one.rpartition("/team/")[2] for one in server.requests()}
    assert created is not None
    assert created["spec"]["entrypoint"].startswith("python jobs/reprocess.py --config ")
    volumes = created["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volumes[0]["configMap"]["name"] == manifests[0]["metadata"]["name"]
    # No more than the role allows, and no less.
    allowed = {
        f"{'POST' if verb == 'create' else verb.upper()} rayjobs"
        + "".join(f"/{name}" for name in rule.get("resourceNames", []))
        for rule in found["Role"]["rules"]
        for verb in rule["verbs"]
    }
    assert asked - {"GET serviceaccounts/dsvl"} == allowed


def test_a_name_that_is_too_long_is_told() -> None:
    """Before half of it has been created."""
    with pytest.raises(ConfigError, match="cannot be the name of a CronJob"):
        render.check_name("CronJob", "a" * 53)
