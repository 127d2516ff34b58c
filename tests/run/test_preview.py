"""What `dsvl plan` says is what a run then does, and the table stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsvl_pipeline.cli.main import main
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.run.explanation import explain
from dsvl_pipeline.run.preview import preview
from dsvl_pipeline.run.run import run_job
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.verify import verify
from tests.jobs import fake_job, jpeg, parse, plain_rows, write_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def files_of(folder: Path) -> set[tuple[str, int]]:
    """What lies below a directory, with its times."""
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def reasons_of(job: dict[str, Any], row: str, **how: Any) -> list[tuple[str, bool, str]]:
    """What is said of a row, prompt by prompt."""
    return [(e.prompt_id, e.is_run, e.reason) for e in explain(parse(job), row, **how)]


def test_a_plan_counts_what_the_run_then_does(tmp_path: Path) -> None:
    """New rows, a changed picture and a second prompt, each by its reason."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 16), str(tmp_path / "out"))
    job["output"]["num_shards"] = 3
    first = preview(parse(job))
    assert (first.to_run, first.to_keep, first.num_shards) == ({"new": 16}, {}, 3)
    assert not (tmp_path / "out").exists(), "a plan makes no table"
    assert run_job(parse(job)).rows_new == 16

    write_manifest(str(tmp_path / "in"), 18)
    (tmp_path / "in" / "3.jpg").write_bytes((tmp_path / "in" / "4.jpg").read_bytes())
    before = files_of(tmp_path / "out")
    changed = preview(parse(job))
    assert changed.to_run == {"new": 2, "content changed": 2}
    assert (changed.to_keep, changed.num_replaced) == ({"up to date": 14}, 2)
    assert files_of(tmp_path / "out") == before, "a plan leaves the table alone"
    assert run_job(parse(job)).rows_new == 4
    assert preview(parse(job)).to_run == {}


def test_a_row_is_explained(tmp_path: Path) -> None:
    """Each cause by its name, and which part of the recipe changed from what to what."""
    source = write_manifest(str(tmp_path / "in"), 8)
    job = fake_job(source, str(tmp_path / "out"))
    assert reasons_of(job, "row-00003") == [("caption", True, "new")]
    run_job(parse(job))
    assert reasons_of(job, "row-00003") == [("caption", False, "kept: up to date")]
    assert reasons_of(job, "row-00003", fresh=True)[0][1:] == (
        True,
        "up to date, but all run again",
    )

    job["prompts"].append({"id": "colour", "text": "Which colour?"})
    assert reasons_of(job, "row-00003") == [
        ("colour", True, "prompt added"),
        ("caption", False, "kept: up to date"),
    ]
    del job["prompts"][1]

    job["generation"]["max_new_tokens"] = 17
    (found,) = explain(parse(job), "row-00003")
    assert (found.is_run, found.reason) == (True, "recipe changed")
    assert "generation.max_new_tokens was 16, is 17" in found.details
    assert not any("temperature" in detail for detail in found.details), "only what changed"
    assert found.details[0].startswith("committed as ok by run ") or found.details[0].startswith(
        "committed as degraded by run "
    )
    job["generation"]["max_new_tokens"] = 16
    job["prompts"][0]["text"] = "Describe the image well."
    assert reasons_of(job, "row-00003") == [("caption", True, "prompt changed")]


def test_vanished_inputs_stay_or_go_as_the_job_says(tmp_path: Path) -> None:
    """Dropping takes them out of the table, whole; a trial with --limit drops nothing."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 20), str(tmp_path / "out"))
    job["output"]["num_shards"] = 2
    run_job(parse(job))
    write_manifest(str(tmp_path / "in"), 15)
    assert reasons_of(job, "row-00019") == [("caption", False, "kept: not in this input")]
    assert preview(parse(job)).to_keep == {"up to date": 15, "not in this input": 5}
    assert run_job(parse(job)).rows_staying == 5
    assert read_table(str(tmp_path / "out")).num_rows == 20

    job["output"]["vanished"] = "drop"
    assert preview(parse(job), limit=3).num_dropped == 0
    assert run_job(parse(job), limit=3).rows_staying == 17
    assert preview(parse(job)).num_dropped == 5
    ((_, is_run, reason),) = reasons_of(job, "row-00019")
    assert (is_run, reason.startswith("dropped: not in this input")) == (False, True)
    summary = run_job(parse(job))
    assert (summary.rows_new, summary.rows_staying, summary.rows_up_to_date) == (0, 0, 15)
    assert read_table(str(tmp_path / "out")).num_rows == plain_rows(tmp_path / "out").num_rows == 15
    assert verify(str(tmp_path / "out")).problems == ()
    with pytest.raises(ConfigError, match="neither the job's input nor its table"):
        explain(parse(job), "row-00019")


def test_the_command_prints_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts by reason; of a row, what was and what is."""
    import yaml

    job = fake_job(write_manifest(str(tmp_path / "in"), 8), str(tmp_path / "out"))
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    run_job(parse(job))
    assert main(["plan", str(path), "--set", "generation.max_new_tokens=17"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["to run            8", "  recipe changed  8"]
    assert "8 rows of the table replaced by new answers" in out
    changed = ["plan", str(path), "--set", "generation.max_new_tokens=17", "--explain", "row-00001"]
    assert main(changed) == 0
    out = capsys.readouterr().out
    assert out.startswith("row-00001, prompt caption: would run; recipe changed")
    assert "generation.max_new_tokens was 16, is 17" in out
    assert main(["plan", str(path), "--explain", "nobody"]) == 2
    assert "--explain nobody: neither" in capsys.readouterr().err
    assert main(["plan", str(path), "--explain", "row-0001"]) == 2
    assert "did you mean 'row-00001' or " in capsys.readouterr().err


def test_a_file_that_is_passed_over_is_explained(tmp_path: Path) -> None:
    """It has no row, which is what people ask about; also once the table has one of it."""
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(jpeg(1))
    (tmp_path / "in" / "c.heic").touch()
    job = fake_job({"images": str(tmp_path / "in")}, str(tmp_path / "out"))
    (found,) = explain(parse(job), "c.heic")
    assert (found.prompt_id, found.is_run) == ("", False)
    assert found.reason.startswith("input.images skips it: HEIC pictures, which are not read")
    assert found.details == (f"{tmp_path}/in/c.heic",)
    run_job(parse(job))
    job["input"] = {"images": str(tmp_path / "in" / "*"), "documents": str(tmp_path / "in")}
    (tmp_path / "in" / "b.jpg").rename(tmp_path / "in" / "b.pdf")
    reasons = reasons_of(job, str(tmp_path / "in" / "a.jpg"))
    assert reasons == [("caption", False, "kept: up to date")]
