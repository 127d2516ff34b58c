"""Without the packages of the extra ``model``: who needs them says so at once, nobody else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HIDING = """\
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from dsvl_pipeline.cli.main import main
code = main({arguments!r})
print("ray was started:", "ray" in sys.modules and sys.modules["ray"].is_initialized())
sys.exit(code)
"""


def dsvl(
    *arguments: str, hidden: tuple[str, ...], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, in which some packages cannot be found."""
    script = HIDING.format(hidden=hidden, arguments=arguments)
    usual = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**usual, **environment},
        check=False,
    )


@pytest.fixture
def job(tmp_path: Path) -> str:
    """A job of the model, with one input."""
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "image": "a.jpg"}')
    content = {
        "name": "test",
        "model": {"checkpoint": "demo"},
        "input": {
            "manifest": str(tmp_path / "rows.jsonl"),
            "columns": {"id": "id", "image": "image"},
        },
        "prompts": [{"id": "caption", "text": "What is it?"}],
        "output": {"uri": str(tmp_path / "out")},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def said(stderr: str) -> list[str]:
    """The lines for people; the others are progress, as JSON."""
    return [line for line in stderr.splitlines() if not line.startswith("{")]


ALL = ("torch", "safetensors", "llguidance")


@pytest.mark.parametrize(
    "command", [("run", "JOB"), ("plan", "JOB", "--sample", "2"), ("generate", "--prompt", "Hi")]
)
def test_a_missing_extra_is_one_sentence(job: str, command: tuple[str, ...]) -> None:
    """Ray would start, and try for 45 s to start an engine, before it told in 436 lines."""
    found = dsvl(*(job if word == "JOB" else word for word in command), hidden=ALL)
    assert found.returncode == 2, found.stderr
    (line,) = said(found.stderr)
    assert "(torch, safetensors) are not installed here" in line
    assert line.startswith("dsvl: wrong: ")
    assert "install 'dsvl-pipeline[model]'" in line
    assert found.stdout == "ray was started: False\n"
    assert not Path(job).with_name("out").exists()


def test_what_alone_is_missing_is_named(job: str) -> None:
    """Half an install is none."""
    found = dsvl("run", job, hidden=("safetensors",))
    assert (found.returncode, len(said(found.stderr))) == (2, 1)
    assert "(safetensors) are not installed" in found.stderr


def test_the_doctor_finds_it(job: str) -> None:
    """Beside everything else that it looks at."""
    found = dsvl("doctor", job, hidden=ALL)
    assert found.returncode == 2, found.stderr
    assert "problem  model packages" in found.stdout
    assert "-> pip install 'dsvl-pipeline[model]'" in found.stdout
    assert "ok       checkpoint" in found.stdout
    assert "Traceback" not in found.stderr


def test_a_driver_whose_cluster_answers_needs_none(job: str) -> None:
    """The nodes have environments of their own; that this cluster is gone is another matter."""
    found = dsvl("run", job, hidden=ALL, RAY_ADDRESS="127.0.0.1:1")
    assert found.returncode == 2
    assert "cannot join the Ray cluster at 127.0.0.1:1" in found.stderr
    assert "not installed" not in found.stderr


def test_the_fake_engine_needs_none(job: str) -> None:
    """It computes nothing; the doctor does not miss a thing."""
    found = dsvl("doctor", job, "--set", "engine.kind=fake", hidden=ALL)
    assert "model packages" not in found.stdout
    assert found.returncode != 2, found.stdout


def test_python_names_say_what_they_need() -> None:
    """One line, and not a module that the user has never heard of."""
    program = HIDING.partition("from dsvl_pipeline")[0].format(hidden=ALL)
    program += "import dsvl_pipeline; dsvl_pipeline.DeepseekVLHybridModel"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: dsvl_pipeline.DeepseekVLHybridModel needs torch, which is not installed; "
        "pip install 'dsvl-pipeline[model]'"
    )


def test_a_schedule_and_a_cluster_say_so_too(tmp_path: Path) -> None:
    """The extra that has to do with Kubernetes."""
    job = Path(__file__).resolve().parents[1] / "configs" / "reprocess.yaml"
    command = ("schedule", str(job), "--cron", "@hourly")
    found = dsvl(*command, hidden=("cronsim", "kubernetes"))
    assert found.returncode == 2
    assert found.stderr == (
        "dsvl: wrong: a schedule needs cronsim, which is not installed; "
        "pip install 'dsvl-pipeline[kubernetes]'\n"
    )
    found = dsvl("submit", str(job), "--target", "k8s", hidden=("kubernetes",))
    assert (found.returncode, len(found.stderr.splitlines())) == (2, 2)
    assert "needs kubernetes, which is not installed; pip install 'dsvl-pip" in found.stderr
