"""What the documents say is what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from dsvl_pipeline.cli import main
from dsvl_pipeline.cli.parser import COMMANDS
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.table.reader import read_table
from tools import demo_samples, render_commands, render_settings
from tools.demo_checkpoint import held_out

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "k8s" / "README.md"]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
CPU_ONLY = ("base.txt", "test.txt", "torch-cpu.txt")


def code_blocks(language: str, page: str = README) -> list[str]:
    """Return a page's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def laptop_commands() -> list[list[str]]:
    """Return the README's first commands, as words."""
    return [shlex.split(line) for line in code_blocks("bash")[0].splitlines()]


def pins(name: str) -> dict[str, set[str]]:
    """Read a lock: the versions of each distribution (several where platforms differ)."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            distribution, version = line.partition(";")[0].strip().split("==")
            found.setdefault(distribution, set()).add(version)
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_loads_and_introduces_itself(path: Path) -> None:
    """The first lines say what it is for, what it needs, and its command."""
    load_job(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# What for: ")
    head = "\n".join(lines[: lines.index("")])
    assert "\n# Needs: " in head
    assert "\n# Command: " in head
    assert f"configs/{path.name}" in head


@pytest.mark.parametrize("name", ["caption", "documents", "reprocess"])
def test_every_job_script_names_its_config(name: str) -> None:
    """And stays a few lines: what a job does is the pipeline's business."""
    text = (ROOT / "jobs" / f"{name}.py").read_text(encoding="utf-8")
    assert f'run_as_job("configs/{name}.yaml")' in text
    assert len(text.splitlines()) < 25


def test_the_documents_name_commands_that_exist() -> None:
    """No promises: whatever is called `dsvl NAME` on any page."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:^|`|\.venv/bin/)dsvl ([a-z]+)", text, re.MULTILINE))
    assert len(named) > 10
    assert named <= set(COMMANDS)


def test_the_readmes_job_file_is_one(tmp_path: Path) -> None:
    """Copied into a file it loads."""
    (block,) = code_blocks("yaml")
    path = tmp_path / "job.yaml"
    path.write_text(block, encoding="utf-8")
    assert load_job(path).input.columns.image == "image_uri"


def test_the_page_of_settings_is_what_the_tool_prints() -> None:
    """The classes that check a job file say what its keys mean, once."""
    assert render_settings.PAGE.read_text(encoding="utf-8") == render_settings.rendered()


def test_the_page_of_commands_is_what_the_tool_prints() -> None:
    """The parsers say what commands take and how they end, once."""
    assert render_commands.PAGE.read_text(encoding="utf-8") == render_commands.rendered()


def test_every_option_says_what_it_means() -> None:
    """A name alone would stand there bare."""
    rows = [line for line in render_commands.rendered().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_setting_has_a_sentence() -> None:
    """In its class's docstring: one that ends, so that a stranger can read it."""
    rows = re.findall(r"^\| `(.+?)` \| .* \| (.*) \|$", render_settings.rendered(), re.MULTILINE)
    assert len(rows) > 80
    assert [key for key, meaning in rows if not re.fullmatch(r"[A-Z0-9`].+\.", meaning)] == []


def test_no_docstring_explains_a_setting_that_is_gone() -> None:
    """It would stay there for ever, as the page shows only what exists."""
    sections = list(render_settings.sections(JobConfig))
    assert len(sections) > 10
    for section in sections:
        keys = {key.name for key in render_settings.keys_of(section)}
        assert set(render_settings.meanings_of(section)) <= keys, section


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("input.image_timeout_s", "number above 0; seconds | `60` |"),
        ("prompts[].schema", "mapping, or the path of a JSON file | none |"),
        ("generation.max_loop_tokens", "whole number; tokens | `256` |"),
        ("generation.stop", "list of texts | none |"),
        ("engine.kind", "`model`, `fake` | `model` |"),
        ("engine.fake.crash_rate", "number | `0` |"),
        ("limits.first_rows", "whole number from 0 | `1000` |"),
        ("max_error_fraction", "number from 0 to 1 | `0.05` |"),
        ("output.uri", "text | (must be given) |"),
    ],
)
def test_a_setting_has_type_unit_and_default(key: str, told: str) -> None:
    """Of sections, lists of sections and plain dataclasses alike; a job's, not the class's."""
    assert f"\n| `{key}` | {told} " in render_settings.rendered()


