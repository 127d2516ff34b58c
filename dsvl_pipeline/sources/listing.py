"""Files and objects that the globs of a job file name, as a sorted stream."""

from __future__ import annotations

import heapq
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any, BinaryIO, Literal, TypeAlias, cast

from fsspec.utils import glob_translate

from dsvl_pipeline.errors import AccessError, ConfigError
from dsvl_pipeline.keys import content_id_from
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.skips import Skips, describe
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.patterns import encoded, escape, has_magic, split, unencoded, unescape
from dsvl_pipeline.store.uris import as_text, decoded, encoded_path, local_path, scheme_of, shown

MAX_WHOLE_BYTES = 64 << 20
RANGE_BYTES = 8 << 20
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
_NO_FILE = "patterns that name no file"
_OTHERWISE = (
    "fit a pattern that is the name of a file or directory, which alone is meant (put a letter of "
    "it in brackets to mean the pattern: *.pn[g])"
)
_MOST_OTHERWISE = 100
"""Names that are looked at again as patterns; each lists a directory."""
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

Entry: TypeAlias = tuple[str, ObjectInfo, str | None]
"""URI, file, and why it is not meant; None where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a spelling in a job file means here and now.

    Attributes:
        pattern: Absolute, with the wildcards escaped that are part of a name.
        otherwise: The pattern that it would be, had nothing that name; None where that is the same.
    """

    pattern: str
    otherwise: str | None = None

    @property
    def spelling(self) -> str:
        """Spell it for a job file: as text, and so that what is a name stays one anywhere.

        There are other files elsewhere, and later; a wildcard becomes a name there if something
        is called as its part of the path. Objects are resolved once and for all.
        """
        bare = unescape(self.pattern)
        if scheme_of(bare) != "file" or as_text(bare) == self.pattern:
            return self.pattern
        return "file://" + encoded(self.pattern)


def resolve(pattern: str | Named, *, setting: str = "input") -> Named:
    """Find out what of a pattern is a name.

    What exists is what is meant, whatever characters its name holds: of ``a[1]/*.png`` in a
    directory ``x*`` both directories are names if they are there, and no wildcards. So are
    objects of a store. What is percent-encoded in a ``file://`` URI is never a wildcard.

    Raises:
        ConfigError: It is neither a path nor an object of a store.
    """
    if isinstance(pattern, Named):
        return pattern
    if scheme_of(pattern) not in ("file", "s3"):
        raise ConfigError(
            f"{setting}: {shown(pattern)!r} cannot be listed; give paths or s3://BUCKET/KEY"
        )
    is_local = scheme_of(pattern) == "file"
    parts, num_given = _parts(pattern)
    names = list[str]()
    is_taken = False
    for at, (name, part) in enumerate(parts):
        if part != escape(name):
            if _exists("/".join([*names, name]), is_local):
                is_taken |= at >= num_given
            elif has_magic(part):
                break
            else:
                name = unescape(part)
        names.append(name)
    otherwise = [escape(name) for name, _ in parts[:num_given]]
    otherwise += [part for _, part in parts[num_given:]]
    return Named(
        pattern="/".join([*map(escape, names), *(part for _, part in parts[len(names) :])]),
        otherwise="/".join(otherwise) if is_taken else None,
    )


def _parts(pattern: str) -> tuple[list[tuple[str, str]], int]:
    """Divide at slashes, each part as the name and the pattern that it may be.

    Returns:
        The parts of the whole, and where those begin that were given: the working directory's,
        with which a relative path begins, are names.
    """
    if scheme_of(pattern) != "file":
        return [(part, part) for part in pattern.split("/")], 0
    path = encoded_path(pattern)
    if path is not None:
        # Slashes and dots may be encoded, too: parts are divided only when all is decoded.
        name, spelled = decoded(path), unencoded(path)
        if not name.startswith("/"):
            here = os.getcwd()
            name, spelled = os.path.join(here, name), os.path.join(escape(here), spelled)
        both = [os.path.normpath(each).split("/") for each in (name, spelled)]
        return list(zip(*both, strict=True)), 0
    parts = local_path(pattern).split("/")
    given = [part for part in os.path.normpath(pattern).split("/") if part not in (".", "..")]
    return [(part, part) for part in parts], len(parts) - len(given)


