"""Whole runs on a real Ray: every row once, whatever happens; the same command goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dsvl_pipeline.errors import ConfigError, DsvlError, LeaseError, RunStoppedError, TableError
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.run.run import run_job
from dsvl_pipeline.run.summary import RunSummary
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.failures import Selection
from dsvl_pipeline.table.lineage import read_run
from dsvl_pipeline.table.reader import read_table
from dsvl_pipeline.table.repair import repair
from dsvl_pipeline.table.verify import verify
from tests.jobs import fake_job, parse, plain_rows, write_manifest
from tests.payload import payload_digest
from tests.processor import tiffs
from tests.processor.test_tiff import five
from tests.sources.pdfs import tree
from tests.sources.test_passwords import encrypted

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]
STRING = {"type": "string"}


def run(job: dict[str, Any], **arguments: Any) -> RunSummary:
    """Run a job as a job file holds it."""
    return run_job(parse(job), **arguments)


def assert_every_row_once(output: Path, row_ids: set[str]) -> pa.Table:
    """Through the log and through the plain directory, and by the table's own verification."""
    rows, plain = read_table(str(output)), plain_rows(output)
    for table in (rows, plain):
        assert table.num_rows == len(row_ids)
        assert set(table["row_id"].to_pylist()) == row_ids
    verification = verify(str(output))
    assert (verification.problems, verification.unlogged) == ((), ())
    assert verification.num_expected == len(row_ids)
    return rows


def test_a_job_runs_to_a_committed_table(tmp_path: Path) -> None:
    """Manifest in, table out: each row with its answer, its carried columns and its lineage."""
    source = write_manifest(str(tmp_path / "in"), 60)
    summary = run(fake_job(source, str(tmp_path / "out")))
    assert (summary.rows_new, summary.errors, summary.exit_code) == (60, 0, 0)
    rows = assert_every_row_once(tmp_path / "out", {f"row-{n:05d}" for n in range(60)})
    by_id = {row["row_id"]: row for row in rows.to_pylist()}
    assert by_id["row-00004"]["group"] == "g1"
    assert by_id["row-00004"]["source_uris"] == [str(tmp_path / "in" / "4.jpg")]
    assert by_id["row-00004"]["image_widths"] == [24]
    assert by_id["row-00004"]["num_prompt_tokens"] > 144
    # The fake engine answers as a function of prompt and pixels: equal pictures, equal texts.
    assert by_id["row-00004"]["text"] == by_id["row-00012"]["text"]
    assert by_id["row-00004"]["text"] != by_id["row-00005"]["text"]
    # The engines counted what the rows say, and the table keeps it.
    assert summary.engine["new_tokens"] == pc.sum(rows["num_completion_tokens"]).as_py()
    assert summary.engine["engines"] == 1
    manifest = read_run(str(tmp_path / "out"), summary.run_id)
    assert manifest is not None
    assert manifest.engine == summary.engine
    for name in ("recipe", "run_id", "processor_digest", "produced_at", "node", "code_version"):
        assert rows[name].null_count == 0, name


def test_the_same_command_computes_nothing_twice(tmp_path: Path) -> None:
    """A second run over the same input leaves every part as it is."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 40), str(tmp_path / "out"))
    run(job)
    parts = sorted((tmp_path / "out" / "data").rglob("*.parquet"))
    summary = run(job)
    assert (summary.rows_new, summary.rows_up_to_date) == (0, 40)
    assert sorted((tmp_path / "out" / "data").rglob("*.parquet")) == parts


def test_only_what_changed_runs_again(tmp_path: Path) -> None:
    """New rows and a second prompt are computed; a reworded prompt replaces its own answers."""
    source = write_manifest(str(tmp_path / "in"), 20)
    job = fake_job(source, str(tmp_path / "out"))
    run(job)
    write_manifest(str(tmp_path / "in"), 30)
    assert run(job).rows_new == 10
    job["prompts"].append({"id": "colour", "text": "Which colour?"})
    assert run(job).rows_new == 30
    job["prompts"][1]["text"] = "What colour is it?"
    assert run(job).rows_new == 30
    rows = read_table(str(tmp_path / "out"))
    assert rows.num_rows == plain_rows(tmp_path / "out").num_rows == 60
    assert verify(str(tmp_path / "out")).problems == ()


def test_fresh_replaces_every_answer(tmp_path: Path) -> None:
    """--fresh computes all rows again, and the table holds each of them once."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 20), str(tmp_path / "out"))
    first = run(job)
    second = run(job, fresh=True)
    assert second.rows_new == 20
    rows = assert_every_row_once(tmp_path / "out", {f"row-{n:05d}" for n in range(20)})
    assert set(rows["run_id"].to_pylist()) == {second.run_id} != {first.run_id}


