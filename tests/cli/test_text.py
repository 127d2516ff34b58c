"""Numbers, durations and texts as people read them."""

from __future__ import annotations

import pytest

from dsvl_pipeline.cli.text import columns, shorten
from dsvl_pipeline.wording import amount, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-1, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (180000, "2 d 2 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    """An ETA of a long run must not show seconds."""
    assert duration(seconds) == text


def test_amounts_agree_with_their_noun() -> None:
    """One row, two rows."""
    assert [amount(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_shortened_texts_fit_and_cannot_move_the_cursor() -> None:
    """A model can be made to answer with escape sequences; a terminal must not obey them."""
    assert shorten("\x1b[2J\x1b[Hgone\n\nand\tback\x9b5A", 80) == "[2J [Hgone and back 5A"
    assert shorten("a" * 20, 10) == "aaaaaaa..."
    assert shorten("a" * 10, 10) == "a" * 10


def test_columns_line_up() -> None:
    """Also where the last cell is short: no spaces at the end of a line."""
    assert columns([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]
