"""``dsvl init``: what a fresh install starts from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsvl_pipeline.cli.init import examples
from dsvl_pipeline.cli.main import main
from dsvl_pipeline.job.reading import load_job

JOBS = ["caption.yaml", "demo.yaml", "documents.yaml", "reprocess.yaml"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which the examples are."""
    assert main(["init", str(tmp_path / "jobs"), "--quiet"]) == 0
    monkeypatch.chdir(tmp_path / "jobs")
    return tmp_path / "jobs"


def test_the_jobs_load_where_they_are_written(folder: Path) -> None:
    """The demo's input lies beside it; the schema that they point to as well."""
    assert sorted(path.name for path in folder.glob("*.yaml")) == JOBS
    for path in folder.glob("*.yaml"):
        load_job(path)
    places = load_job("demo.yaml").input.images + load_job("demo.yaml").input.documents
    assert [Path(place).is_dir() for place in places] == [True, True]
    assert (folder / "job.schema.json").is_file()


def test_they_name_nothing_that_only_a_source_tree_has(folder: Path) -> None:
    """Nor another directory than their own."""
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"configs/|jobs/|make |dsvl_pipeline/", text), path
        assert f"# Command:  dsvl {'schedule' if 'reprocess' in path.name else 'run'} " in text


def test_what_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same again is fine; another file of that name ends it before anything is written."""
    (folder / "caption.yaml").unlink()
    assert main(["init"]) == 0
    assert capsys.readouterr().out.endswith("\nnext: dsvl run demo.yaml\n")
    (folder / "demo.yaml").write_text("mine", encoding="utf-8")
    (folder / "caption.yaml").unlink()
    assert main(["init"]) == 2
    assert "demo.yaml exists and is another file; nothing was written" in capsys.readouterr().err
    assert not (folder / "caption.yaml").exists()
    assert (folder / "demo.yaml").read_text(encoding="utf-8") == "mine"


def test_names_are_those_of_the_configs_and_samples() -> None:
    """One source for a source tree and for a wheel."""
    root = Path(__file__).resolve().parents[2]
    found = {path.name for path in (root / "configs").iterdir()}
    samples = (root / "dsvl_pipeline" / "demo" / "samples").iterdir()
    assert set(examples()) == found | {f"samples/{path.name}" for path in samples}