def test_limit_reads_the_first_rows_and_the_rest_follows(tmp_path: Path) -> None:
    """A trial with --limit is the start of the whole run, not a waste."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 30), str(tmp_path / "out"))
    assert run(job, limit=7).rows_new == 7
    assert run(job).rows_new == 23


def test_two_runs_of_one_plan_agree(tmp_path: Path) -> None:
    """Batches, shards and order differ, what is said does not."""
    source = write_manifest(str(tmp_path / "in"), 50)
    one = fake_job(source, str(tmp_path / "one"), mean_delay_s=0.01)
    other = fake_job(source, str(tmp_path / "other"))
    # The engine's settings are part of the recipe, so both are the same but for the batches.
    other["engine"] = one["engine"]
    other["cluster"] = {"cpus_per_engine": 0.1, "rows_per_batch": 5}
    other["output"]["num_shards"] = 2
    run(one)
    run(other)
    tables = [read_table(str(tmp_path / name)) for name in ("one", "other")]
    assert payload_digest(tables[0]) == payload_digest(tables[1])


def test_bad_rows_become_error_rows(tmp_path: Path) -> None:
    """A broken line, a missing file and a missing image are rows like any other."""
    source = write_manifest(str(tmp_path / "in"), 10)
    manifest = tmp_path / "in" / "manifest.jsonl"
    (tmp_path / "in" / "torn.jpg").write_bytes((tmp_path / "in" / "0.jpg").read_bytes()[:300])
    bad = [
        "{not json",
        json.dumps({"id": "lost", "image": "lost.jpg", "group": "g"}),
        json.dumps({"id": "none", "image": None, "group": "g"}),
        json.dumps({"id": "torn", "image": "torn.jpg", "group": "g"}),
        json.dumps({"id": "row-00000", "image": "1.jpg", "group": "g"}),
    ]
    manifest.write_text(manifest.read_text() + "\n" + "\n".join(bad))
    job = fake_job(source, str(tmp_path / "out"))
    summary = run(job)
    assert summary.errors == 5
    assert summary.exit_code == 1  # a third is more than max_error_fraction
    assert set(summary.error_codes) >= {"manifest_line", "not_found", "no_image", "duplicate_id"}
    rows = read_table(str(tmp_path / "out"))
    errors = rows.filter(pc.equal(rows["status"], "error")).to_pylist()
    assert len(rows) == 15
    assert all(row["error_message"] and row["text"] is None for row in errors)
    assert run(job).rows_new == 1  # a file that is missing may come; the others are final


def test_a_killed_engine_is_replaced(tmp_path: Path) -> None:
    """Requests that kill their process run again elsewhere, and no row is lost or doubled."""
    (tmp_path / "crashes").mkdir()
    source = write_manifest(str(tmp_path / "in"), 120)
    crashes = {"crash_rate": 0.06, "crash_dir": str(tmp_path / "crashes"), "seed": 1}
    summary = run(fake_job(source, str(tmp_path / "out"), **crashes))
    assert list((tmp_path / "crashes").iterdir())
    assert summary.errors == 0
    assert_every_row_once(tmp_path / "out", {f"row-{n:05d}" for n in range(120)})


def test_a_run_in_which_everything_fails_stops_itself(tmp_path: Path) -> None:
    """Before it writes all of its error rows; what it has written is a table like any other."""
    source = write_manifest(str(tmp_path / "in"), 1500)
    for number in range(8):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(b"no picture")
    job = fake_job(source, str(tmp_path / "out"))
    job["output"] |= {"rows_per_part": 50}
    job["cluster"] |= {"rows_per_batch": 32}
    job["limits"] = {"first_rows": 100}
    with pytest.raises(RunStoppedError, match="failed with 'image_format'") as stopped:
        run(job)
    assert stopped.value.exit_code == 3
    num_rows = read_table(str(tmp_path / "out")).num_rows
    assert 100 <= num_rows < 1500
    assert verify(str(tmp_path / "out")).problems == ()
    job["limits"] = {"first_rows": 0}
    assert run(job).rows_new == 1500 - num_rows


def test_a_run_in_which_nothing_moves_stops_itself(tmp_path: Path) -> None:
    """It says which stage waits for what."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 5), str(tmp_path / "out"))
    job["engine"]["fake"]["mean_delay_s"] = 1e6
    job["limits"] = {"stall_timeout_s": 8}
    with pytest.raises(RunStoppedError, match="no row has finished") as stopped:
        run(job)
    # Which stage it is hangs on how fast this machine starts an actor.
    assert re.search(r"[a-z_]+: \d+ blocks? waiting, \d+ tasks? running", str(stopped.value))
    assert " CPUs" in str(stopped.value)


