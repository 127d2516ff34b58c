"""Which settings of a job name a place, and the one way to make them independent of a directory.

A job is run from one directory, and read by workers, submitted jobs and later reports in others.
Each of them gets what `absolute` gives: paths from the root, with ``~`` replaced, and with the
names of files that hold wildcards spelled so that they stay names. Objects, hub ids and ``demo``
stay as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel

from dsvl_pipeline import hub
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.store.named import Named, resolve
from dsvl_pipeline.store.uris import (
    as_text,
    at_home,
    is_absolute,
    is_local,
    is_object,
    local_path,
)


def _pattern(value: str, setting: str) -> str:
    """Spell what is to be listed; objects are resolved by the run, which may ask the store."""
    return value if is_object(value) else resolve(value, setting=setting).spelling


def absolute_place(value: str, setting: str = "") -> str:
    """Make one place independent of directory and user; it is text, whatever bytes it names.

    Args:
        value: A path or URI, no pattern.
        setting: Where it stands in the job file.
    """
    return as_text(local_path(at_home(value))) if is_local(value) else value


def _checkpoint(value: str, setting: str) -> str:
    return absolute_place(value) if hub.is_path(value) else value


def _whole(value: str, setting: str) -> str:
    return value


class _Make(Protocol):
    def __call__(self, value: str, setting: str) -> str: ...


SETTINGS: Mapping[str, _Make] = {
    "input.manifest": _pattern,
    "input.images": _pattern,
    "input.documents": _pattern,
    "input.allowed_roots": absolute_place,
    "input.allowed_prefixes": _whole,
    "engine.fake.crash_dir": absolute_place,
    "model.checkpoint": _checkpoint,
    "output.uri": absolute_place,
}
"""The settings that name places, and what makes one of them absolute.

The file of a prompt's schema is none: what it holds becomes part of the job when that is read.
"""


def absolute(job: JobConfig) -> JobConfig:
    """Make all that a job names independent of directory and user; no store is asked.

    Raises:
        ConfigError: What is to be listed is neither a path nor an object of a store.
    """
    for key, make in SETTINGS.items():
        job = _with(job, key.split("."), functools.partial(make, setting=key))
    return job


def resolve_patterns(source: InputConfig) -> dict[str, tuple[Named, ...]]:
    """Resolve what of an input's patterns are names; stores are asked, too.

    Raises:
        ConfigError: One of them is neither a path nor an object of a store.
    """
    return {
        name: tuple(resolve(value, setting=f"input.{name}") for value in getattr(source, name))
        for name in ("manifest", "images", "documents")
    }


def absolute_input(
    source: InputConfig, named: Mapping[str, tuple[Named, ...]] | None = None
) -> InputConfig:
    """Make the input alone independent of a directory; patterns in stores are resolved, too.

    Args:
        source: Of the job.
        named: From `resolve_patterns`, where that was called already.

    Raises:
        ConfigError: As `resolve_patterns`.
    """
    named = resolve_patterns(source) if named is None else named
    spellings = {name: tuple(one.spelling for one in found) for name, found in named.items()}
    roots = tuple(map(absolute_place, source.allowed_roots))
    return source.model_copy(update={**spellings, "allowed_roots": roots})


def relative_places(job: JobConfig) -> Iterator[tuple[str, str]]:
    """Yield what is another place in another directory, or for another user: setting and value."""
    for key in SETTINGS:
        value: Any = job
        for name in key.split("."):
            value = getattr(value, name, None)
        for place in (value,) if isinstance(value, str) else value or ():
            is_place = key != "model.checkpoint" or hub.is_path(place)
            if is_place and (at_home(place) != place or not is_absolute(place)):
                yield key, place


def _with(section: Any, keys: Sequence[str], make: Callable[[str], str]) -> Any:
    """Copy a section with one of its settings made anew; give it as it is where nothing changes."""
    name, *inner = keys
    value = getattr(section, name)
    if value is None:
        return section
    if inner:
        found: Any = _with(value, inner, make)
    else:
        found = make(value) if isinstance(value, str) else tuple(map(make, value))
    if found == value:  # what nobody has set stays unset
        return section
    if isinstance(section, BaseModel):
        return section.model_copy(update={name: found})
    return dataclasses.replace(section, **{name: found})
