"""What of a user's pattern is the name of something that is there, and what is a wildcard."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dsvl_pipeline.errors import AccessError, ConfigError
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.patterns import encoded, escape, has_magic, split, unencoded, unescape
from dsvl_pipeline.store.uris import (
    as_text,
    at_home,
    decoded,
    encoded_path,
    is_local,
    local_path,
    scheme_of,
    shown,
)


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
        if not is_local(bare) or as_text(bare) == self.pattern:
            return self.pattern
        return "file://" + encoded(self.pattern)


def resolve(pattern: str | Named, *, setting: str = "input") -> Named:
    """Resolve what of a pattern is a name.

    What exists is what is meant, whatever characters its name holds: of ``a[1]/*.png`` in a
    directory ``x*`` both directories are names if they are there, and no wildcards. So are
    objects of a store. What is percent-encoded in a ``file://`` URI is never a wildcard, and
    ``~/`` at the beginning of a bare path is the home directory.

    Raises:
        ConfigError: It is neither a path nor an object of a store.
    """
    if isinstance(pattern, Named):
        return pattern
    if scheme_of(pattern) not in ("file", "s3"):
        raise ConfigError(
            f"{setting}: {shown(pattern)!r} cannot be listed; give paths or s3://BUCKET/KEY"
        )
    parts, num_given = _parts(pattern)
    names = list[str]()
    is_taken = False
    for at, (name, part) in enumerate(parts):
        if part != escape(name):
            if _exists("/".join([*names, name])):
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


def root_of(pattern: str) -> str | None:
    """Return the directory that a local pattern looks into, None for a remote one."""
    if not is_local(pattern):
        return None
    head, tail = split(resolve(pattern).pattern)
    return head if tail or os.path.isdir(head) else os.path.dirname(head)


def prefix_of(pattern: str) -> str:
    """Return the place in a store below which a pattern looks, as `resolve` gives it.

    It ends with a slash where it can be no object, nor the beginning of another name.
    """
    return split(pattern)[0]


def _parts(pattern: str) -> tuple[list[tuple[str, str]], int]:
    """Divide at slashes, each part as the name and the pattern that it may be.

    Returns:
        The parts of the whole, and where those begin that were given: the home or the working
        directory's, with which a relative path begins, are names.
    """
    if not is_local(pattern):
        return [(part, part) for part in pattern.split("/")], 0
    path = encoded_path(pattern)
    if path is not None:
        # Slashes and dots may be encoded, too: parts are divided only when all is decoded.
        name, spelled = decoded(path), unencoded(path)
        if not name.startswith("/"):
            here = local_path(".")
            name, spelled = os.path.join(here, name), os.path.join(escape(here), spelled)
        both = [os.path.normpath(each).split("/") for each in (name, spelled)]
        return list(zip(*both, strict=True)), 0
    whole = at_home(pattern)
    if whole != pattern:
        pattern = pattern.partition("/")[2]
    parts = local_path(whole).split("/")
    given = [part for part in os.path.normpath(pattern).split("/") if part not in (".", "..")]
    return [(part, part) for part in parts], len(parts) - len(given)


def _exists(name: str) -> bool:
    if is_local(name):
        return os.path.lexists(name)
    try:
        return next(objects.list_objects(name), None) is not None
    except AccessError:  # who may list "photos/" may still not ask for "photos/*"
        return False
