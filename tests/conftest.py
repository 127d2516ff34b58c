"""Fixtures that several packages' tests share, and what CI asks for."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

from tests.ray_settings import KEPT_WORKERS
from tests.s3 import s3_bucket, s3_faults, s3_server

__all__ = ["s3_bucket", "s3_faults", "s3_server"]

# Machines are shared: how long an example takes says nothing.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

for _name, _value in KEPT_WORKERS.items():
    os.environ.setdefault(_name, _value)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """With ``DSVL_REQUIRE_ALL=1`` a skipped test fails: nothing passes for want of a tool."""
    report = yield
    is_required = os.environ.get("DSVL_REQUIRE_ALL") == "1"
    if is_required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"DSVL_REQUIRE_ALL=1, but this was skipped: {report.longrepr}"
    return report
