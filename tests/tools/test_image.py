"""The Dockerfile: what hadolint says, what must hold of it, and the script that takes its steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.image_check import context_of, read_dockerfile, stages_of

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = stages_of(read_dockerfile(DOCKERFILE))
TARGETS = ("cpu", "gpu")


def hadolint(text: str) -> str:
    """What it has to say; a linter that does not start is no clean Dockerfile."""
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert found is not None, "hadolint is missing; it comes with requirements/test.txt"
    command = [found, "--no-color", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def test_hadolint_finds_nothing() -> None:
    """Each exception stands in the Dockerfile, with its reason."""
    assert hadolint(DOCKERFILE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        (STAGES["base"][0].value.split()[0], "debian:latest", "DL3007"),
        ("--no-install-recommends ca-cert", "ca-cert", "DL3015"),
        ("PIP_NO_CACHE_DIR=1", "PIP_NO_CACHE_DIR=0", "DL3042"),
        ('CMD ["dsvl", "--help"]', "CMD dsvl --help", "DL3025"),
    ],
)
def test_hadolint_finds_planted_mistakes(right: str, wrong: str, rule: str) -> None:
    """Otherwise its silence would prove nothing."""
    assert right in DOCKERFILE
    assert rule in hadolint(DOCKERFILE.replace(right, wrong))


def test_each_base_is_pinned() -> None:
    """By date and digest, or it is another stage."""
    bases = [stage[0].value.split()[0] for stage in STAGES.values()]
    assert [base for base in bases if base not in STAGES] == [bases[0]]
    assert "@sha256:" in bases[0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_number_other_than_root(target: str) -> None:
    """The kubelet refuses ``runAsNonRoot`` for a user whose number it does not know."""
    users = [step.value for step in STAGES[target] if step.name == "USER"]
    assert users == ["1000:1000"]


def test_the_targets_differ_in_torch_alone() -> None:
    """What was tried of one then holds for the other."""
    steps = {
        target: [step.value for step in STAGES[target][1:] if "torch" not in step.value.lower()]
        for target in TARGETS
    }
    added = [step for step in steps["gpu"] if step not in steps["cpu"]]
    assert [step for step in steps["gpu"] if step not in added] == steps["cpu"]
    assert [step.split()[0] for step in added] == [
        "apt-get",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ]


def test_only_what_is_named_gets_into_the_context(tmp_path: Path) -> None:
    """A secret that lies beside the Dockerfile stays there, and caches do."""
    source, target = tmp_path / "source", tmp_path / "context"
    wanted = ("LICENSE", "README.md", "pyproject.toml", "setup.py")
    for name in (*wanted, ".env", ".git/config", "out/rows"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    for name in ("configs", "dsvl_pipeline/__pycache__", "jobs", "requirements"):
        (source / name).mkdir(parents=True)
        (source / name / "file").touch()
    shutil.copy2(ROOT / ".dockerignore", source)
    target.mkdir()
    context_of(source, target)
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert found == {
        *wanted,
        *("configs/file", "jobs/file", "requirements/file"),
    }


def test_instructions_are_read_as_docker_reads_them() -> None:
    """Continued lines are one, comments among them none, and a line number leads back."""
    text = "# a comment\nFROM a AS b\n\nRUN one \\\n# another\n    && two\nCMD x\n"
    found = [(step.line, step.name, step.value) for step in read_dockerfile(text)]
    assert found == [(2, "FROM", "a AS b"), (4, "RUN", "one && two"), (7, "CMD", "x")]