def find(
    patterns: Sequence[str | Named],
    *,
    setting: str,
    suffixes: tuple[str, ...],
    skips: Skips | None = None,
) -> Iterator[ObjectInfo]:
    """List what patterns name, sorted by URI, each file once however many patterns name it.

    Args:
        patterns: Files, directories (all files below) and globs, local or ``s3://``; see `resolve`.
        setting: Where the patterns stand in the job file, for messages.
        suffixes: What counts in directories and in globs whose last part names no suffix.
        skips: Takes what is passed over: hidden files, those of other types, what cannot be read.

    Raises:
        ConfigError: Nothing at all was found (at once, not when the stream is read).
    """
    skips = skips if skips is not None else Skips()
    named = [resolve(pattern, setting=setting) for pattern in patterns]
    resolved = [one.pattern for one in named]
    otherwise = [one.otherwise for one in named if one.otherwise is not None]
    lists = [_list(pattern, setting, suffixes, skips) for pattern in resolved]
    lists += [_list_otherwise(one, setting, suffixes) for one in otherwise[:_MOST_OTHERWISE]]
    found = _meant(heapq.merge(*lists, key=itemgetter(0)), setting, skips)
    first = next(found, None)
    if first is None:
        nothing = [_nothing(pattern, setting, suffixes) for pattern in resolved]
        passed_over = [one for one in skips.report() if one.reason != _NO_FILE]
        raise ConfigError("; ".join([*nothing, *([describe(passed_over)] if passed_over else [])]))
    return chain([first], found)


def file_rows(
    files: Iterator[ObjectInfo], kind: Literal["image", "document"], num_carried: int
) -> Iterator[Row]:
    """Make a row of each file; its id is its URI, its content what the listing says of it.

    Args:
        files: From `find`.
        kind: What they are.
        num_carried: Columns that a manifest in the same job carries; files have none of them.
    """
    for file in files:
        uri = as_text(file.uri)
        yield Row(
            row_id=objects.name_of(uri),
            kind=kind,
            sources=(uri,),
            content_id=content_id_from(
                uri=uri, etag=file.etag, size=file.size, mtime_ns=file.mtime_ns
            ),
            carry=(None,) * num_carried,
        )


def open_file(file: ObjectInfo) -> BinaryIO:
    """Open a manifest for reading, seekable.

    A local file is read as it is needed. So is a large object, by ranges that are retried each;
    a small one is fetched whole, which lets its bytes be compared with their MD5.
    """
    if scheme_of(file.uri) != "file":
        if file.size <= MAX_WHOLE_BYTES:
            return io.BytesIO(objects.read(file.uri, max_bytes=MAX_WHOLE_BYTES))
        return cast("BinaryIO", io.BufferedReader(_Ranges(file), RANGE_BYTES))
    try:
        return open(local_path(file.uri), "rb")
    except OSError as error:
        raise ConfigError(
            f"manifest {shown(file.uri)} cannot be opened: {error.strerror}"
        ) from None


def meaning(pattern: str, *, setting: str, suffixes: tuple[str, ...]) -> Callable[[str], bool]:
    """Give a test that tells of the URI of a file whether `find` would give it.

    Args:
        pattern: As `resolve` gives it. A malformed one, which `find` refuses, means nothing.
        setting: As for `find`.
        suffixes: As for `find`.
    """
    head, tail = split(pattern)
    place = re.escape(head if tail else head.rstrip("/"))
    try:
        wanted = re.compile(place + (glob_translate(tail) if tail else "/"))
    except ValueError:
        return lambda _uri: False
    is_aside = _aside_in(setting)

    def means(uri: str) -> bool:
        if not tail and uri == head:
            return True
        if not wanted.match(uri):
            return False
        return _reason_against(_below(head, tail, uri), tail, suffixes, is_aside) is None

    return means


def root_of(pattern: str) -> str | None:
    """Give the directory that a local pattern looks into, None for a remote one."""
    if scheme_of(pattern) != "file":
        return None
    head, tail = split(resolve(pattern).pattern)
    return head if tail or os.path.isdir(head) else os.path.dirname(head)


def prefix_of(pattern: str) -> str:
    """Give the place in a store below which a pattern looks, as `resolve` gives it.

    It ends with a slash where it can be no object, nor the beginning of another name.
    """
    return split(pattern)[0]


class _Ranges(io.RawIOBase):
    """An object whose bytes are fetched as they are asked for, all of the version that was listed.

    Raises:
        StorageError: When reading: it has been replaced since.
    """

    def __init__(self, file: ObjectInfo) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        length = min(len(buffer), self._file.size - self._at)
        if length <= 0:
            return 0
        data = objects.read_range(self._file.uri, self._at, length, etag=self._file.etag)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _exists(name: str, is_local: bool) -> bool:
    if is_local:
        return os.path.lexists(name)
    try:
        return next(objects.list_objects(name), None) is not None
    except AccessError:  # who may list "photos/" may still not ask for "photos/*"
        return False


