"""What bytes are that no decoder here takes, by their first few: for messages."""

from __future__ import annotations

import re

_BRANDS = {
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
    ),
    b"crx ": "a camera's raw picture (CR3)",
    **dict.fromkeys((b"isom", b"iso2", b"mp41", b"mp42", b"qt  ", b"M4V "), "a video"),
}
"""Of files in boxes (ISO 14496-12): ``ftyp`` names the kind."""
_STARTS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "a PDF, which input.documents reads"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"AT&TFORM", "DjVu"),
    (b"FUJIFILMCCD-RAW", "a camera's raw picture (RAF)"),
    (b"IIRO", "a camera's raw picture (ORF)"),
    (b"IIU\0", "a camera's raw picture (RW2)"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"icns", "an icon (ICNS)"),
    (b"gimp xcf", "GIMP"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DirectDraw (DDS)"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself"),
)
_SVG = re.compile(rb"<svg\b", re.I)
_PAGE = re.compile(rb"\s*(?:<!doctype html|<html\b|<head\b)", re.I)
_LOOKED_AT = 2048


def kind_of(data: bytes) -> str | None:
    """Name the kind of a file that is no picture of ours; None if it is not known either."""
    start = data[:_LOOKED_AT].removeprefix(b"\xef\xbb\xbf")
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12])
    if start[128:132] == b"DICM":
        return "DICOM"
    for magic, kind in _STARTS:
        if start.startswith(magic):
            return kind
    if _PAGE.match(start):
        return "a web page"
    return "SVG" if _SVG.match(_without_prologue(start)) else None


def _without_prologue(markup: bytes) -> bytes:
    """Return what follows the declaration, doctype and comments of XML; in time linear in them."""
    rest = markup.lstrip()
    while rest.startswith((b"<?", b"<!")):
        end = b"-->" if rest.startswith(b"<!--") else b">"
        rest = rest.partition(end)[2].lstrip()
    return rest
