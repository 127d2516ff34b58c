"""Settings that were called otherwise: the old name reads, and the user is told the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.job.renamed import RENAMED
from tests.job.test_config import GOOD

OLD, NEW = "limits.max_error_fraction", "limits.stop_above_error_fraction"


def write(folder: Path, more: str = "") -> Path:
    """Write a good job file, and more."""
    path = folder / "job.yaml"
    path.write_text(GOOD + more, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("more", "overrides", "place"),
    [
        ("limits: {max_error_fraction: 0.2}\n", [], "job.yaml:10"),
        ("limits:\n  window_rows: 5\n  max_error_fraction: 0.2\n", [], "job.yaml:12"),
        ("", [f"{OLD}=0.2"], "job.yaml (--set)"),
        ("", ["limits={max_error_fraction: 0.2}"], "job.yaml (--set)"),
    ],
)
def test_the_old_name_reads_with_one_note(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    more: str,
    overrides: list[str],
    place: str,
) -> None:
    """Where it stands and what to write; once, also when a command reads the file twice."""
    path = write(tmp_path, more)
    for _ in range(2):
        job = load_job(path, overrides)
        assert job.limits.stop_above_error_fraction == 0.2
        assert "max_error_fraction" not in job.limits.model_dump()
    (note,) = caplog.messages
    assert note == f"{tmp_path}/{place}: {OLD} is now called {NEW}; please write that"


def test_the_new_name_needs_no_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the job's own `max_error_fraction` keeps its name: it decides the exit code."""
    path = write(tmp_path, "limits: {stop_above_error_fraction: 0.2}\nmax_error_fraction: 0.1\n")
    assert load_job(path).limits.stop_above_error_fraction == 0.2
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("overrides", "also"),
    [([], "job.yaml:12"), ([f"{NEW}=0.3"], "job.yaml (--set)")],
)
def test_both_names_at_once_are_a_mistake(tmp_path: Path, overrides: list[str], also: str) -> None:
    """Which of them counts would be a guess."""
    more = "limits:\n  max_error_fraction: 0.2\n"
    path = write(tmp_path, more + ("" if overrides else "  stop_above_error_fraction: 0.3\n"))
    with pytest.raises(ConfigError) as caught:
        load_job(path, overrides)
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        f"job.yaml:11: {OLD}: this is the old name of {NEW}, which is given too ({also}); "
        "keep stop_above_error_fraction"
    )


def test_a_wrong_value_is_told_under_the_new_name(tmp_path: Path) -> None:
    """In the line where the old one stands."""
    path = write(tmp_path, "limits:\n  max_error_fraction: 5\n")
    with pytest.raises(ConfigError, match=rf"job\.yaml:11: {NEW}: found 5: "):
        load_job(path)


@pytest.mark.parametrize("found", ["5", "[]", "text"])
def test_a_section_that_is_none_is_told_as_before(tmp_path: Path, found: str) -> None:
    """An old name is looked for in a section only."""
    with pytest.raises(ConfigError, match=r"job\.yaml:10: limits: .*this is a section"):
        load_job(write(tmp_path, f"limits: {found}\n"))


def test_new_names_exist_and_old_ones_are_gone(tmp_path: Path) -> None:
    """Else a note would send people to a key that is refused."""
    job = load_job(write(tmp_path)).model_dump()
    for (section, old), new in RENAMED.items():
        fields = job[section]
        assert new in fields
        assert old not in fields
