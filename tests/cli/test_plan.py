"""``dsvl plan``: what it says of files whose pages nobody has counted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dsvl_pipeline.cli.main import main
from dsvl_pipeline.run.explanation import explain
from tests.jobs import fake_job, jpeg, parse

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.mark.parametrize(
    ("tiffs", "documents", "told"),
    [(1, 0, "1 TIFF"), (2, 1, "1 document and 2 TIFFs"), (0, 1, "1 document"), (0, 0, None)],
)
def test_files_whose_pages_are_not_counted_are_called_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiffs: int, documents: int, told: str | None
) -> None:
    """A TIFF is no document, though it may have pages; a picture that has none is neither."""
    (tmp_path / "in").mkdir()
    names = ["a.jpg", *(f"{n}.tif" for n in range(tiffs)), *(f"{n}.pdf" for n in range(documents))]
    for name in names:
        (tmp_path / "in" / name).write_bytes(jpeg(1))
    where = str(tmp_path / "in")
    job = fake_job({"images": where} | ({"documents": where} if documents else {}), "out")
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(job))
    assert main(["plan", str(path)]) == 0
    found = re.findall("among them (.*), whose pages are not counted yet", capsys.readouterr().out)
    assert found == ([told] if told else [])


def test_what_a_tiff_will_become_is_explained(tmp_path: Path) -> None:
    """It is one row until it is opened."""
    (tmp_path / "a.tif").write_bytes(jpeg(1))
    job = fake_job({"images": str(tmp_path)}, str(tmp_path / "out"))
    (found,) = explain(parse(job), str(tmp_path / "a.tif"))
    assert found.details == ("a TIFF: a row for each of its pages, which a run counts",)
