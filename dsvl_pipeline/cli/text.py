"""Numbers, durations and long texts as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_pipeline.cli.terminal import is_shown_as_it_is, printable


def duration(seconds: float) -> str:
    """Give the two largest units: ``9 s``, ``3 min 20 s``, ``5 h 10 min``, ``2 d 4 h``."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes == 0:
        return f"{whole} s"
    if hours == 0:
        return f"{minutes} min {whole % 60} s"
    if days == 0:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def hours(value: float) -> str:
    """Give ``12.34``; below 1 with two digits that say something, ``0.0042``."""
    return f"{value:,.2f}" if value >= 1 else f"{value:.2g}"


def money(value: float, currency: str) -> str:
    """Give ``12.34 USD``; below 1 with three digits that say something, ``0.00123 USD``."""
    return f"{value:,.2f} {currency}" if value >= 1 else f"{value:.3g} {currency}"


def one_line(text: str) -> str:
    """Keep a name or a message from beginning lines of its own."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shorten(text: str, width: int) -> str:
    """Put a text on one line of at most ``width`` characters, without what acts on a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= width else line[: width - 3] + "..."


def exact_yaml(text: str) -> str:
    """Keep YAML, which is written to be read again, from being changed on its way out.

    Where the terminal would be shown other characters than these, all but ASCII is escaped by YAML
    itself, which means the same.
    """
    if is_shown_as_it_is(text):
        return text
    import yaml

    return str(yaml.safe_dump_all(yaml.safe_load_all(text), sort_keys=False, width=100))


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align rows of texts, each row on one line, two spaces apart."""
    rows = [tuple(map(one_line, cells)) for cells in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
