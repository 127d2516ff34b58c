"""Fixtures that several packages' tests share, and what CI asks for."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.environment import KEPT_WORKERS, ONE_THREAD
from tests.jobs import fake_job, parse
from tests.s3 import s3_bucket, s3_environment, s3_faults, s3_server

__all__ = ["s3_bucket", "s3_faults", "s3_server"]

# Machines are shared: how long an example takes says nothing.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

_SHARING = pytest.StashKey[set[Path]]()

for _name, _value in (KEPT_WORKERS | ONE_THREAD).items():
    os.environ.setdefault(_name, _value)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let files whose runs share a Ray cluster follow one another: each start takes 15 s."""
    sharing = config.stash[_SHARING] = {
        item.path for item in items if "shared_ray" in getattr(item, "fixturenames", ())
    }
    items.sort(key=lambda item: item.path not in sharing)


def pytest_collection_finish() -> None:
    """Let no collection of garbage go through what is imported: a tenth of what tests cost."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files, and one of them all files whose runs share a Ray cluster."""
    from xdist.scheduler import LoadFileScheduling

    class OneSharedRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "shared_ray" if _names_shared_ray(config.rootpath / file) else file

    return OneSharedRay(config, log)


@cache
def _names_shared_ray(path: Path) -> bool:
    return '("shared_ray")' in path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shared_ray(s3_server: str) -> None:
    """Start the Ray that runs of this process share, where it does not run; it knows the S3 server.

    See `pytest_runtest_teardown` for its end.
    """
    from dsvl_pipeline.cluster.connect import connect
    from tests.quick_ray import quick_ray

    with pytest.MonkeyPatch.context() as patch, quick_ray():
        for name, value in s3_environment(s3_server).items():
            patch.setenv(name, value)
        # The demo's engine, torch above all: a dozen runs start one.
        patch.setenv("DSVL_TEST_ALSO_PRELOADED", "dsvl_pipeline.engine.engine")
        connect(parse(fake_job({"images": "any"}, "any")))


@pytest.hookimpl(trylast=True)  # after the fixtures
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the Ray that a file's tests have left, unless the next file's may share it.

    Another cluster of this process would take over its address, which nobody else can reach.
    """
    sharing = item.config.stash[_SHARING]
    is_last = nextitem is None or nextitem.path != item.path
    is_shared = nextitem is not None and {item.path, nextitem.path} <= sharing
    if is_last and not is_shared and "ray" in sys.modules:
        import ray

        ray.shutdown()
        # Ray leaves a handler of its own, and so would processes that are forked from this one.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """With ``DSVL_REQUIRE_ALL=1`` a skipped test fails: nothing passes for want of a tool."""
    report = yield
    is_required = os.environ.get("DSVL_REQUIRE_ALL") == "1"
    if is_required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"DSVL_REQUIRE_ALL=1, but this was skipped: {report.longrepr}"
    return report