def test_documents_and_images_share_a_table(tmp_path: Path) -> None:
    """The demo's samples: each image a row, each page a row, the broken file an error."""
    samples = Path("dsvl_pipeline/demo/samples")
    job = fake_job({}, str(tmp_path / "out"))
    job["input"] = {
        "images": [f"{samples}/*.{suffix}" for suffix in ("jpg", "png", "webp")],
        "documents": f"{samples}/*.pdf",
    }
    summary = run(job)
    images = [p for p in samples.iterdir() if p.suffix in (".jpg", ".png", ".webp")]
    assert summary.error_codes == {"image_truncated": 1}
    rows = read_table(str(tmp_path / "out"))
    pages = rows.filter(pc.is_valid(rows["page_index"]))
    assert sorted(pages["page_index"].to_pylist()) == [0, 1, 2]
    assert set(pages["num_pages"].to_pylist()) == {3}
    assert rows.num_rows == len(images) + 3
    verification = verify(str(tmp_path / "out"))
    assert (verification.problems, verification.num_expected) == ((), rows.num_rows)
    assert run(job).rows_new == 0


def test_pages_of_tiffs_are_rows_of_the_table(tmp_path: Path) -> None:
    """A damaged page is an error alone; what was asked of first pages is made whole later."""
    (tmp_path / "in").mkdir()
    made = five()
    (tmp_path / "in" / "one.tif").write_bytes(tiffs.file(made[0]))
    made[3] = (made[3][0] | {tiffs.HEIGHT: 4000, tiffs.ROWS: 4000}, made[3][1])
    (tmp_path / "in" / "five.tif").write_bytes(tiffs.file(*made))
    job = fake_job({"images": str(tmp_path / "in")}, str(tmp_path / "out"))
    job["input"]["frames"] = "first"
    assert run(job).rows_new == 2
    rows = read_table(str(tmp_path / "out")).sort_by("row_id")
    assert rows["num_frames"].to_pylist() == [5, 1]
    job["input"]["frames"] = "pages"
    assert run(job).rows_new == 5
    rows = read_table(str(tmp_path / "out")).sort_by(
        [("row_id", "ascending"), ("page_index", "ascending")]
    )
    assert rows["page_index"].to_pylist() == [0, 1, 2, 3, 4, None]
    assert rows["num_pages"].to_pylist() == [5] * 5 + [None]
    assert [status == "error" for status in rows["status"].to_pylist()] == [False] * 3 + [True] + [
        False
    ] * 2
    assert verify(str(tmp_path / "out")).problems == ()
    assert run(job).rows_new == 0
    job["input"]["frames"] = "first"
    assert run(job).rows_new == 1
    assert read_table(str(tmp_path / "out")).num_rows == 2


