"""Files and objects that the globs of a job file name, as a sorted stream."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Literal, TypeAlias

from dsvl_pipeline.errors import AccessError, ConfigError
from dsvl_pipeline.keys import content_id_from
from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.file_filter import FileFilter
from dsvl_pipeline.sources.skips import Skips, describe
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.backend import ObjectInfo
from dsvl_pipeline.store.named import Named, resolve
from dsvl_pipeline.store.patterns import escape, split
from dsvl_pipeline.store.uris import as_text, is_local, shown

_NO_FILE = "patterns that name no file"
_OTHERWISE = (
    "fit a pattern that is the name of a file or directory, which alone is meant (put a letter of "
    "it in brackets to mean the pattern: *.pn[g])"
)
_MOST_OTHERWISE = 100
"""Names that are looked at again as patterns; each lists a directory."""

Entry: TypeAlias = tuple[str, ObjectInfo, str | None]
"""URI, file, and why it is not meant; None where it is."""


def find(
    patterns: Sequence[str | Named],
    *,
    setting: str,
    suffixes: tuple[str, ...],
    skips: Skips | None = None,
) -> Iterator[ObjectInfo]:
    """List what patterns name, sorted by URI, each file once however many patterns name it.

    Args:
        patterns: Files, directories (all files below) and globs; see `named.resolve`.
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
    names = FileFilter(pattern, setting=setting, suffixes=suffixes)
    for file in objects.glob_objects(pattern, tells_problems=True):
        yield file.uri, file, file.problem or names.why_not(file.uri)


def _meant(entries: Iterator[Entry], setting: str, skips: Skips) -> Iterator[ObjectInfo]:
    """Yield each file once; one that any pattern means was not passed over."""
    for uri, same in groupby(entries, key=itemgetter(0)):
        _, file, reason = min(same, key=lambda entry: entry[2] is not None)
        if reason is None:
            yield file
        else:
            skips.add(setting, reason, uri, is_readable=file.problem is None)


def _nothing(pattern: str, setting: str, suffixes: tuple[str, ...]) -> str:
    """Explain what there is instead."""
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
    if is_local(place) and not os.path.exists(place):
        why = "is a link to nothing" if os.path.islink(place) else "does not exist"
    elif is_local(place) and not os.path.isdir(place):
        why = "is a pipe, socket or device"
    return f"{setting}: nothing found at {asked}: {shown_place} {why}"
