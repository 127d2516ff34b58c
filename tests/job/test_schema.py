"""The JSON schema of a job file: it takes what a run takes, and finds what an editor can find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dsvl_pipeline.cli.main import main
from dsvl_pipeline.job.schema import job_schema
from tests.test_docs import CONFIGS, code_blocks
from tools import render_schema

SCHEMA = job_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
JOB: dict[str, Any] = {
    "name": "a",
    "input": {"images": "photos/**"},
    "prompts": [{"id": "a", "text": "b"}],
    "model": {"checkpoint": "demo"},
    "output": {"uri": "out/a"},
}


def mistakes(values: object) -> list[str]:
    """Say what the schema finds, as the way to each."""
    return [error.json_path for error in VALIDATOR.iter_errors(values)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_accepts_every_config_which_points_to_it(path: Path) -> None:
    """So an editor checks them as they are."""
    text = path.read_text(encoding="utf-8")
    assert mistakes(yaml.safe_load(text)) == []
    assert "\n# yaml-language-server: $schema=job.schema.json\n" in text.partition("\n\n")[0] + "\n"


def test_it_accepts_the_readmes_job() -> None:
    """The first one that is copied."""
    assert mistakes(yaml.safe_load(code_blocks("yaml")[0])) == []


@pytest.mark.parametrize(
    "more",
    [
        {"input": {"images": ["a", "b"], "documents": "c", "allowed_prefixes": "s3://a"}},
        {"prompts": [{"id": "a", "text": "b", "schema": "form.json"}]},
        {"prompts": [{"id": "a", "text": "b", "schema": {"type": "object"}}]},
        {"limits": {"max_error_fraction": 0.1}},
        {"engine": {"kind": "fake", "fake": {"seed": 1}}, "cluster": {"replicas": "auto"}},
        {"input": {"documents": "a", "document": {"password": {"env": "PASSWORD"}}}},
        {"generation": {"temperature": 0.5, "stop": ["a"]}},
    ],
    ids=str,
)
def test_it_accepts_what_a_run_accepts(more: dict[str, Any]) -> None:
    """One text for a list of one, a file for a schema, an old name."""
    assert mistakes(JOB | more) == []


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"nam": 1}, "$"),
        ({"input": {"image": "a"}}, "$.input"),
        ({"max_error_fraction": 2}, "$.max_error_fraction"),
        ({"engine": {"kind": "fast"}}, "$.engine.kind"),
        ({"name": "A B"}, "$.name"),
    ],
    ids=str,
)
def test_it_finds_mistakes(more: dict[str, Any], where: str) -> None:
    """Wrong keys and values, where they stand."""
    assert mistakes(JOB | more) == [where]


def test_every_key_has_its_sentence() -> None:
    """Editors show it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    sections = [SCHEMA, *SCHEMA["$defs"].values()]
    keys = [(name, key) for one in sections for name, key in one["properties"].items()]
    assert len(keys) > 80
    assert [name for name, key in keys if not key["description"].endswith(".")] == []


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """As it lies beside the configs."""
    assert main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == SCHEMA
    assert render_schema.PAGE.read_text(encoding="utf-8") == printed
