"""Amounts, and names that somebody may have meant."""

from __future__ import annotations

import pytest

from dsvl_pipeline.wording import hint, nearest

NAMES = ["/data/animals/cat.jpg", "/data/plants/oak.jpg", "/data/plants/rose.jpg", "sku-1007"]


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("oak.jpg", ["/data/plants/oak.jpg"]),
        ("plants/oak.jpg", ["/data/plants/oak.jpg"]),
        ("./OAK.JPG", ["/data/plants/oak.jpg"]),
        ("ose.jpg", ["/data/plants/rose.jpg"]),
        ("sku-107", ["sku-1007"]),
        ("s3://bucket/elsewhere/cat.jpg", ["/data/animals/cat.jpg"]),
        ("sku-1007", []),
        ("invoice.pdf", []),
        ("", []),
    ],
)
def test_the_nearest_names_are_those_that_end_alike_or_look_alike(
    named: str, found: list[str]
) -> None:
    """People write the end of a path, or get a letter wrong."""
    assert nearest(named, NAMES) == found


def test_few_names_are_offered_each_once() -> None:
    """The pages of a document repeat its name, and a folder may hold thousands."""
    names = [f"/{n // 3}/page.png" for n in range(30)]
    assert nearest("page.png", names) == ["/0/page.png", "/1/page.png", "/2/page.png"]
    assert nearest("pag.png", names, most=2) == ["/0/page.png", "/1/page.png"]


def test_a_hint_is_a_question_or_nothing() -> None:
    """It stands in the middle of a message."""
    assert hint("cat.jpg", NAMES) == "did you mean '/data/animals/cat.jpg'? "
    assert hint("invoice.pdf", NAMES) == ""
