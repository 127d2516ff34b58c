"""Secrets that a run is given, and must not pass on: canaries, looked for in all it writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dsvl_pipeline.cli import main
from dsvl_pipeline.table.reader import read_table
from tests.jobs import fake_job, jpeg
from tests.sources.test_passwords import encrypted

pytestmark = pytest.mark.ray

WORD = "canary"
PASSWORD = "canary of documents"
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws-secret-key-000000000000",
    "AWS_SESSION_TOKEN": "canary-aws-session-token-0000000000",
    # Neither works nor should: what is said of it must not repeat it.
    "AWS_ENDPOINT_URL": "http://canary-user:canary-word@127.0.0.1:9",
    "HF_TOKEN": "hf_canary0000000000000000000000",
    "OPENLINEAGE_API_KEY": "canary-openlineage-key",
    "OPENLINEAGE_URL": "http://canary-user:canary-word@127.0.0.1:9/?key=canary",
    "DOCUMENTS_WORD": PASSWORD,
    "SOME_SERVICE_PASSWORD": "canary-of-some-other-service",
}
SIGNED = "X-Amz-Signature=canary&X-Amz-Credential=canary%2Fx&sig=canary&token=canary"
ROWS = [
    {"id": "good", "image": "good.jpg"},
    {"id": "gone", "image": "gone.jpg"},
    {"id": "damaged", "image": "damaged.jpg"},
    {"id": "signed", "image": f"https://127.0.0.1:9/a.jpg?{SIGNED}"},
    {"id": "user", "image": "https://canary:canary@example.invalid/a.jpg"},
    {"id": "fragment", "image": "http://0x7f000001/a.jpg#access_token=canary"},
    {"id": "unparsable", "image": "http://canary:canary@[::1/a.jpg?sig=canary"},
    {"id": "scheme", "image": "ftp://canary:canary@host/a.jpg"},
    {"id": "object", "image": f"s3://bucket/a.jpg?{SIGNED}"},
    {"id": "two", "image": ["good.jpg", f"https://10.0.0.1/a.jpg?{SIGNED}"]},
    # Who has no other id takes the URL.
    {"id": f"https://127.0.0.1:9/b.jpg?{SIGNED}", "image": f"https://127.0.0.1:9/b.jpg?{SIGNED}"},
    {"id": "https://canary:canary@host/c.jpg", "image": ["https://canary:canary@host/c.jpg"]},
    {"id": "wrong", "image": {"uri": "https://canary:canary@host/c.jpg", "key": "canary"}},
    {"id": ["canary"], "image": "good.jpg"},
]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder of Ray's own for its logs; its sockets allow for short paths only."""
    folder = Path(tempfile.mkdtemp(prefix="dsvl-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _write_input(folder: Path) -> None:
    folder.mkdir()
    (folder / "good.jpg").write_bytes(jpeg(1))
    (folder / "damaged.jpg").write_bytes(jpeg(2)[:300])
    unused = {"password": "canary", "note": "see https://canary:canary@host/"}
    (folder / "locked.pdf").write_bytes(encrypted(PASSWORD))
    (folder / "other.pdf").write_bytes(encrypted("another"))
    lines = [json.dumps(row | {"group": "g"} | unused) for row in ROWS]
    lines.append('{"id": "broken", "image": "https://canary:canary@host/d.jpg?sig=canary"')
    (folder / "manifest.jsonl").write_text("\n".join(lines))


def _places(folder: Path) -> list[str]:
    """Name every file below a folder that holds the word, also inside Parquet's pages."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            text = path.read_bytes()
            # Work files are encrypted.
            if path.suffix == ".parquet" and path.parent.name != "plan":
                table: pa.Table = pq.read_table(path)
                text += repr((table.schema.metadata, table.to_pylist())).encode()
            if WORD in str(path).lower() or WORD.encode() in text.lower():
                at = text.lower().find(WORD.encode())
                found.append(f"{path}: {text[max(0, at - 200) : at + 100]!r}")
    return found


def test_no_secret_appears_in_anything_a_run_writes(
    tmp_path: Path,
    ray_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Table, log, manifests, events, pages, both streams, Ray's own logs; and each command's."""
    _write_input(tmp_path / "in")
    assert _places(tmp_path / "in"), "it would not be found in what a run writes either"
    output = tmp_path / "out" / "table"
    source = {
        "manifest": str(tmp_path / "in" / "manifest.jsonl"),
        "columns": {"id": "id", "image": "image"},
        "carry": ["group"],
        "allow_http": True,
        "allowed_prefixes": "s3://bucket",
        "fetch_timeout_s": 2,
        "documents": str(tmp_path / "in" / "*.pdf"),
        "document": {"password": {"env": "DOCUMENTS_WORD"}},
    }
    job = fake_job(source, str(output)) | {"max_error_fraction": 1.0}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    ours = {"RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.getcwd()}
    for name, value in (ENVIRONMENT | ours).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    said = []

    def run(*arguments: str, code: int = 0) -> None:
        command = [sys.executable, "-m", "tests.quick_ray", "run", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == code, done.stdout + done.stderr
        said.append(done.stdout + done.stderr)

    def dsvl(*arguments: str) -> None:
        assert main.main(arguments) == 0
        said.append("".join(capfd.readouterr()))

    run("job.yaml", "--debug")
    rows = {row["row_id"]: row for row in read_table(str(output)).to_pylist()}
    assert len(rows) == len(ROWS) + 3
    assert rows["good"]["status"] == "ok"
    assert rows[str(tmp_path / "in" / "locked.pdf")]["num_pages"] == 3
    assert rows[str(tmp_path / "in" / "other.pdf")]["error_code"] == "document_encrypted"
    answered = [name for name, row in rows.items() if row["status"] != "error"]
    assert set(answered) == {"good", str(tmp_path / "in" / "locked.pdf")}
    (manifest,) = (output / "_dsvl" / "runs").glob("*.json")
    named = json.loads(manifest.read_text())["job"]["input"]["document"]["password"]
    assert named == {"env": "DOCUMENTS_WORD"}
    dsvl("report", str(output), str(tmp_path / "out" / "page.html"))
    assert (tmp_path / "out" / "page.html").read_text().count(
        "<img"
    ) == 5  # good.jpg twice, 3 pages
    dsvl("export", str(output), str(tmp_path / "out" / "rows.csv"))
    dsvl("compact", str(output))
    for command in ("status", "verify", "versions", "failures"):
        dsvl(command, str(output))
    for row_id in rows:
        if "://" in row_id:
            dsvl("lineage", str(output), row_id)
    # A run that did not end well leaves its work files behind, where workers find what to fetch.
    signed = "\n".join(f"https://127.0.0.1:9/{n}.jpg?{SIGNED}" for n in range(400))
    (tmp_path / "in" / "signed.csv").write_text(f"image\n{signed}\n")
    source |= {"manifest": str(tmp_path / "in" / "signed.csv"), "columns": {"image": "image"}}
    source["document"] = {"password": PASSWORD}
    job |= {"input": source | {"carry": []}, "limits": {"first_rows": 1}}
    job["output"] = {"uri": str(tmp_path / "out" / "stopped"), "rows_per_part": 1}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    run("job.yaml", code=3)
    work = list((tmp_path / "out" / "stopped" / "_dsvl" / "plan").iterdir())
    assert work
    for path in work:
        with pytest.raises(OSError, match="encrypted"):
            pq.read_table(path)
    leaks = [line for text in said for line in text.splitlines() if WORD in line.lower()]
    assert leaks == []
    assert _places(tmp_path / "out") == []
    assert _places(ray_folder) == []
