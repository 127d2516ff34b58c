"""Numbers, durations and texts as people read them; none of them acts on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Colours alone do no harm, and Ray marks the lines of its workers by them.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ACTING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls of ASCII and of Latin-1, save tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # which way letters run
    "\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # unseen
    "\ud800-\udfff"  # bytes of a file name that are no UTF-8
    "]"
)


def printable(text: str) -> str:
    r"""Write out what would act on a terminal, or not be seen: ``\x1b``, ``\u202e``.

    Tabs and line feeds stay, and so do the joiners that emoji and some scripts are written with.
    """
    return _ACTING.sub(_written_out, _COLOUR.sub("", text))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def hours(value: float) -> str:
    """Return ``12.34``; below 1 with two digits that say something, ``0.0042``."""
    return f"{value:,.2f}" if value >= 1 else f"{value:.2g}"


def money(value: float, currency: str) -> str:
    """Return ``12.34 USD``; below 1 with three digits that say something, ``0.00123 USD``."""
    return f"{value:,.2f} {currency}" if value >= 1 else f"{value:.3g} {currency}"


def one_line(text: str) -> str:
    """Keep a name or a message from beginning lines of its own."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shorten(text: str, width: int) -> str:
    """Put a text on one line of at most ``width`` characters, without what acts on a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= width else line[: width - 3] + "..."


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align rows of texts, each row on one line, two spaces apart."""
    rows = [tuple(map(one_line, cells)) for cells in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
