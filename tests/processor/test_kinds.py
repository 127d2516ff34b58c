"""Files that no decoder takes are called by their kind, so that one knows what to do."""

from __future__ import annotations

import pytest

from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.processor import decode
from dsvl_pipeline.processor.kinds import kind_of


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a camera's raw picture (CR3)"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "a video"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7\n", "a PDF, which input.documents reads"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="a">', "SVG"),
        (b"\xef\xbb\xbf <svg>", "SVG"),
        (b"<?xml version='1.0'?><!DOCTYPE svg PUBLIC 'a' 'b'><!--a > b-->\n<SVG width='1'>", "SVG"),
        (b"<!---->" * 250 + b"<svg>", "SVG"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x1f\x8b\x08\0", "compressed with gzip"),
    ],
)
def test_a_file_of_another_kind_is_called_by_it(data: bytes, kind: str) -> None:
    """The message says what it is, and what is read."""
    with pytest.raises(ImageError) as caught:
        decode.decode(data)
    assert caught.value.code == "image_format"
    assert f"({kind}" in str(caught.value)
    assert "accepted are JPEG, PNG" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"hello",
        b"\0\0\0\x18ftypavif",
        b"<p>no",
        b"ftyp" * 99,
        b"<!--",
        b"<!---->" * 250 + b"x",
        b"<?" * 900,
    ],
)
def test_what_is_not_known_is_not_named(data: bytes) -> None:
    """No guess is better than a wrong one."""
    assert kind_of(data) is None
