"""What of a pattern is a name, and where its wildcards begin."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

from fsspec.utils import glob_translate

_MAGIC = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\[([*?\[])\]")
_ENCODED = re.compile(r"%(?:2A|3F|5B)", re.IGNORECASE)


def escape(name: str) -> str:
    """Spell a name as a pattern that matches nothing else."""
    return _MAGIC.sub(r"[\g<0>]", name)


def unescape(part: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(r"\1", part)


def encoded(pattern: str) -> str:
    """Spell a pattern as the path of a URI, in which its wildcards alone stand bare."""
    texts = _ESCAPED.split(pattern)  # every second one is an escaped character
    safe = ("/*?[", "/")
    return "".join(quote(os.fsencode(text), safe=safe[at % 2]) for at, text in enumerate(texts))


def unencoded(path: str) -> str:
    """Undo `encoded`: what stands bare in the path of a URI are wildcards, the rest is names."""
    return os.fsdecode(unquote_to_bytes(os.fsencode(_ENCODED.sub(r"%5B\g<0>%5D", path))))


def has_magic(part: str) -> bool:
    """Return whether there are wildcards, escaped ones aside."""
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


def regex(pattern: str, *, below: str = "") -> re.Pattern[str]:
    """Compile a pattern; ``*``, ``?`` and ``[...]`` match no slash, ``**`` any number of parts.

    Args:
        pattern: As `split` gives what lies below a directory.
        below: Stands before it, and means itself.

    Raises:
        ValueError: ``**`` is only a part of a path component.
    """
    return re.compile(re.escape(below) + glob_translate(pattern))


def literal_start(pattern: str) -> str:
    """Return the characters before the first wildcard or escape."""
    return _MAGIC.split(pattern, maxsplit=1)[0]
