"""Debian's Prometheus, and what it scraped from a real run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsvl_pipeline.run.summary import RunSummary

MONITORING = Path(__file__).resolve().parents[2] / "k8s" / "components" / "monitoring"
TOOLS = ("promtool", "prometheus")
# Two scrapes of what comes last, over whole seconds, as the panels are evaluated.
_RATE = "last_over_time((rate(ray_dsvl_row_codes_total[10s]))[2m:1s])"
_IS_OVER = f"{_RATE} and on() ray_dsvl_shards_remaining == 0"


@pytest.fixture(scope="session")
def prometheus_tools(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where ``promtool`` and ``prometheus`` are; CI unpacks Debian's package, starting nothing."""
    found = {name: shutil.which(name) for name in TOOLS}
    if all(found.values()):
        return {name: str(path) for name, path in found.items()}
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("prometheus")
    if os.environ.get("DSVL_REQUIRE_ALL") == "1" and not (folder / "usr/bin/promtool").exists():
        _unpack(folder)
    if not (folder / "usr/bin/promtool").exists():
        pytest.skip("there is no promtool; on Debian: apt-get install prometheus")
    return {name: str(folder / "usr/bin" / name) for name in TOOLS}


def _unpack(folder: Path) -> None:
    """Download the package with lists of its own, which needs no root, and unpack it.

    Another process of the same test run may be at it too; whichever is first, the tools are whole.
    """
    place = folder / f"fetch-{os.getpid()}"
    apt = ["apt-get", "-qq", "-o", f"Dir::State={place}/state", "-o", f"Dir::Cache={place}/cache"]
    apt += ["-o", "APT::Sandbox::User=", "-o", "Dir::State::status=/var/lib/dpkg/status"]
    for name in ("state/lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", "prometheus"], check=True, cwd=place)
    (package,) = place.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True)
    (folder / "usr/bin").mkdir(parents=True, exist_ok=True)
    for name in reversed(TOOLS):  # the first is the one that is looked for
        os.replace(place / "usr/bin" / name, folder / "usr/bin" / name)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def promtool(prometheus_tools: dict[str, str]) -> Callable[..., str]:
    """Run promtool with some arguments and give what it said; it must say no mistake."""

    def run_it(*arguments: str, stdin: str | None = None) -> str:
        command = [prometheus_tools["promtool"], *arguments]
        ended = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    return run_it


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def wait_for(url: str, limit_s: float = 20.0) -> str:
    """Read a page as soon as there is one."""
    end_s = time.monotonic() + limit_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body: bytes = answer.read()
                return body.decode()
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A run that has ended in a driver that lives on, and the Prometheus that scrapes it."""

    summary: RunSummary
    endpoint: str
    prometheus: str
    num_crashes: int

    @cached_property
    def scraped(self) -> str:
        """What Ray's endpoint says."""
        return wait_for(self.endpoint)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now."""
        query = urllib.parse.urlencode({"query": expression})
        answer = json.loads(wait_for(f"{self.prometheus}/api/v1/query?{query}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """The groups of rules, with what Prometheus thinks of each."""
        answer = json.loads(wait_for(f"{self.prometheus}/api/v1/rules"))
        groups: list[dict[str, Any]] = answer["data"]["groups"]
        return groups

    def value(self, expression: str) -> float:
        """The one value of an expression."""
        (one,) = self.query(expression)
        return float(one["value"][1])


@pytest.fixture(scope="module")
def observed(
    prometheus_tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    """Let `tests.metrics.driver` run its job under the eyes of a real Prometheus."""
    folder = tmp_path_factory.mktemp("observed")
    ray_port, port = free_port(), free_port()
    config = folder / "prometheus.yaml"
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["spec"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    scrape = {"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{ray_port}"]}]}
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config.write_text(
        yaml.safe_dump({"global": every, "scrape_configs": [scrape], "rule_files": ["rules.yaml"]})
    )
    address = f"http://127.0.0.1:{port}"
    server = [prometheus_tools["prometheus"], f"--config.file={config}", "--log.level=error"]
    server += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    command = [sys.executable, "-m", "tests.metrics.driver", str(folder), str(ray_port)]
    # Of a process of its own, as every driver is: Ray keeps things from earlier sessions.
    with (
        stopping(subprocess.Popen(server)),
        stopping(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ) as driver,
    ):
        assert driver.stdout is not None
        last = ""
        for last in driver.stdout:
            if last.startswith("{"):
                break
        assert last.startswith("{"), "the run failed; its words stand above"
        seen = Observed(
            summary=RunSummary(**json.loads(last)),
            endpoint=f"http://127.0.0.1:{ray_port}/metrics",
            prometheus=address,
            num_crashes=len(list((folder / "crashes").iterdir())),
        )
        end_s = time.monotonic() + 60
        while not seen.query(_IS_OVER):
            assert time.monotonic() < end_s, "the driver's last report did not come"
            time.sleep(0.2)
        yield seen


@contextmanager
def stopping(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End a process when nobody needs it any more."""
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=900)