def test_the_architecture_names_every_package() -> None:
    """In its table of packages, and none that is not there."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| package | holds |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = {name for cell in cells for name in re.findall(r"`(.+?)`", cell)}
    package = ROOT / "dsvl_pipeline"
    assert not [name for name in named if not (package / name).exists()]
    assert {f"{path.parent.name}/" for path in package.glob("*/__init__.py")} <= named


def test_the_documents_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference documentation's example with another import, on the demo checkpoint."""
    monkeypatch.chdir(ROOT)
    printed: list[str] = []
    blocks = code_blocks("python", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    for block in blocks:
        if "register_with_transformers" not in block:  # for good; tests/api/test_auto.py does it
            exec(compile(block, "python.md", "exec"), {"print": printed.append})
    assert printed[0].endswith("Assistant:two purple stars left of two black diamonds")
    assert printed[1:] == ["two purple stars left of two black diamonds"]


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_the_readmes_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the demo's run to its copy, each with exit code 0 and every sample read right."""
    monkeypatch.chdir(ROOT)
    out = str(tmp_path / "demo")
    for command in laptop_commands():
        words = [word.replace("out/demo", out) for word in command]
        if words == ["make", "demo"]:
            words = ["dsvl", "run", "configs/demo.yaml", "--set", f"output.uri={out}"]
        assert main.main(words[1:]) == 0, command
    assert main.main(["report", out, f"{out}.html"]) == 0  # as `make demo` does
    assert _right_answers().items() <= _answers(out).items()
    samples = {path.name for path in demo_samples.SAMPLES.iterdir()}
    shown = capsys.readouterr().out
    page = Path(f"{out}.html").read_text(encoding="utf-8")
    assert not [name for name in samples if name not in shown or name not in page]
    assert page.count("no picture: the run read none") == 1  # the broken one
    shown = shown.partition("42 rows on ")[0]
    assert shown.endswith("\ntwo purple stars left of two black diamonds\n")


def _answers(table: str) -> dict[tuple[str, str], str]:
    rows = read_table(table, columns=["row_id", "prompt_id", "page_index", "text"]).to_pylist()
    return {
        (Path(row["row_id"]).name, row["prompt_id"]): row["text"]
        for row in rows
        if row["text"] is not None and row["page_index"] is None
    }


def _right_answers() -> dict[tuple[str, str], str]:
    """What was drawn: a page has a text and no scene, a scene no text."""
    answers = {}
    for name, lines in demo_samples.PAGES.items():
        answers |= {(name, "read"): "\n".join(lines), (name, "describe"): "a page of text"}
    for name, seed in demo_samples.SCENES.items():
        answers |= {(name, "read"): "", (name, "describe"): held_out.scene(seed)[1]}
    return answers


def test_the_makefile_has_what_the_documents_name() -> None:
    """``make help`` lists every target."""
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^make ([\w-]+)", shown, re.MULTILINE) == [
        "help",
        "env",
        "demo",
        "test",
        "test-corpora",
        "test-gpu",
        "test-kernels",
        "fault",
        "fuzz",
        "test-ceph",
        "image-check",
        "check",
        "lock",
        "clean",
    ]
    assert "\ndemo: $(READY)" in (ROOT / "Makefile").read_text(encoding="utf-8")
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\nmake check\nmake test\n" in checks


def test_the_locks_agree() -> None:
    """The test environment is the plain one and more; torch is one version in all files."""
    base, test = pins("base.txt"), pins("test.txt")
    assert base == {name: test.get(name) for name in base}
    (version,) = pins("torch.in")["torch"]
    assert pins("torch-gpu.txt")["torch"] == {version}
    assert pins("torch-cpu.txt")["torch"] == {version, f"{version}+cpu"}
    gpu = pins("torch-gpu.txt")
    assert {name: gpu[name] for name in gpu if name in test} == {
        name: test[name] for name in gpu if name in test
    }


def test_the_base_lock_covers_the_project() -> None:
    """All that ``pip install dsvl-pipeline`` asks for, and what the model needs but torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["model"]]
    names = {re.split(r"[\[<>=]", one)[0].lower() for one in asked} - {"torch"}
    assert names <= set(pins("base.txt"))


@pytest.mark.parametrize("name", CPU_ONLY)
def test_a_machine_without_a_gpu_gets_no_cuda(name: str) -> None:
    """Several GB that it would never use."""
    of_cuda = re.compile(r"nvidia|cuda|triton|cupy")
    assert not [one for one in pins(name) if of_cuda.search(one)]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name)
def test_decisions_are_a_page(path: Path) -> None:
    """Context, decision, what was rejected, consequence, evidence."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.name[:4]}: ")
    parts = ("Context", "Decision", "Rejected", "Consequence", "Evidence")
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == list(parts)
    assert len(text.split()) < 450
