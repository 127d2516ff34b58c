"""What a run settles before its first row.

The recipe: what makes every row of a table run again, and what does not.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from dsvl_pipeline import hub, keys
from dsvl_pipeline.cluster import connect
from dsvl_pipeline.cluster.connect import Scale
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.inputs import DocumentConfig
from dsvl_pipeline.plan.recipe import recipe_parts
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.records import Row
from dsvl_pipeline.run import prepare, wanted
from dsvl_pipeline.run.prepare import Prepared
from dsvl_pipeline.run.preview import preview
from dsvl_pipeline.table.failures import Selection
from dsvl_pipeline.table.lineage import RunStatus
from tests.jobs import fake_job, parse, write_manifest
from tests.tables import write_table


def recipe(**sections: Any) -> str:
    """The recipe of a job with some settings changed, for one checkpoint."""
    job = fake_job({"documents": "x/*.pdf"}, "out")
    for name, settings in sections.items():
        job[name] = {**job[name], **settings} if isinstance(settings, dict) else settings
    return keys.recipe_digest(recipe_parts(parse(job), {"weights_digest": "w"}))


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"document": {"draft": True}}},
        {"engine": {"prefix_sharing": False, "cuda_graphs": False}},
        {"cluster": {"rows_per_batch": 3}},
        {"output": {"rows_per_part": 3}},
        {"prompts": [{"id": "a", "text": "a", "regex": "a"}]},
    ],
)
def test_what_changes_no_answer_runs_nothing_again(change: dict[str, Any]) -> None:
    """A draft is verified; prompts and their schemas are in the rows' keys."""
    assert recipe(**change) == recipe()


@pytest.mark.parametrize(
    "change",
    [
        {"generation": {"max_loop_tokens": 0}},
        {"generation": {"max_new_tokens": 17}},
        {"engine": {"quantization": "fp8"}},
    ],
)
def test_what_changes_answers_runs_everything_again(change: dict[str, Any]) -> None:
    """Two rows of one recipe were made in one way."""
    assert recipe(**change) != recipe()


def test_how_pages_are_rendered_is_part_of_documents_alone() -> None:
    """Images of the same job have nothing to do with it."""
    picture = Row(row_id="a", kind="image", sources=("a",), content_id=b"a")
    document = Row(row_id="d", kind="document", sources=("d",), content_id=b"d")
    rows = [picture, document, replace(document, content_id=b"")]
    one, other, same = (
        [row.content_id for row in wanted._rendered(rows, DocumentConfig(**settings))]
        for settings in ({}, {"dpi": 100}, {"draft": True, "memory_gib": 2.0})
    )
    assert one[0] == other[0] == b"a"
    assert one[1] not in (b"d", other[1])
    assert one[2] == other[2] == b""  # gone, as before
    assert one == same


@pytest.fixture
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cluster be one that was joined already."""
    scale = Scale(replicas=1, num_gpus=0, rows_per_batch=16, batches_in_flight=2, dtype="float32")
    for name, answer in (("connect", None), ("configure", None), ("scale_of", scale)):
        monkeypatch.setattr(connect, name, lambda *_, answer=answer: answer)


def prepared(job: dict[str, Any], limit: int | None = None) -> Prepared:
    """Prepare a run, and let the table go again."""
    run = prepare.prepare(parse(job), limit=limit, is_fresh=False, stop=threading.Event())
    run.close()
    return run


@pytest.mark.usefixtures("_no_cluster")
def test_all_workers_load_the_commit_that_the_driver_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is pushed to the hub during a run; the recipe and the job stay as they were."""
    snapshot = tmp_path / "snapshots" / "c0ffee"
    snapshot.parent.mkdir()
    snapshot.symlink_to(hub.resolve(hub.DEMO))
    monkeypatch.setattr(hub, "_download", lambda *_: snapshot)
    job = fake_job(write_manifest(str(tmp_path / "in"), 3), str(tmp_path / "out"))
    for checkpoint, pinned in (
        ("some/model", "c0ffee"),
        (str(snapshot), None),
        (hub.DEMO, None),
    ):
        run = prepared(job | {"model": {"checkpoint": checkpoint}})
        assert run.config.job.model.revision == pinned
        assert run.manifest.job["model"]["revision"] is None
        assert run.manifest.model["model_revision"] is None


