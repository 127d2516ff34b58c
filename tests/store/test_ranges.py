"""An object read as a file, piece by piece."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from dsvl_pipeline.store import objects
from dsvl_pipeline.store.ranges import RangeFile

BODY = bytes(range(256)) * 4


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Write an object."""
    objects.put(f"{tmp_path}/x", BODY)
    return f"{tmp_path}/x"


@pytest.mark.parametrize("tail_bytes", [0, 100, 5000])
def test_it_reads_like_the_file_itself(uri: str, tail_bytes: int) -> None:
    """Through a buffer and without, in whatever order."""
    ranges, plain = RangeFile(uri, len(BODY), tail_bytes=tail_bytes), io.BytesIO(BODY)
    buffered = io.BufferedReader(RangeFile(uri, len(BODY), tail_bytes=tail_bytes), 64)
    for file in (ranges, buffered):
        for offset, whence, length in [
            (3, 0, 10),
            (-50, 2, 20),
            (5, 1, 7),
            (900, 0, 900),
            (0, 2, 1),
        ]:
            plain.seek(file.tell())
            assert file.seek(offset, whence) == plain.seek(offset, whence)
            assert file.read(length) == plain.read(length)
        file.seek(0)
        assert file.read() == BODY


def test_its_end_is_fetched_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer is read in small pieces, each of which would be a request."""
    asked: list[tuple[int, int]] = []

    def read_range(uri: str, start: int, length: int, *, etag: str | None) -> bytes:
        asked.append((start, length))
        return BODY[start : start + length]

    monkeypatch.setattr(objects, "read_range", read_range)
    file = RangeFile(uri, len(BODY), tail_bytes=100)
    for back in (8, 60, 100):
        file.seek(-back, io.SEEK_END)
        assert file.read(8) == BODY[len(BODY) - back :][:8]
    file.seek(0)
    assert file.read(4) == BODY[:4]
    assert asked == [(len(BODY) - 100, 100), (0, 4)]
