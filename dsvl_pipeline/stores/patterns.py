"""What of a pattern is a name, and where its wildcards begin."""

from __future__ import annotations

import re

_MAGIC = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\[([*?\[])\]")


def escape(name: str) -> str:
    """Spell a name as a pattern that matches nothing else."""
    return _MAGIC.sub(r"[\g<0>]", name)


def unescape(part: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(r"\1", part)


def has_magic(part: str) -> bool:
    """Tell whether there are wildcards, escaped ones aside."""
    return _MAGIC.search(_ESCAPED.sub("", part)) is not None


def split(pattern: str) -> tuple[str, str]:
    """Divide a pattern into the directory that it names and what it looks for there.

    Returns:
        The literal part, with a slash at its end, and the pattern below it; the whole name and
        an empty string where there are no wildcards.
    """
    parts = pattern.split("/")
    for at, part in enumerate(parts):
        if has_magic(part):
            return "".join(f"{unescape(name)}/" for name in parts[:at]), "/".join(parts[at:])
    return unescape(pattern), ""


def literal_start(pattern: str) -> str:
    """Give the characters before the first wildcard or escape."""
    return _MAGIC.split(pattern, maxsplit=1)[0]
