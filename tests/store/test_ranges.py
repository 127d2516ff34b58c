"""An object that is read in ranges is like any other file."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from dsvl_pipeline.errors import NotFoundError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.ranges import RangeFile


@pytest.mark.parametrize("tail_bytes", [0, 100, 5000])
def test_any_seek_and_read_gives_the_files_bytes(tmp_path: Path, tail_bytes: int) -> None:
    """Across the place where the tail begins, too, and beyond the end."""
    draw = random.Random(tail_bytes)
    body = draw.randbytes(1000)
    path = tmp_path / "object"
    path.write_bytes(body)
    file, same = RangeFile(str(path), len(body), tail_bytes=tail_bytes), io.BytesIO(body)
    for _ in range(200):
        whence = draw.choice([io.SEEK_SET, io.SEEK_END])
        offset = draw.randrange(1100) if whence == io.SEEK_SET else -draw.randrange(1000)
        assert file.seek(offset, whence) == same.seek(offset, whence)
        size = draw.choice([-1, 0, 1, 50, 2000])
        assert file.read(size) == same.read(size)
        assert file.tell() == same.tell()
    assert io.BufferedReader(RangeFile(str(path), len(body))).read() == body


def test_the_tail_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Parquet file's end is read in several pieces, which must not be a request each."""
    path = tmp_path / "object"
    path.write_bytes(bytes(1000))
    asked = list[tuple[int, int]]()
    read_range = objects.read_range

    def noted(uri: str, start: int, length: int, *, etag: str | None) -> bytes:
        asked.append((start, length))
        return read_range(uri, start, length, etag=etag)

    monkeypatch.setattr(objects, "read_range", noted)
    file = RangeFile(str(path), 1000, tail_bytes=300)
    for offset in (-8, -300, -100):
        file.seek(offset, io.SEEK_END)
        file.read(8)
    assert asked == [(700, 300)]


def test_what_is_not_there_is_told_before_it_is_read(tmp_path: Path) -> None:
    """A part may have left the table; the reader then looks for its copy."""
    with pytest.raises(NotFoundError):
        RangeFile(str(tmp_path / "object"), 10, tail_bytes=5)
