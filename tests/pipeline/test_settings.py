"""Which cluster a job ends up on, and that joining it leaves the process as it was."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import ray

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.pipeline import settings
from dsvl_pipeline.pipeline.signals import stop_on_signals
from tests.pipeline.jobs import fake_job, parse


class Clusters:
    """Stands in for ``ray.init``: only some addresses answer."""

    def __init__(self, *answering: str) -> None:
        self.answering = answering
        self.asked: list[str | None] = []
        self.num_cpus: int | None = None

    def init(self, *, address: str | None, num_cpus: int | None = None, **_: Any) -> None:
        """Join, as Ray does, with a handler of its own."""
        self.asked.append(address)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if address not in self.answering:
            raise ConnectionError(f"nobody at {address}")
        self.num_cpus = num_cpus


def connect(
    monkeypatch: pytest.MonkeyPatch, clusters: Clusters, *, started: str | None, **cluster: Any
) -> None:
    """Connect where ``ray start`` has left this address behind."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", clusters.init)
    monkeypatch.setattr(settings, "read_ray_address", lambda: started)
    job = fake_job({"images": "x/*.jpg"}, "out")
    job["cluster"] |= cluster
    settings.connect(parse(job))


@pytest.mark.parametrize(
    ("started", "answering", "asked"),
    [
        (None, ["local"], ["local"]),
        ("1.2.3.4:6379", ["1.2.3.4:6379", "local"], ["1.2.3.4:6379"]),
        ("1.2.3.4:6379", ["local"], ["1.2.3.4:6379", "local"]),
    ],
)
def test_auto_joins_what_ray_start_left_running(
    monkeypatch: pytest.MonkeyPatch, started: str | None, answering: list[str], asked: list[str]
) -> None:
    """Else it starts a cluster; the number of CPUs is ours to say only there."""
    clusters = Clusters(*answering)
    connect(monkeypatch, clusters, started=started)
    assert clusters.asked == asked
    assert (clusters.num_cpus is not None) == (asked[-1] == "local")


def test_a_cluster_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job for a cluster must not run on the laptop it was sent from."""
    clusters = Clusters("local")
    with pytest.raises(ConfigError, match=r"cannot join the Ray cluster at 1\.2\.3\.4:6379"):
        connect(monkeypatch, clusters, started=None, address="1.2.3.4:6379")


def test_joining_leaves_the_handlers_of_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own would end the process with exit code 15 and without a word."""
    with stop_on_signals() as stop:
        stop.is_abrupt = False
        connect(monkeypatch, Clusters("local"), started=None)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
