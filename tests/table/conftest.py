"""A place for a table, on each kind of store."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def table_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of a table that does not exist yet."""
    if request.param == "local":
        return str(tmp_path / "table")
    return str(request.getfixturevalue("s3_bucket")) + "/table"
