"""Pictures that a caller names: by path or URI, whatever these are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dsvl_pipeline.api.pictures import read


@pytest.mark.parametrize(
    "name", ["scan[1].png", "a#b?c.png", "per%20cent.png", "tab\t.png", "line\n.png", "[.png", "~"]
)
def test_a_picture_is_opened_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a path, absolute or not, and as a URI, in which other characters than ``%`` may stand."""
    Image.new("RGB", (3, 2)).save(tmp_path / name, "PNG")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    for source in (name, path, str(path), path.as_uri(), f"file://{path}".replace("%", "%25")):
        assert read(source).size == (3, 2)


@pytest.mark.parametrize("url", ["http://h/a.png", "HTTPS://h/a.png", "https://[h/a.png"])
def test_nothing_is_fetched(url: str) -> None:
    """The message says what to do instead."""
    with pytest.raises(ValueError, match="download it and give its path"):
        read(url)
