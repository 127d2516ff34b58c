"""``dsvl run`` up to the pipeline's door and back: a stand-in runs the job, without Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from dsvl_pipeline.cli import main
from dsvl_pipeline.errors import RunStoppedError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.run.progress import Progress
from dsvl_pipeline.run.summary import RunSummary
from dsvl_pipeline.sources.skips import Skipped

JOB = """\
name: try
input: {images: photos/*.jpg}
prompts: [{id: caption, text: "Describe the image."}]
model: {checkpoint: demo}
output: {uri: out/try}
"""


class StandIn(ModuleType):
    """Takes the place of ``run.run``, remembers how it was called."""

    def __init__(self) -> None:
        super().__init__("dsvl_pipeline.run.run")
        self.calls: list[tuple[JobConfig, dict[str, Any]]] = []
        self.error: Exception | None = None
        self.changes: dict[str, Any] = {}

    def run_job(
        self,
        job: JobConfig,
        *,
        limit: int | None,
        fresh: bool,
        on_progress: Callable[[Progress], None],
    ) -> RunSummary:
        """Report two steps, then end as told."""
        self.calls.append((job, {"limit": limit, "fresh": fresh}))
        on_progress(Progress(phase="planning"))
        on_progress(Progress(phase="running", rows_done=90, rows_total=100, eta_s=5.0))
        if self.error is not None:
            raise self.error
        usual: dict[str, Any] = {
            "run_id": "r1",
            "output_uri": job.output.uri,
            "rows_up_to_date": 10,
            "rows_new": 90,
            "rows_wanted": 100,
            "rows_staying": 0,
            "errors_wanted": 3,
            "errors_staying": 0,
            "errors_kept": 0,
            "answers_kept": 0,
            "ok": 80,
            "degraded": 17,
            "errors": 3,
            "error_codes": {"image_truncated": 1, "fetch_timeout": 2},
            "seconds": 75.4,
            "engine": {},
            "exit_code": 0,
        }
        return RunSummary(**{**usual, **self.changes})


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Let the command meet a stand-in instead of Ray."""
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return stand_in


@pytest.fixture
def job(tmp_path: Path) -> str:
    """Write a job file."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    return str(path)


def test_a_run_ends_with_counts_and_where_to_look(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts by status, error codes by frequency, the table, the next command."""
    assert main.main(["run", job]) == 0
    assert capsys.readouterr().out == (
        "90 new rows in 1 min 15 s, 10 already up to date\n"
        "status    rows  share\n"
        "ok        80    80.0%\n"
        "degraded  17    17.0%\n"
        "error     3     3.0%\n"
        "all       100\n"
        "error code       rows\n"
        "fetch_timeout    2\n"
        "image_truncated  1\n"
        "cost: 1.2 rows/s over the whole run, 0.021 GPU-hours\n"
        "degraded: 17 answers cut off; raise generation.max_new_tokens\n"
        "table: out/try    more: dsvl status out/try, dsvl export out/try rows.csv\n"
    )


def test_what_the_engines_did_is_told(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """How fast, what for, and how much of the time they were busy."""
    pipeline.changes["engine"] = {
        "engines": 2.0,
        "up_s": 100.0,
        "new_tokens": 250_000.0,
        "vision_s": 10.0,
        "prefill_s": 20.0,
        "decode_s": 60.0,
        "occupancy": 0.875,
        "kv_use": 0.5,
        "preemptions": 3.0,
    }
    assert main.main(["run", job]) == 0
    assert (
        "engine: 250,000 new tokens, 2,500 tokens/s of each of 2 engines, vision 10.0 s, "
        "prefill 20.0 s, decode 60.0 s, busy 90% of their time, "
        "88% of the lanes filled, at most 50% of the KV pages used, 3 preemptions\n"
    ) in capsys.readouterr().out


def test_progress_goes_to_standard_error(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Off a terminal: a line at the start and one at the end."""
    main.main(["run", job])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == [
        "planning, 0 s",
        "90 of 100 rows, 0 failed, 5 s left",
        "90 rows answered in 1 min 15 s",
    ]
    assert (lines[-1]["event"], lines[-1]["ok"], lines[-1]["rows_per_s"]) == ("summary", 80, 1.194)


def test_what_the_rows_cost_is_told(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rate, busy share, hours and price, all over the whole run."""
    pipeline.changes = {"rows_new": 9000, "seconds": 1800.0, "replicas": 4}
    pipeline.changes |= {"price": 5.0, "currency": "EUR"}
    pipeline.changes["engine"] = {"up_s": 7000.0, "decode_s": 5600.0}
    main.main(["run", job])
    shown = capsys.readouterr()
    line = "cost: 5.0 rows/s over the whole run, engines busy 80% while loaded, 2.00 GPU-hours, "
    assert line + "5.00 EUR, 0.556 EUR per 1,000 rows\n" in shown.out
    summary = json.loads(shown.err.splitlines()[-1])
    assert (summary["gpu_busy"], summary["price_per_1000_rows"]) == (0.8, 0.556)


def test_engines_without_gpus_take_no_gpu_hours(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a laptop; what they cost is told all the same, where the job file has a price."""
    pipeline.changes = {"has_gpu": False, "price": 0.5}
    main.main(["run", job])
    shown = capsys.readouterr()
    assert "cost: 1.2 rows/s over the whole run, 0.5 USD, 5.56 USD per 1,000 rows" in shown.out
    assert json.loads(shown.err.splitlines()[-1])["gpu_hours"] == 0


@pytest.mark.parametrize("given", [["JOB"], ["--config", "JOB"]])
def test_the_options_reach_the_pipeline(pipeline: StandIn, job: str, given: list[str]) -> None:
    """In any order, with the job file as argument or option."""
    given = [job if word == "JOB" else word for word in given]
    main.main(["run", "--set", "output.uri=s3://b/x", "--limit", "7", *given, "--fresh"])
    ((found, options),) = pipeline.calls
    assert found.output.uri == "s3://b/x"
    assert options == {"limit": 7, "fresh": True}


def test_too_many_failed_rows_say_why_the_exit_code_is_1(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script sees the code, a person the reason."""
    pipeline.changes = {"exit_code": 1, "ok": 81, "degraded": 0, "errors": 59}
    pipeline.changes |= {"rows_staying": 40, "errors_staying": 40, "errors_wanted": 19}
    assert main.main(["run", job]) == 1
    assert (
        "exit code 1: 19.0% of the rows failed, more than max_error_fraction allows (5.0%)\n"
    ) in capsys.readouterr().out


def test_what_the_counts_do_not_say_is_said(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Why rows are degraded, which errors are not tried again, which rows nobody asked for."""
    pipeline.changes = {
        "rows_new": 0,
        "rows_up_to_date": 100,
        "error_codes": {"blank_page": 2, "not_found": 3},
        "errors_kept": 3,
        "rows_staying": 7,
        "errors_staying": 1,
    }
    main.main(["run", job])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "nothing to compute, 100 rows already up to date"
    assert out[6:-1] == [
        "error code  rows",
        "not_found   3",
        "degraded: 15 answers cut off; raise generation.max_new_tokens",
        "degraded: 2 pages blank; the model was not asked",
        "3 error rows kept; --fresh computes them again",
        "7 rows of earlier inputs or prompts stay (1 error)",
    ]


def test_what_was_passed_over_is_told(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By setting and reason, with names as they are; in the summary of a log as well."""
    pipeline.changes["skipped"] = (
        Skipped(setting="input.images", reason="no suffix", count=1200, examples=("/in/a ", "b\n")),
        Skipped(setting="input.images", reason="HEIC", count=1, examples=("/in/c.heic",)),
        Skipped(setting="input.manifest", reason="hidden", count=2, examples=("m",)),
    )
    main.main(["run", job])
    out, err = capsys.readouterr()
    assert (
        "skipped of input.images: 1,201\n"
        "  1,200: no suffix; e.g. '/in/a ', 'b\\n'\n"
        "  1: HEIC; e.g. '/in/c.heic'\n"
        "skipped of input.manifest: 2\n"
        "  2: hidden; e.g. 'm'\n"
    ) in out
    assert json.loads(err.splitlines()[-1])["skipped"][1] == {
        "setting": "input.images",
        "reason": "HEIC",
        "count": 1,
        "examples": ["/in/c.heic"],
    }


def test_a_stopped_run_prints_its_last_progress_and_one_message(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no summary, which would look like an end."""
    pipeline.error = RunStoppedError("stopped by a signal; the same command goes on")
    assert main.main(["run", job]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "90 of 100 rows" in err.splitlines()[-2]
    assert err.splitlines()[-1] == "dsvl: stopped: stopped by a signal; the same command goes on"


def test_a_wrong_job_never_reaches_the_pipeline(
    pipeline: StandIn, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray is not even imported."""
    assert main.main(["run", job, "--set", "modle.checkpoint=demo"]) == 2
    assert pipeline.calls == []
    assert "modle: no such key; did you mean model?" in capsys.readouterr().err


def test_a_small_table_is_shown_whole(
    pipeline: StandIn,
    job: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was read, how it ended, the answer or the reason; pages count from 1 for people."""
    columns = ("row_id", "page_index", "prompt_id", "status", "text", "error_code", "error_message")
    rows = [
        ("/x/b.pdf", 10, "read", "ok", "tenth", None, None),
        ("/x/b.pdf", 1, "read", "degraded", "first\nand " + "long " * 40, None, None),
        ("/x/a.jpg", None, "read", "error", None, "image_truncated", "ends early"),
        ("shop/7", None, "read", "ok", "", None, None),
    ]
    table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
    reader = ModuleType("dsvl_pipeline.table.reader")
    reader.read_table = lambda uri, columns: table.select(columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    monkeypatch.setenv("COLUMNS", "100")
    pipeline.changes = {"ok": 2, "degraded": 1, "errors": 1}
    main.main(["run", job])
    assert capsys.readouterr().out.splitlines()[:5] == [
        "input          status    answer or error",
        "a.jpg          error     image_truncated: ends early",
        "b.pdf page 2   degraded  first and long long long long long long long lo...",
        "b.pdf page 11  ok        tenth",
        "shop/7         ok",
    ]


def test_a_job_script_runs_its_default_job(pipeline: StandIn, job: str) -> None:
    """And takes what ``dsvl run`` takes."""
    assert main.run_as_job(job, ["--limit", "3"]) == 0
    assert main.run_as_job(job, ["--config", "no.yaml"]) == 2
    assert [options["limit"] for _, options in pipeline.calls] == [3]
