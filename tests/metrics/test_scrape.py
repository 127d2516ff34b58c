"""What a real run tells a real Prometheus, and that rules and dashboard ask for just that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsvl_pipeline.cluster.metrics import JOB_LABEL, METRICS
from tests.metrics.conftest import MONITORING, Observed
from tests.metrics.test_rules import alerts

pytestmark = pytest.mark.ray
DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def dashboard() -> Iterator[tuple[str, str, str]]:
    """Each panel's title, expressions (over all namespaces and jobs) and their legends."""
    board = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "10s")
            expression = expression.replace("$namespace", ".*").replace("$dsvl_job", ".*")
            assert "$" not in expression
            yield panel["title"], expression, target["legendFormat"]


def names_in(expression: str) -> set[str]:
    """The metrics that an expression names; all of them are Ray's."""
    return set(re.findall(r"\bray_\w+(?=[{)\s\[]|$)", re.sub(r"by \([^)]*\)", "", expression)))


def test_every_metric_is_there_with_its_labels(observed: Observed) -> None:
    """As the documents say, under the name that Ray makes of it."""
    for metric in METRICS:
        series = observed.query(f'ray_{metric.name}{{{JOB_LABEL}="test"}}')
        assert series, metric.name
        for label in metric.labels:
            assert all(one["metric"].get(label) for one in series), (metric.name, label)
        assert f"# TYPE ray_{metric.name} {metric.kind}" in observed.scraped


def test_nothing_else_is_there(observed: Observed) -> None:
    """A metric that no document names is nobody's."""
    found = set(re.findall(r"^# TYPE ray_(dsvl_\w+) ", observed.scraped, re.MULTILINE))
    assert found == {metric.name for metric in METRICS}


def test_the_numbers_are_those_of_the_run(observed: Observed) -> None:
    """The last scrape after the run, against its summary."""
    summary = observed.summary
    assert (summary.ok, summary.degraded, summary.errors) == (150, 0, 1)
    for status, rows in {"ok": summary.ok, "error": summary.errors, "degraded": 0}.items():
        assert observed.value(f'ray_dsvl_rows_total{{status="{status}"}}') == rows
    assert observed.value('ray_dsvl_row_codes_total{code="not_found"}') == 1
    for kind in ("new", "prompt"):
        tokens = observed.value(f'ray_dsvl_tokens_total{{kind="{kind}"}}')
        assert tokens == summary.engine[f"{kind}_tokens"] > 0
    up_s = observed.value("ray_dsvl_engine_up_seconds_total")
    assert up_s == pytest.approx(summary.engine["up_s"])
    for stage in ("preprocess", "write", "commit"):
        assert observed.value(f'ray_dsvl_stage_seconds_total{{stage="{stage}"}}') > 0
    assert observed.value("ray_dsvl_commits_total") >= 1
    assert observed.value("ray_dsvl_parts_total") >= observed.value("ray_dsvl_commits_total")
    assert observed.value("ray_dsvl_engine_restarts_total") == observed.num_crashes > 0
    assert observed.value("ray_dsvl_orphan_parts") == 1
    assert observed.value("ray_dsvl_rows_remaining") == 0
    assert observed.value("ray_dsvl_shards_remaining") == 0
    assert observed.value("sum(ray_dsvl_running_tasks)") == 0
    age_s = observed.value("time() - ray_dsvl_last_receipt_timestamp_seconds")
    assert 0 < age_s < 120


def test_the_run_was_seen_going_on(observed: Observed) -> None:
    """Not only its end: queues, tasks and engines had numbers while it ran."""
    assert observed.value("max_over_time(ray_dsvl_shards_remaining[5m])") == 1
    assert observed.value("max_over_time(ray_dsvl_rows_remaining[5m])") > 0
    assert observed.value('max_over_time(ray_dsvl_engines{state="alive"}[5m])') == 1
    running = 'max_over_time(ray_dsvl_running_tasks{stage="generate"}[5m])'
    assert observed.value(running) >= 1


def test_prometheus_finds_no_fault_with_the_names(
    observed: Observed, promtool: Callable[..., str]
) -> None:
    """Units, suffixes and help texts as its conventions want them; Ray's own labels aside."""
    lines = [line for line in observed.scraped.splitlines(keepends=True) if "ray_dsvl_" in line]
    promtool("check", "metrics", stdin=re.sub(r'[A-Z]\w+="[^"]*",', "", "".join(lines)))


def test_rules_and_dashboard_name_only_metrics_that_exist(observed: Observed) -> None:
    """A panel on a metric that was renamed shows nothing for ever, and no alert of it fires."""
    exist = set(re.findall(r"^(\w+)[{ ]", observed.scraped, re.MULTILINE))
    asked = {rule["alert"]: rule["expr"] for rule in alerts()}
    asked |= {title: expression for title, expression, _ in dashboard()}
    assert len(asked) > 15
    for title, expression in asked.items():
        assert names_in(expression), title
        assert names_in(expression) <= exist, title


@pytest.mark.parametrize(("title", "expression", "legend"), list(dashboard()))
def test_every_panel_shows_something(
    observed: Observed, title: str, expression: str, legend: str
) -> None:
    """Prometheus evaluates it over the run: labels and matching are right, not only names."""
    found = observed.query(f"last_over_time(({expression})[2m:1s])")
    assert found, title
    labels = set(re.findall(r"{{(\w+)}}", legend))
    assert all(one["metric"].keys() >= labels for one in found), (title, legend, found)


def test_no_alert_fires_on_a_good_run(observed: Observed) -> None:
    """Prometheus had the rules loaded; one restart and one broken row are no alarm."""
    assert observed.query('ALERTS{alertstate="firing"}') == []
    (rules,) = observed.rules()
    assert [rule["health"] for rule in rules["rules"]] == ["ok"] * len(alerts())


def test_the_documents_list_every_metric() -> None:
    """Name, kind, labels and meaning, as the code has them."""
    rows = [
        f"| `ray_{m.name}` | {m.kind} | {', '.join(m.labels) or '-'} | {m.about} |" for m in METRICS
    ]
    text = DOCS.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| `ray_dsvl_")] == rows