@pytest.mark.s3
def test_the_same_job_over_s3_gives_the_same_rows(tmp_path: Path, s3_bucket: str) -> None:
    """Input and output on a real HTTP S3 server."""
    texts = []
    for folder in (str(tmp_path), s3_bucket):
        source = write_manifest(objects.join(folder, "in"), 40)
        job = fake_job(source, objects.join(folder, "out"))
        assert run(job).rows_new == 40
        rows = read_table(job["output"]["uri"])
        assert verify(job["output"]["uri"]).problems == ()
        texts.append(dict(zip(rows["row_id"].to_pylist(), rows["text"].to_pylist(), strict=True)))
    assert len(texts[0]) == 40
    assert texts[0] == texts[1]


DRIVER = """
import json, sys
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.errors import DsvlError
from dsvl_pipeline.run.run import run_job
from tests.quick_ray import quick_ray
try:
    with quick_ray():
        run_job(JobConfig.model_validate(json.loads(sys.argv[1])))
except DsvlError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start_driver(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own, with a cluster of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(job)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Callable[[], object], limit_s: float = 300.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.3)


def committed_rows(output: Path) -> int:
    """Rows that the log names so far."""
    return read_table(str(output)).num_rows if list(output.glob("_dsvl/log/*.json")) else 0


def test_a_killed_driver_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """200 rows; the driver dies by SIGKILL in the middle; the same job goes on."""
    source = write_manifest(str(tmp_path / "in"), 200)
    output = tmp_path / "out"
    job = fake_job(source, str(output), mean_delay_s=0.2)
    job["output"] |= {"rows_per_part": 20, "seconds_per_part": 1}
    driver = start_driver(job)
    wait_for(lambda: committed_rows(output) >= 40)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = committed_rows(output)
    assert 40 <= before < 200
    summary = run(job)
    assert summary.rows_new == 200 - before
    assert_every_row_once(output, {f"row-{n:05d}" for n in range(200)})


def test_old_failures_do_not_fail_a_new_job(tmp_path: Path) -> None:
    """A table may hold errors of inputs that nobody asks for any more."""
    bad = write_manifest(str(tmp_path / "in"), 4)
    (tmp_path / "in" / "0.jpg").write_bytes(b"no picture")
    assert run(fake_job(bad, str(tmp_path / "out"))).exit_code == 1
    good = write_manifest(str(tmp_path / "good"), 6, first=10)
    summary = run(fake_job(good, str(tmp_path / "out")))
    assert (summary.ok + summary.degraded, summary.errors, summary.exit_code) == (9, 1, 0)
    assert (summary.rows_wanted, summary.rows_staying, summary.errors_staying) == (6, 4, 1)


def test_an_unreadable_document_is_one_error_for_each_prompt(tmp_path: Path) -> None:
    """Also where its prompts come in different blocks; and nothing is asked again."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}.pdf").write_bytes(b"not a pdf")
    job = fake_job({"documents": str(tmp_path / "in" / "*.pdf")}, str(tmp_path / "out"))
    job["prompts"] = [{"id": name, "text": name} for name in "abc"]
    summary = run(job)
    assert (summary.rows_new, summary.errors) == (18, 18)
    assert verify(str(tmp_path / "out")).problems == ()
    summary = run(job)
    assert (summary.rows_new, summary.errors_kept) == (0, 18)


def test_every_page_has_a_row_whatever_its_document_says(tmp_path: Path) -> None:
    """Counts that are too small, pages that are missing, covers of portfolios; and again."""
    (tmp_path / "in").mkdir()
    found = {
        "few": tree(count="/Count 1"),
        "gone": tree("10 0 R 99 0 R 14 0 R", "/Count 2"),
        "cover": tree("10 0 R", "/Count 1", root="/Collection << >>"),
        "right": tree(),
    }
    for name, data in found.items():
        (tmp_path / "in" / f"{name}.pdf").write_bytes(data)
    job = fake_job({"documents": str(tmp_path / "in" / "*.pdf")}, str(tmp_path / "out"))
    job["generation"] = {"max_new_tokens": 200}  # no answer is cut
    codes = {"page_count": 5, "page_unreadable": 1, "document_portfolio": 1}
    summary = run(job)
    assert (summary.ok, summary.degraded, summary.errors) == (3, 6, 1)
    assert summary.error_codes == codes
    rows = {
        (Path(row["row_id"]).stem, row["page_index"]): row
        for row in read_table(str(tmp_path / "out")).to_pylist()
    }
    assert [rows["few", n]["num_pages"] for n in range(3)] == [3, 3, 3]
    assert [rows["gone", n]["status"] for n in range(3)] == ["degraded", "error", "degraded"]
    assert "gives 1 as the number of its pages, but 3 were found" in rows["few", 2]["error_message"]
    assert all(row["text"] for row in rows.values() if row["status"] != "error")
    assert len(rows) == 10
    again = run(job)
    assert (again.rows_new, again.rows_up_to_date) == (0, 10)


