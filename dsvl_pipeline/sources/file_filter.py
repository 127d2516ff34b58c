"""Which files of a directory or pattern are meant, by their names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from dsvl_pipeline.store.patterns import regex, split
from dsvl_pipeline.store.uris import last_part, shown

# What file managers, cameras, cloud drives and engines put beside the files of their users. Of
# directories also those whose name begins with "_": Spark keeps unfinished copies there; a file
# may be called so by a camera (_DSC0001.JPG). Columns of a partitioned table may be as well.
_ASIDE = re.compile(
    r"(?:^|/)(?:\.(?!\.?(?:/|$))|_[^/=]*/"
    r"|(?i:@eaDir|@Recycle|@Recently-Snapshot|@tmp|#recycle|#snapshot|~snapshot"
    r"|\$RECYCLE\.BIN|RECYCLER|lost\+found|System Volume Information)/)"
)
_ASIDE_MANIFEST = re.compile(r"(?:^|/)_[^/=]*$")
_SET_ASIDE = "hidden or set aside (a part of the path that no pattern names: .NAME, _NAME/, @eaDir)"
_PICTURES = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), "JPEG XR"),
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef"),
        "camera raw",
    ),
    **dict.fromkeys((".psd", ".psb"), "Photoshop"),
    **dict.fromkeys((".svg", ".svgz"), "SVG"),
    **dict.fromkeys((".eps", ".ai"), "PostScript"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".djvu", ".djv"), "DjVu"),
    **dict.fromkeys((".wmf", ".emf"), "Windows metafile"),
    **{f".{n}": n.upper() for n in ("exr", "hdr", "tga", "dds", "ico", "icns", "pcx", "xcf")},
}
"""Pictures that nobody here can read, by suffix."""


class FileFilter:
    """Tells which of the files that a pattern finds are meant.

    Args:
        pattern: As `named.resolve` gives it. A malformed one, which `listing.find` refuses, means
            nothing.
        setting: Where the pattern stands in the job file.
        suffixes: What counts in directories and in patterns whose last part names no suffix.
    """

    def __init__(self, pattern: str, *, setting: str, suffixes: tuple[str, ...]) -> None:
        self._head, self._tail = split(pattern)
        self._suffixes = suffixes
        self._aside = [_ASIDE, _ASIDE_MANIFEST] if setting == "input.manifest" else [_ASIDE]
        self._wanted: re.Pattern[str] | None = None
        with suppress(ValueError):
            self._wanted = regex(self._tail, below=self._head) if self._tail else None

    def means(self, uri: str) -> bool:
        """Return whether `listing.find` would give a file."""
        if not self._tail:
            is_found = uri == self._head or uri.startswith(self._head.rstrip("/") + "/")
        else:
            is_found = self._wanted is not None and self._wanted.match(uri) is not None
        return is_found and self.why_not(uri) is None

    def why_not(self, uri: str) -> str | None:
        """Explain why a file that the pattern finds is not meant; None if it is."""
        if not self._tail and uri == self._head:
            return None
        path = uri.removeprefix(self._head).removeprefix("/" * (not self._tail))
        if any(aside.search(path) for aside in self._aside):
            parts = (self._tail or "**").split("/")
            if not _names(parts, path.split("/"), self._aside):
                return _SET_ASIDE
        name = last_part(path)
        if name.lower().endswith(self._suffixes) or "." in last_part(self._tail):
            return None
        suffix = os.path.splitext(name)[1]
        if name.rstrip().lower().endswith(self._suffixes):
            return (
                f"names that end in white space ({suffix!r}; rename them, or name them one by one)"
            )
        if kind := _PICTURES.get(suffix.lower()):
            return (
                f"{kind} pictures, which are not read ({suffix.lower()}; convert them to JPEG or "
                "PNG)"
            )
        return f"unknown type {shown(suffix[:20])}" if suffix else "no suffix"


def _names(
    pattern: Sequence[str], path: Sequence[str], is_aside: Sequence[re.Pattern[str]]
) -> bool:
    """Return whether a pattern names the parts of a path that are set aside: by their first letter.

    As in a shell, where ``*`` matches no name with a dot in front and ``.*`` does.
    """
    reached = {0}  # places in the pattern that the path so far leads to
    for depth, name in enumerate(path):
        reached |= {at + 1 for at in reached if pattern[at : at + 1] == ["**"]}
        part = name if depth == len(path) - 1 else f"{name}/"
        is_plain = not any(aside.search(part) for aside in is_aside)
        before, reached = reached, set()
        for at in before:
            if at == len(pattern):
                continue
            if pattern[at] == "**":
                reached |= {at} if is_plain else set()
            elif _matcher(pattern[at]).match(name) and (is_plain or pattern[at][:1] == name[:1]):
                reached.add(at + 1)
    reached |= {at + 1 for at in reached if pattern[at : at + 1] == ["**"]}
    return len(pattern) in reached


@lru_cache(maxsize=64)
def _matcher(part: str) -> re.Pattern[str]:
    return regex(part)
