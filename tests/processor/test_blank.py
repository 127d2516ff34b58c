"""Blank pages, which no model is asked about, and pages that hold but little."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.blank import BLANK, NOT_BLANK
from dsvl_pipeline.processor.blank import is_blank


@pytest.mark.parametrize("name", BLANK)
def test_an_empty_page_is_blank_whatever_the_scanner_made_of_it(name: str) -> None:
    """Models asked about one invent prose."""
    # Small pages: they are made sooner, and dust is no smaller on them.
    assert is_blank(BLANK[name](0.7, np.random.default_rng(7)))


@pytest.mark.parametrize("name", NOT_BLANK)
def test_a_page_with_little_on_it_is_not_blank(name: str) -> None:
    """A page that is taken for blank is lost without an error."""
    assert not is_blank(NOT_BLANK[name](1.0, np.random.default_rng(7)))


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (40, 7), (64, 64)])
def test_pages_of_any_size_are_judged(size: tuple[int, int]) -> None:
    """Slivers and thumbnails have no margins to speak of."""
    assert is_blank(Image.new("RGB", size, (200, 190, 170)))
    half = Image.new("RGB", size, "white")
    half.paste((0, 0, 0), (0, 0, size[0], size[1] // 2))
    assert is_blank(half) == (size == (1, 1))