def test_a_password_that_is_given_later_runs_only_what_needs_it(tmp_path: Path) -> None:
    """It is no part of what identifies a page, so that no other row runs again."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "open.pdf").write_bytes(tree())
    (tmp_path / "in" / "locked.pdf").write_bytes(encrypted("abc"))
    job = fake_job({"documents": str(tmp_path / "in" / "*.pdf")}, str(tmp_path / "out"))
    assert run(job | {"max_error_fraction": 1.0}).error_codes == {"document_encrypted": 1}
    for password, num_new, num_errors in (("wrong", 1, 1), ("abc", 3, 0), ("other", 0, 0)):
        job["input"]["document"] = {"password": password}
        summary = run(job)
        assert (summary.rows_new, summary.errors) == (num_new, num_errors)
    assert summary.rows_wanted == 6


def test_a_document_that_vanishes_loses_nothing(tmp_path: Path) -> None:
    """A second prompt that comes while the file is away fails alone."""
    (tmp_path / "in").mkdir()
    (sample,) = Path("dsvl_pipeline/demo/samples").glob("*.pdf")
    shutil.copy(sample, tmp_path / "in" / "a.pdf")
    (tmp_path / "in" / "m.jsonl").write_text(json.dumps({"id": "d", "doc": "a.pdf", "v": "1"}))
    source = {"manifest": str(tmp_path / "in" / "m.jsonl")}
    columns = {"columns": {"id": "id", "document": "doc", "etag": "v"}}
    job = fake_job(source | columns, str(tmp_path / "out"))
    num_pages = run(job).rows_new
    job["prompts"].append({"id": "second", "text": "What?"})
    (tmp_path / "in" / "a.pdf").rename(tmp_path / "in" / "b.pdf")
    summary = run(job)
    assert (summary.rows_up_to_date, summary.rows_new, summary.errors) == (num_pages, 1, 1)
    (tmp_path / "in" / "b.pdf").rename(tmp_path / "in" / "a.pdf")
    summary = run(job)
    assert (summary.rows_up_to_date, summary.rows_new, summary.errors) == (num_pages, num_pages, 0)
    assert verify(str(tmp_path / "out")).problems == ()


def test_a_run_that_failed_leaves_the_cluster_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run in this process would wait for CPUs for ever."""
    from dsvl_pipeline.errors import StorageError
    from dsvl_pipeline.table.writer import TableWriter

    def away(*_: Any, **__: Any) -> None:
        raise StorageError("put: gave up after 8 attempts")

    source = write_manifest(str(tmp_path / "in"), 2000)
    job = fake_job(source, str(tmp_path / "out"), mean_delay_s=0.5)
    job["cluster"] = {"cpus_per_engine": 1}
    job["output"] |= {"rows_per_part": 20, "seconds_per_part": 1}
    monkeypatch.setattr("dsvl_pipeline.run.commits.COMMIT_EVERY_S", 0.0)
    with monkeypatch.context() as outage:
        outage.setattr(TableWriter, "commit", away)
        with pytest.raises(StorageError, match="gave up"):
            run(job)
    assert not [thread for thread in threading.enumerate() if thread.name == "results"]
    write_manifest(str(tmp_path / "in"), 5)
    assert run(job).rows_new == 5


