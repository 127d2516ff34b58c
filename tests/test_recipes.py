"""The recipes for schedulers, and the workflow of CI: files that are run elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from dsvl_pipeline.cli.parser import build
from dsvl_pipeline.job.reading import load_job

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "docs" / "recipes"


def parsed(command: list[str]) -> Any:
    """What the command line reads in these words."""
    assert command[0] == "dsvl"
    return build(command[1:]).parse_args(command[1:])


def test_the_airflow_recipe_is_python_and_submits() -> None:
    """Its command is one, and retries hang on the code that helps."""
    text = (RECIPES / "airflow_captions.py").read_text(encoding="utf-8")
    words: list[str] = []
    for node in ast.parse(text).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="COMMAND")], value=value):
                words = ast.literal_eval(value)
            case ast.AugAssign(target=ast.Name(id="COMMAND"), value=value):
                words += ast.literal_eval(value)
    args = parsed(words)
    assert (args.name, args.target, args.json) == ("submit", "ray", True)
    assert "returncode in (1, 2)" in text


def test_the_argo_recipe_runs_a_job_that_loads(tmp_path: Path) -> None:
    """The job in its ConfigMap, at the path that its command names."""
    text = (RECIPES / "argo-captions.yaml").read_text(encoding="utf-8")
    settings, workflow = yaml.safe_load_all(text)
    (name, job), *_ = settings["data"].items()
    (tmp_path / name).write_text(job, encoding="utf-8")
    assert load_job(tmp_path / name).output.uri == "s3://bucket/captions"
    (template,) = workflow["spec"]["workflowSpec"]["templates"]
    container = template["container"]
    args = parsed(container["command"])
    places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert (args.name, args.job) == ("run", f"{places['job']}/{name}")
    assert {one["name"] for one in template["volumes"]} == set(places)
    assert "== 3" in template["retryStrategy"]["expression"]
    assert workflow["spec"]["concurrencyPolicy"] == "Forbid"


def test_ci_calls_what_is_called_here() -> None:
    """Each Python that the metadata names, the script of CI, and a run from the wheel."""
    flow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = {name: [s.get("run", "") for s in job["steps"]] for name, job in flow["jobs"].items()}
    assert ".ci/run" in steps["all"]
    assert "make test PYTHON=python" in steps["pythons"]
    assert any('dsvl" run demo.yaml' in step for step in steps["wheel"])
    tested = {"3.11", *flow["jobs"]["pythons"]["strategy"]["matrix"]["python"]}
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert [one for one in tested if f'Python :: {one}"' not in metadata] == []


def test_hooks_of_a_commit_are_those_of_make_check() -> None:
    """The same programs, of the environment that make has made."""
    file = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in file["repos"] for hook in repo["hooks"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for entry in entries:
        words = entry.replace(".venv/bin", "$(BIN)").partition(" --")[0]
        assert f"\t{words}" in makefile, entry
