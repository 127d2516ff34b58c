"""Parts of messages: amounts, and the name that somebody may have meant."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

_MOST_COMPARED = 50_000
"""Beyond so many names only their ends are compared: comparing all letters takes long."""
_CUTOFF = 0.75


def amount(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def nearest(named: str, names: Iterable[str], *, most: int = 3) -> list[str]:
    """Return the names that end in the path that somebody wrote, or else similar names.

    ``photos/a.jpg`` finds ``/data/photos/a.jpg``. If the very name is among them, nothing is
    returned, as no other was meant.

    Args:
        named: What somebody wrote.
        names: All there are, in any number, repeated or not. Read once.
        most: How many to return, the nearest first.
    """
    given = named.removeprefix("./").lstrip("/").lower()
    file = given.rpartition("/")[2]
    ends = dict[str, None]()
    alike = dict[str, float]()
    matcher = difflib.SequenceMatcher(b=file)
    for index, name in enumerate(names):
        if name == named:
            return []
        lower = name.lower()
        if lower == given or lower.endswith(f"/{given}"):
            ends[name] = None
        elif index < _MOST_COMPARED and name not in alike:
            matcher.set_seq1(lower.rpartition("/")[2])
            if (share := _share(matcher)) >= _CUTOFF:
                alike[name] = share
        if len(ends) == most:
            break
    return list(ends) or heapq.nlargest(most, alike, key=alike.__getitem__)


def hint(named: str, names: Iterable[str]) -> str:
    """Return ``did you mean 'a' or 'b'? `` for a message, or an empty text."""
    found = [repr(name) for name in nearest(named, names)]
    return f"did you mean {' or '.join(found)}? " if found else ""


def _share(matcher: difflib.SequenceMatcher[str]) -> float:
    """Return the share of letters that two names have in common, or 0 if it is below the cutoff."""
    for ratio in (matcher.real_quick_ratio, matcher.quick_ratio):
        if ratio() < _CUTOFF:
            return 0.0
    return matcher.ratio()


def duration(seconds: float) -> str:
    """Return the two largest units: ``9 s``, ``3 min 20 s``, ``5 h 10 min``, ``2 d 4 h``."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes == 0:
        return f"{whole} s"
    if hours == 0:
        return f"{minutes} min {whole % 60} s"
    if days == 0:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"
