"""``dsvl status``, ``verify``, ``export`` and ``report`` on a finished table."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from dsvl_pipeline.cli import main
from dsvl_pipeline.store import objects
from dsvl_pipeline.table import part
from dsvl_pipeline.table.lineage import RunManifest, write_run
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.schema import output_schema
from dsvl_pipeline.table.writer import TableWriter
from tests.report.test_pictures import leave_manifest
from tests.tables import write_table


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Write a table of four rows: two ok, one degraded, one error."""
    uri = str(tmp_path / "table")
    write_table(
        uri,
        [
            {"row_id": "a.jpg", "text": "A"},
            {"row_id": "b.jpg", "text": "B"},
            {"row_id": "c.jpg", "status": "degraded", "text": "C"},
            {"row_id": "d.jpg", "status": "error", "error_code": "image_truncated"},
        ],
    )
    return uri


def test_status_counts(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By status and by error code."""
    assert main.main(["status", table]) == 0
    assert capsys.readouterr().out == (
        "status    rows  share\n"
        "ok        2     50.0%\n"
        "degraded  1     25.0%\n"
        "error     1     25.0%\n"
        "all       4\n"
        "error code       rows\n"
        "image_truncated  1\n"
    )


def test_status_says_of_a_run_that_it_did_not_end_well(
    table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """13 of 80 rows look like a finished table otherwise."""
    snapshot = read_snapshot(table)
    assert snapshot.last_run_id is not None
    run = RunManifest(
        run_id=snapshot.last_run_id,
        plan_id="plan",
        status="stopped",
        started_at="2026-01-02T00:00:00+00:00",
        recipe="recipe",
        job_digest="0",
    )
    write_run(table, run)
    assert main.main(["status", table]) == 0
    assert "the last run was stopped: rows may be missing" in capsys.readouterr().out


def test_verify_says_what_it_checked(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A good table ends with 0."""
    assert main.main(["verify", table]) == 0
    version, _, rest = capsys.readouterr().out.partition(": ")
    assert version.removeprefix("version ").isdecimal()
    assert rest == "4 rows in 1 part\nrows in: not known, no run has ended yet\nall checks hold\n"


def test_verify_finds_a_flipped_byte(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad one ends with 1, and the part is named."""
    (path,) = Path(table, "data").rglob("*.parquet")
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    assert main.main(["verify", table]) == 1
    out = capsys.readouterr().out
    assert f"problem: data/{path.parent.name}/{path.name}: " in out
    assert out.endswith(" problem\n")


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ({0: 4}, ["rows in = rows out: the last run wanted 4", "all checks hold"]),
        ({0: 5}, ["rows in are not rows out: the last run wanted 5", "1 problem"]),
    ],
)
def test_verify_does_not_contradict_itself(
    table: str, capsys: pytest.CaptureFixture[str], expected: dict[int, int], told: list[str]
) -> None:
    """Rows in are rows out, or they are not."""
    run_id = read_snapshot(table).last_run_id
    assert run_id is not None
    leave_manifest(Path(table), run_id, rows_expected=expected)
    assert main.main(["verify", table]) == int(expected != {0: 4})
    out = capsys.readouterr().out.splitlines()
    assert [out[1], out[-1]] == told


def test_verify_counts_in_words(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One row, not one rows."""
    write_table(table + "1", [{"row_id": "a"}])
    run_id = read_snapshot(table + "1").last_run_id
    assert run_id is not None
    leave_manifest(Path(table + "1"), run_id, rows_expected={0: 3})
    assert main.main(["verify", table + "1"]) == 1
    assert "shard 0: has 1 row, but its last run wanted 3" in capsys.readouterr().out


def test_export_says_how_much_it_wrote(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The formats have tests of their own."""
    copy = tmp_path / "copy.csv"
    assert main.main(["export", table, str(copy)]) == 0
    assert capsys.readouterr().out == f"4 rows to {copy}\n"
    assert copy.read_text(encoding="utf-8").count("\n") == 5


@pytest.mark.parametrize(
    "command", [["status"], ["verify"], ["export", "a.csv"], ["report", "a.html"]]
)
def test_a_file_is_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """The manifest instead of the output: exit code 2 as well."""
    (tmp_path / "m.csv").write_text("image\n")
    name, *more = command
    assert main.main([name, str(tmp_path / "m.csv"), *more]) == 2
    assert "m.csv: there is no table here" in capsys.readouterr().err


@pytest.mark.parametrize("destination", ["folder.csv", "file.csv/x.csv"])
def test_a_copy_to_a_wrong_place_is_a_mistake_of_the_command_line(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], destination: str
) -> None:
    """A directory that is called like a file, and a path below a file."""
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file.csv").touch()
    assert main.main(["export", table, str(tmp_path / destination)]) == 2
    assert destination in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["status"], ["verify"], ["export", "a.csv"], ["report", "a.html"]]
)
def test_a_missing_table_is_a_mistake_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Exit code 2, not the 3 of a store that failed."""
    name, *more = command
    assert main.main([name, str(tmp_path / "nothing"), *more]) == 2
    assert "nothing: there is no table here" in capsys.readouterr().err


def test_report_shows_local_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images and pages are read again; what is not there, not a picture or not local is not."""
    asked: list[str] = []
    read = objects.read

    def noting_read(uri: str, *, max_bytes: int | None = None) -> bytes:
        asked.append(uri)
        return read(uri, max_bytes=max_bytes)

    monkeypatch.setattr(objects, "read", noting_read)
    samples = Path("dsvl_pipeline/demo/samples").resolve()
    names = ["page-sign.bmp", "handbook.pdf", "broken.jpg", "gone.png"]
    uris = [*(str(samples / name) for name in names), "s3://bucket/a.png"]
    rows = [
        {
            "row_id": uri,
            "page_index": 1 if uri.endswith(".pdf") else None,
            "text": "x",
            "source_uris": [uri],
            "source_sha256s": [
                hashlib.sha256(Path(uri).read_bytes()).hexdigest() if Path(uri).exists() else "0"
            ],
            "run_id": "r1",
        }
        for uri in uris
    ]
    write_table(str(tmp_path / "table"), rows)
    leave_manifest(tmp_path / "table", "r1", images=[f"{samples}/*"])
    page = tmp_path / "page.html"
    assert main.main(["report", str(tmp_path / "table"), str(page)]) == 0
    assert capsys.readouterr().out == f"5 rows on {page}\n"
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/jpeg;base64,') == 2
    assert text.count("no picture: ") == 3
    assert "s3://bucket/a.png" not in asked


def test_versions_compact_and_vacuum_tell_what_they_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upkeep of a table, from a shell."""
    uri = str(tmp_path / "table")
    write_table(uri, [{"row_id": "a"}])
    with TableWriter.open(uri, num_shards=1, run_id="r2", recipe="00") as writer:
        row = {"row_id": "b", "prompt_id": "read", "status": "error"}
        rows = pa.Table.from_pylist([row], output_schema())
        receipt = part.write_part(uri, rows, shard=0, lease=writer.lease_number, metadata={})
        writer.commit([receipt])
        writer.finish()
    assert main.main(["compact", uri]) == 0
    assert "version 6: 1 part, 2 before" in capsys.readouterr().out
    assert main.main(["versions", uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["version", "1", "2", "3", "4", "5", "6"]
    assert lines[-1].split()[3:] == ["1", "+1", "-2", "2", "1", "yes"]
    assert main.main(["vacuum", uri, "--dry-run"]) == 0
    assert "0 parts, 0 bytes: would be deleted, by this machine's clock" in capsys.readouterr().out
    assert main.main(["vacuum", uri, "--older-than-hours", "0.1"]) == 2
    assert "at least 1 is needed" in capsys.readouterr().err


def test_failures_are_listed_by_reason(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Stage, code, count and an example each; a filter that fits nothing says so."""
    assert main.main(["failures", table]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == [
        "stage  code             status  rows  runs again",
        "image  image_truncated  error   1     no",
    ]
    assert "\nimage_truncated (1 row), for example:\n  d.jpg (read)" in out
    assert main.main(["failures", table, "--stage", "fetch"]) == 0
    assert capsys.readouterr().out == "no failed or degraded rows of that kind\n"
    assert main.main(["failures", table, "--code", "of_a_newer_version"]) == 0
    for command in ("failures", "redrive"):
        with pytest.raises(SystemExit) as left:
            main.main([command, table, "--code", "image_trunkated"])
        assert left.value.code == 2
        assert "no code; did you mean 'image_truncated'?" in capsys.readouterr().err
    assert main.main(["failures", str(Path(table, "none"))]) == 2
