"""``--json`` and ``--quiet`` mean the same in every command: each runs here, on a small table."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsvl_pipeline.cli import status
from dsvl_pipeline.cli.main import main
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.parser import COMMANDS
from tests.jobs import fake_job, write_manifest
from tests.tables import write_table

LINES = [
    "init FOLDER/jobs",
    "status TABLE",
    "failures TABLE",
    "verify TABLE",
    "repair TABLE --dry-run",
    "export TABLE FOLDER/rows.csv",
    "report TABLE FOLDER/page.html",
    "generate --prompt Hello --max-new-tokens 2",
    "lineage TABLE a",
    "versions TABLE",
    "compact TABLE",
    "vacuum TABLE --dry-run",
    "submit JOB --target k8s --dry-run --set output.uri=s3://bucket/a",
    "submit JOB --target ray --dry-run",
    "schedule JOB --cron @hourly --set output.uri=s3://bucket/a",
    "doctor",
    "schema",
    "completion zsh",
]
WITH_RAY = [
    "run JOB",
    "plan JOB",
    "plan JOB --explain row-00001",
    "redrive JOB --row row-00001",
]


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    """A table of an answer and an error, and a job whose pods would find nothing there."""
    rows: list[dict[str, Any]] = [
        {"row_id": "a", "text": "A", "mean_logprob": float("nan")},
        {"row_id": "b", "status": "error", "error_code": "image_truncated"},
    ]
    write_table(str(tmp_path / "table"), rows)
    job = fake_job(write_manifest(str(tmp_path / "in"), 3), str(tmp_path / "out"))
    job["input"] |= {"manifest": str(tmp_path / "in" / "manifest.jsonl")}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    return {
        "TABLE": str(tmp_path / "table"),
        "JOB": str(tmp_path / "job.yaml"),
        "FOLDER": str(tmp_path),
    }


def words(line: str, names: dict[str, str]) -> list[str]:
    """Give a command line with its names filled in."""
    for name, value in names.items():
        line = line.replace(name, value)
    return line.split()


def check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command with ``--json``, then ``--quiet``; give what that says besides."""
    assert main([*arguments, "--json"]) < 2
    (document,) = capsys.readouterr().out.splitlines()  # of several commands: JSON lines
    found = json.loads(document, parse_constant=pytest.fail)
    assert isinstance(found, dict)
    assert found
    assert main([*arguments, "--quiet"]) < 2
    shown = capsys.readouterr()
    assert shown.out
    return shown.err


@pytest.mark.parametrize("line", LINES)
def test_json_is_the_result_alone_and_quiet_leaves_nothing_else(
    line: str, names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command says about its way goes to standard error, or nowhere."""
    assert check(words(line, names), capsys) == ""


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_so_it_is_where_ray_is_at_work(
    names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, for a table must be there. Ray's own warnings stay, ours as well."""
    for line in WITH_RAY:
        said = check(words(line, names), capsys).splitlines()
        assert not [one for one in said if one.startswith(("{", "dsvl"))]  # progress, messages


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_are_told_however_quiet(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error; a script that reads JSON finds nothing there, and the exit code."""
    nowhere = str(tmp_path / "nowhere")
    more = {
        "init": ["too many"],
        "export": [f"{nowhere}.csv"],
        "report": [f"{nowhere}.html"],
        "lineage": ["a"],
        "redrive": ["--row", "a"],
        "submit": ["--target", "ray"],
        "schedule": ["--cron", "@hourly"],
        "generate": ["--prompt", "x"],
    }
    command = [name, nowhere, *more.get(name, ()), "--json", "--quiet"]
    try:
        code = main(command)
    except SystemExit as end:  # no such shell, words too many
        code = int(end.code or 0)
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert "dsvl" in shown.err


def test_every_command_is_tried_above() -> None:
    """A new one belongs into the list."""
    assert {line.split()[0] for line in [*LINES, *WITH_RAY]} == set(COMMANDS)


def test_what_libraries_print_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray relays what its workers print, for one."""

    def execute(_: Namespace, output: Output) -> int:
        print("(pid=7) noise")  # noqa: T201
        output.result({"rows": 1}, "1 row")
        return 0

    monkeypatch.setattr(status, "execute", execute)
    assert main(["status", "out", "--json"]) == 0
    assert capsys.readouterr() == ('{"rows": 1}\n', "(pid=7) noise\n")
    assert main(["status", "out"]) == 0
    assert capsys.readouterr().out == "(pid=7) noise\n1 row\n"
