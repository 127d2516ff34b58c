"""What messages have in common: amounts, and the name that somebody may have meant."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

_MOST_COMPARED = 50_000
"""Of more names only those are found that end alike: comparing letters takes its time."""
_CUTOFF = 0.75


def amount(count: int, noun: str) -> str:
    """Give ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def nearest(named: str, names: Iterable[str], *, most: int = 3) -> list[str]:
    """Find the names that end as a path does (``a.jpg``, ``photos/a.jpg``), else alike ones.

    Where the very name is among them, no other was meant.

    Args:
        named: What somebody wrote.
        names: All there are, in any number, also repeated. Read once.
        most: So many at most, the nearest first.
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
    """Give ``did you mean 'a' or 'b'? `` for a message; nothing where no name is near."""
    found = [repr(name) for name in nearest(named, names)]
    return f"did you mean {' or '.join(found)}? " if found else ""


def _share(matcher: difflib.SequenceMatcher[str]) -> float:
    """Give the share of letters that two names have in common; 0 where it is surely too small."""
    for ratio in (matcher.real_quick_ratio, matcher.quick_ratio):
        if ratio() < _CUTOFF:
            return 0.0
    return matcher.ratio()
