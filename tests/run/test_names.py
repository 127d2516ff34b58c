"""Names of any kind through a whole run, and through the commands that take them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from dsvl_pipeline.cli import main
from dsvl_pipeline.table.reader import read_table
from tests.jobs import fake_job, jpeg

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

NAMES = [
    "scan[1].png",
    "scan1.png",
    "line\nbreak.png",
    "a#b?c=d&token=e.png",
    "per%20cent.png",
    "caf\u00e9.png",
    "cafe\u0301.png",
    os.fsdecode(b"\xff.png"),
]


def test_names_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a directory that looks like a pattern, beside files that are not read."""
    here = tmp_path / "a*[1]"
    (here / ".thumbnails").mkdir(parents=True)
    for number, name in enumerate([*NAMES, ".thumbnails/t.png", "x.heic"]):
        (here / name).write_bytes(jpeg(number))
    monkeypatch.chdir(here)
    job = fake_job({"images": "."}, "out[1]#?") | {"name": "names"}
    Path("job.yaml").write_text(yaml.safe_dump(job))

    def dsvl(*arguments: str) -> str:
        capsys.readouterr()
        assert main.main(list(arguments)) == 0, capsys.readouterr()
        return capsys.readouterr().out

    for said in (dsvl("plan", "job.yaml"), dsvl("run", "job.yaml")):
        assert "skipped of input.images: 3\n" in said  # job.yaml is one
        assert "1: HEIC pictures, which are not read" in said
        assert "/.thumbnails/t.png'" in said
    rows = {row["row_id"]: row for row in read_table("out[1]#?").to_pylist()}
    ids = [f"{here}/{name}" for name in NAMES[:-1]]
    ids.append(f"file://{tmp_path}/a%2A%5B1%5D/%FF.png")
    assert sorted(rows) == sorted(ids)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert all(row["source_uris"] == [row_id] for row_id, row in rows.items())
    for name in (f"{here}/{NAMES[0]}", f"{here}/{NAMES[-1]}", ids[-1], ids[3]):
        assert "answered for the first time" in dsvl("lineage", "out[1]#?", name)
        assert "would not run" in dsvl("plan", "job.yaml", "--explain", name)
    redriven = dsvl("redrive", "job.yaml", "--row", f"{here}/{NAMES[-1]}", "--row", ids[0])
    assert redriven.startswith("2 rows redriven")
    dsvl("report", "out[1]#?", "page [1].html")
    page = Path("page [1].html").read_text(encoding="utf-8")
    assert page.count("<img") == len(NAMES)
    dsvl("export", "out[1]#?", f"file://{tmp_path}/rows%20%5B1%5D.csv")
    assert (tmp_path / "rows [1].csv").exists()
