"""The alert rules by themselves: promtool reads them and lets them fire on planted series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metrics.conftest import MONITORING

pytestmark = pytest.mark.ray  # not of Ray, but of `make test`, which has promtool
CASES = Path(__file__).with_name("rules_test.yaml")


def spec() -> dict[str, Any]:
    """The rules as Prometheus' own files hold them."""
    manifest = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = manifest["spec"]
    return found


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in spec()["groups"] for rule in group["rules"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The rules beside their cases, without descriptions: a case would have to repeat them."""
    rules = spec()
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]["description"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    (tmp_path / CASES.name).write_text(CASES.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_the_rules_are_rules(promtool: Callable[..., str], folder: Path) -> None:
    """Prometheus would refuse the whole file for one mistake."""
    said = promtool("check", "rules", "--lint-fatal", str(folder / "rules.yaml"))
    assert f"SUCCESS: {len(alerts())} rules found" in said


def test_each_alert_fires_on_its_planted_series(promtool: Callable[..., str], folder: Path) -> None:
    """And is silent on a good run, and after the end of one."""
    promtool("test", "rules", str(folder / CASES.name))
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    tests = [test for case in cases for test in case["alert_rule_test"]]
    names = {rule["alert"] for rule in alerts()}
    assert {test["alertname"] for test in tests if "exp_alerts" in test} == names
    assert {test["alertname"] for test in tests if "exp_alerts" not in test} == names


def test_an_alert_that_never_fires_is_noticed(promtool: Callable[..., str], folder: Path) -> None:
    """Each rule with a threshold that nothing reaches fails the cases, so they check something."""
    text = (folder / "rules.yaml").read_text(encoding="utf-8")
    for rule in alerts():
        dead = yaml.safe_load(text)
        for group in dead["groups"]:
            for one in group["rules"]:
                if one["alert"] == rule["alert"]:
                    one["expr"] = f"({one['expr']}) and on() vector(0) > 1"
        (folder / "rules.yaml").write_text(yaml.safe_dump(dead), encoding="utf-8")
        with pytest.raises(AssertionError, match=rule["alert"]):
            promtool("test", "rules", str(folder / CASES.name))


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_each_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """Whoever is woken by it has not read the code."""
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert "$labels" in rule["annotations"]["summary"]
    assert "$value" in rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"]) > 60


def test_the_component_names_all_its_files() -> None:
    """A file that kustomize is not told of is not there."""
    component = yaml.safe_load((MONITORING / "kustomization.yaml").read_text(encoding="utf-8"))
    named = set(component["resources"])
    for generated in component["configMapGenerator"]:
        named.update(generated["files"])
    assert named == {path.name for path in MONITORING.iterdir()} - {"kustomization.yaml"}


def test_the_monitor_takes_the_pods_that_the_operator_labels() -> None:
    """KubeRay names the port `metrics` and labels every Ray pod with its type."""
    text = (MONITORING / "podmonitor.yaml").read_text(encoding="utf-8")
    monitor = yaml.safe_load(text)["spec"]
    (expression,) = monitor["selector"]["matchExpressions"]
    assert expression["key"] == "ray.io/node-type"
    assert [one["port"] for one in monitor["podMetricsEndpoints"]] == ["metrics"]
    # What the alerts are about must be among the labels that it adds.
    assert "ray.io/cluster" in monitor["podTargetLabels"]