def test_a_broken_checkpoint_is_what_the_message_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not Ray's word on actors that died."""
    monkeypatch.setattr("dsvl_pipeline.cluster.connect._MAX_FAILED_STARTS", 1)
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree("dsvl_pipeline/demo/checkpoint", checkpoint)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    job = fake_job(write_manifest(str(tmp_path / "in"), 3), str(tmp_path / "out"))
    job |= {"engine": {"kind": "model"}, "model": {"checkpoint": str(checkpoint)}}
    with pytest.raises(DsvlError) as caught:
        run(job)
    assert "CheckpointError" in str(caught.value)
    assert "model.safetensors has" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"manifest": "no-such.jsonl"}, "no-such.jsonl"),
        ({"manifest": "empty.jsonl"}, "empty"),
        ({"columns": {"id": "id", "image": "imgae"}}, "imgae"),
        ({"carry": ["status"]}, "status"),
        ({"prompts": [{"id": "a", "text": "a", "regex": "["}]}, "prompts.0.regex"),
        (
            {"prompts": [{"id": "a", "text": "a", "schema": {"properties": {"text": STRING}}}]},
            "properties 'text'",
        ),
    ],
)
def test_wrong_jobs_end_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    """Each mistake has its own message and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    source = write_manifest("in", 3)
    (tmp_path / "empty.jsonl").touch()
    job = fake_job(source, "out")
    (job if "prompts" in change else job["input"]).update(change)
    with pytest.raises(ConfigError, match=words) as caught:
        run(job)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_two_drivers_do_not_share_a_table(tmp_path: Path) -> None:
    """The second is told who holds the table, and how to go on."""
    from dsvl_pipeline.table.writer import TableWriter

    source = write_manifest(str(tmp_path / "in"), 3)
    job = fake_job(source, str(tmp_path / "out"))
    held = TableWriter.open(str(tmp_path / "out"), num_shards=1, run_id="other", recipe="r")
    with held, pytest.raises(LeaseError, match="other"):
        run(job)
    assert run(job).rows_new == 3


def redriven(job: dict[str, Any], selection: Selection, **settings: Any) -> RunSummary:
    """Redrive some rows of a job, with other sections."""
    return run_job(parse(job | settings), redrive=Redrive(selection=selection, base=parse(job)))


def test_redriven_rows_get_other_settings_and_stay(tmp_path: Path) -> None:
    """Cut answers with more tokens: they replace the cut ones, and no later run undoes that."""
    source = write_manifest(str(tmp_path / "in"), 30)
    job = fake_job(source, str(tmp_path / "out"))
    job["generation"] = {"max_new_tokens": 6}
    before = run(job)
    cut = Selection(codes=frozenset(["length"]))
    assert 0 < before.degraded < 30
    (tmp_path / "in" / "new.jpg").write_bytes((tmp_path / "in" / "0.jpg").read_bytes())
    with (tmp_path / "in" / "manifest.jsonl").open("a") as manifest:
        manifest.write("\n" + json.dumps({"id": "new", "image": "new.jpg", "group": "g"}))
    summary = redriven(job, cut, generation={"max_new_tokens": 500})
    assert (summary.rows_new, summary.degraded) == (before.degraded, 0)
    rows = assert_every_row_once_so_far(tmp_path / "out", 30)
    recipes = rows.group_by("recipe").aggregate([([], "count_all")]).to_pylist()
    assert sorted(row["count_all"] for row in recipes) == sorted([before.ok, before.degraded])
    assert redriven(job, cut, generation={"max_new_tokens": 500}).rows_new == 0
    assert run(job).rows_new == 1  # the row that is new, and nothing else
    assert_every_row_once_so_far(tmp_path / "out", 31)


def test_a_row_and_a_document_are_redriven_by_name(tmp_path: Path) -> None:
    """A row that is ok as well; of a document that could not be opened, all its pages."""
    (tmp_path / "in").mkdir()
    (sample,) = Path("dsvl_pipeline/demo/samples").glob("*.pdf")
    for name in "ab":
        shutil.copy(sample, tmp_path / "in" / f"{name}.pdf")
    job = fake_job({"documents": str(tmp_path / "in" / "*.pdf")}, str(tmp_path / "out"))
    job["input"]["document"] = {"max_pages": 2}
    assert run(job).error_codes == {"document_too_long": 2}
    source = job["input"] | {"document": {"max_pages": 5}}
    one = Selection(row_ids=frozenset([str(tmp_path / "in" / "a.pdf")]))
    summary = redriven(job, one, input=source)
    assert (summary.rows_new, summary.errors) == (3, 1)
    assert_every_row_once_so_far(tmp_path / "out", 4)
    again = redriven(job, one, input=source)
    assert (again.rows_new, again.rows_staying) == (3, 1)
    pages = assert_every_row_once_so_far(tmp_path / "out", 4)
    assert again.run_id in pages["run_id"].to_pylist()
    failed = redriven(job, one)  # three answers, and now one error for the whole document
    assert (failed.rows_new, failed.answers_kept, failed.exit_code) == (1, 1, 1)
    assert assert_every_row_once_so_far(tmp_path / "out", 4).equals(pages)
    with pytest.raises(ConfigError, match=r"redrive: the table has no row nobody; a row's id is"):
        redriven(job, Selection(row_ids=one.row_ids | {"nobody"}))


def test_an_error_of_a_redrive_never_costs_an_answer(tmp_path: Path) -> None:
    """Half an answer is more than none; an error may replace an error."""
    source = write_manifest(str(tmp_path / "in"), 30)
    (tmp_path / "in" / "3.jpg").write_bytes(b"no picture")
    job = fake_job(source, str(tmp_path / "out"))
    job["generation"] = {"max_new_tokens": 6}
    before = run(job)
    rows = assert_every_row_once_so_far(tmp_path / "out", 30)
    everything = Selection(row_ids=frozenset(rows["row_id"].to_pylist()))
    summary = redriven(job, everything, input=source | {"max_image_bytes": 20})
    assert (summary.rows_new, summary.answers_kept) == (30, before.ok + before.degraded)
    assert (summary.degraded, summary.exit_code) == (before.degraded, 1)
    after = assert_every_row_once_so_far(tmp_path / "out", 30)
    answered = pc.not_equal(after["status"], "error")
    assert payload_digest(after.filter(answered)) == payload_digest(
        rows.filter(pc.not_equal(rows["status"], "error"))
    )
    assert set(after.filter(pc.invert(answered))["run_id"].to_pylist()) == {summary.run_id}
    assert run(job).rows_new == 0


def test_what_is_asked_cannot_be_redriven_otherwise(tmp_path: Path) -> None:
    """It would be another job, whose rows have other keys; and there must be a table."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 3), str(tmp_path / "out"))
    everything = Selection(stages=frozenset(["fetch"]))
    with pytest.raises(ConfigError, match="run the job first"):
        redriven(job, everything)
    with pytest.raises(ConfigError, match="prompts cannot be set"):
        redriven(job, everything, prompts=[{"id": "caption", "text": "Other?"}])
    source = job["input"] | {"carry": []}
    with pytest.raises(ConfigError, match=r"input\.carry cannot be set"):
        redriven(job, everything, input=source)