def _list(pattern: str, setting: str, suffixes: tuple[str, ...], skips: Skips) -> Iterator[Entry]:
    num_meant = 0
    for entry in _entries(pattern, setting, suffixes):
        num_meant += entry[2] is None
        yield entry
    if not num_meant:
        skips.add(setting, _NO_FILE, "".join(split(pattern)))


def _list_otherwise(pattern: str, setting: str, suffixes: tuple[str, ...]) -> Iterator[Entry]:
    """List what a name would mean as a pattern, as not meant."""
    # It was not written as a pattern, nor may everybody list what it would need.
    with suppress(AccessError, ConfigError):
        for uri, file, reason in _entries(pattern, setting, suffixes):
            if reason is None:
                yield uri, file, _OTHERWISE


def _entries(pattern: str, setting: str, suffixes: tuple[str, ...]) -> Iterator[Entry]:
    head, tail = split(pattern)
    is_aside = _aside_in(setting)
    for file in objects.glob_objects(pattern, tells_problems=True):
        if file.problem is not None:
            reason: str | None = file.problem
        elif not tail and file.uri == head:
            reason = None
        else:
            reason = _reason_against(_below(head, tail, file.uri), tail, suffixes, is_aside)
        yield file.uri, file, reason


def _meant(entries: Iterator[Entry], setting: str, skips: Skips) -> Iterator[ObjectInfo]:
    """Give each file once; one that any pattern means was not passed over."""
    for uri, same in groupby(entries, key=itemgetter(0)):
        _, file, reason = min(same, key=lambda entry: entry[2] is not None)
        if reason is None:
            yield file
        else:
            skips.add(setting, reason, uri, is_readable=file.problem is None)


def _below(head: str, tail: str, uri: str) -> str:
    return uri.removeprefix(head).removeprefix("/" * (not tail))


def _aside_in(setting: str) -> list[re.Pattern[str]]:
    return [_ASIDE, _ASIDE_MANIFEST] if setting == "input.manifest" else [_ASIDE]


def _reason_against(
    path: str, tail: str, suffixes: tuple[str, ...], is_aside: Sequence[re.Pattern[str]]
) -> str | None:
    """Say why a file that a directory or glob holds is not meant; None if it is."""
    if any(aside.search(path) for aside in is_aside):
        parts = (tail or "**").split("/")
        if not _names(parts, path.split("/"), is_aside):
            return _SET_ASIDE
    name = path.rpartition("/")[2]
    if name.lower().endswith(suffixes) or "." in tail.rpartition("/")[2]:
        return None
    suffix = os.path.splitext(name)[1]
    if name.rstrip().lower().endswith(suffixes):
        return f"names that end in white space ({suffix!r}; rename them, or name them one by one)"
    if kind := _PICTURES.get(suffix.lower()):
        return (
            f"{kind} pictures, which are not read ({suffix.lower()}; convert them to JPEG or PNG)"
        )
    return f"unknown type {shown(suffix[:20])}" if suffix else "no suffix"


def _names(
    pattern: Sequence[str], path: Sequence[str], is_aside: Sequence[re.Pattern[str]]
) -> bool:
    """Tell whether a pattern names the parts of a path that are set aside: by their first letter.

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
    return re.compile(glob_translate(part))


def _nothing(pattern: str, setting: str, suffixes: tuple[str, ...]) -> str:
    """Say what there is instead, for a message."""
    place, tail = split(pattern)
    others = objects.glob_objects(escape(place), tells_problems=True)
    readable = (file for file in others if file.problem is None)
    names = [shown(file.uri.removeprefix(place)) for file in islice(readable, 3)]
    asked, shown_place = shown(place + tail), shown(place)
    if names:
        return (
            f"{setting}: nothing found at {asked}; {shown_place} holds others, e.g. "
            f"{', '.join(names)}; known suffixes are {', '.join(suffixes)}, and a glob may name "
            "another (*.xyz)"
        )
    why = "holds no file"
    if scheme_of(place) == "file" and not os.path.exists(place):
        why = "is a link to nothing" if os.path.islink(place) else "does not exist"
    elif scheme_of(place) == "file" and not os.path.isdir(place):
        why = "is a pipe, socket or device"
    return f"{setting}: nothing found at {asked}: {shown_place} {why}"