@pytest.mark.usefixtures("_no_cluster")
def test_a_manifest_names_the_variable_of_a_password_and_workers_get_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report may then read it again where the variable is set; workers elsewhere have none."""
    monkeypatch.setenv("PDF_WORD", "hunter2")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for password, kept in (({"env": "PDF_WORD"}, {"env": "PDF_WORD"}), ("hunter2", "*" * 10)):
        source = {"documents": str(tmp_path / "a.pdf"), "document": {"password": password}}
        run = prepared(fake_job(source, str(tmp_path / "out")))
        written = json.loads((tmp_path / f"out/_dsvl/runs/{run.manifest.run_id}.json").read_text())
        assert written["job"]["input"]["document"]["password"] == kept
        assert run.config.job.input.document.password == SecretStr("hunter2")
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert not [path for path in files if b"hunter2" in path.read_bytes()]


@pytest.mark.usefixtures("_no_cluster")
def test_a_trial_reads_no_further_once_there_is_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a new table's number of shards hangs on how much input there is beyond the limit."""
    read: list[str] = []
    open_input = wanted.open_input

    def counting(section: Any) -> Any:
        source = open_input(section)

        def rows() -> Iterator[Any]:
            for row in source.rows():
                read.append(row.row_id)
                yield row

        return SimpleNamespace(
            config=source.config, carry_schema=source.carry_schema, rows=rows, skipped=()
        )

    monkeypatch.setattr(wanted, "open_input", counting)
    job = fake_job(write_manifest(str(tmp_path / "in"), 30), str(tmp_path / "out"))
    for num_read in (30, 5):
        read.clear()
        prepared(job, limit=5)
        assert len(read) == num_read


@pytest.mark.usefixtures("_no_cluster")
@pytest.mark.parametrize(
    ("before", "expected"), [("done", {0: 14}), ("stopped", {}), ("running", {})]
)
def test_a_run_of_some_rows_does_not_take_back_what_there_must_be(
    tmp_path: Path, before: RunStatus, expected: dict[int, int]
) -> None:
    """Rows that a `repair` dropped, or that a killed run owes, are missing until they are back."""
    job = fake_job(write_manifest(str(tmp_path / "in"), 14), str(tmp_path / "out"))
    job["output"]["num_shards"] = 1
    whole = prepare.prepare(parse(job), limit=None, is_fresh=False, stop=threading.Event())
    if before != "running":
        whole.end(before, {0: 14}, {}, {}, stop=threading.Event())
    whole.close()
    redrive = Redrive(selection=Selection(codes=frozenset(["nonsuch"])), base=parse(job))
    run = prepare.prepare(
        parse(job), limit=None, is_fresh=False, stop=threading.Event(), redrive=redrive
    )
    run.end("done", {0: 0}, {}, {}, stop=threading.Event())
    run.close()
    assert run.manifest.rows_expected == expected


@pytest.mark.usefixtures("_no_cluster")
@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"cat.jpg"}, "no row cat.jpg (did you mean '/photos/cat.jpg'?); a row's id is"),
        ({"/photos/cat.jpg", "dgo.jpg"}, "no row dgo.jpg (did you mean '/photos/dog.jpg'?); a"),
        (
            {"cat.jpg", "nobody", "dog.jpg"},
            "no row cat.jpg (did you mean '/photos/cat.jpg'?), "
            "dog.jpg (did you mean '/photos/dog.jpg'?), nobody; a row's id is",
        ),
    ],
)
def test_a_redrive_of_no_row_names_the_one_that_may_be_meant(
    tmp_path: Path, named: set[str], told: str
) -> None:
    """A row id is a whole path, which people do not write; each hint stands beside its row."""
    write_table(str(tmp_path / "out"), [{"row_id": f"/photos/{n}.jpg"} for n in ("cat", "dog")])
    job = parse(fake_job(write_manifest(str(tmp_path / "in"), 1), str(tmp_path / "out")))
    redrive = Redrive(selection=Selection(row_ids=frozenset(named)), base=job)
    with pytest.raises(ConfigError, match=re.escape(f"redrive: the table has {told}")):
        prepare.prepare(job, limit=None, is_fresh=False, stop=threading.Event(), redrive=redrive)


@pytest.mark.usefixtures("_no_cluster")
def test_a_plan_refuses_the_place_that_a_run_refuses(tmp_path: Path) -> None:
    """A directory of pictures is no table."""
    source = write_manifest(str(tmp_path / "in"), 2)
    with pytest.raises(ConfigError, match="is neither empty nor a table"):
        preview(parse(fake_job(source, str(tmp_path / "in"))))