def assert_every_row_once_so_far(output: Path, num_rows: int) -> pa.Table:
    """The log and the plain directory hold so many rows, each key once."""
    rows = read_table(str(output))
    assert rows.num_rows == plain_rows(output).num_rows == num_rows
    assert verify(str(output)).problems == ()
    return rows


def test_a_lost_part_is_computed_again_after_repair(tmp_path: Path) -> None:
    """A run that finds it says how; repair drops it, and only its rows run, images and pages."""
    source = write_manifest(str(tmp_path / "in"), 30)
    sample = Path("dsvl_pipeline/demo/samples/handbook.pdf").resolve()
    job = fake_job(source | {"documents": str(sample)}, str(tmp_path / "out"))
    job["output"] |= {"rows_per_part": 8, "num_shards": 1}
    run(job)
    whole = payload_digest(read_table(str(tmp_path / "out")))
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])):
        path = max((tmp_path / "out/data").rglob("*.parquet"))
        damage(path)
        with pytest.raises(TableError, match=rf"{path.name}.*`dsvl repair {tmp_path}/out`"):
            run(job)
        num_lost = repair(str(tmp_path / "out")).num_rows
        assert num_lost > 0
        assert run(job).rows_new == num_lost
        assert payload_digest(read_table(str(tmp_path / "out"))) == whole
        assert verify(str(tmp_path / "out")).problems == ()
