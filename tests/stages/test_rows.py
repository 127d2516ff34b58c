"""Pixels must cross the object store without a copy and come out as they went in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dsvl_pipeline.records import ImageInput
from dsvl_pipeline.stages.rows import image_columns, images_of


def _image(seed: int, *, is_hybrid: bool) -> ImageInput:
    random = np.random.default_rng(seed)
    return ImageInput(
        digest=bytes([seed]),
        high_res=random.integers(0, 256, (8, 8, 3), np.uint8) if is_hybrid else None,
        low_res=random.integers(0, 256, (4, 4, 3), np.uint8),
    )


@pytest.mark.parametrize("is_hybrid", [True, False])
@pytest.mark.parametrize("counts", [(1, 1, 1), (0, 3, 1), (0, 0), (2,)])
def test_images_survive_the_round_trip(counts: tuple[int, ...], is_hybrid: bool) -> None:
    """Any number of images a row, for both families."""
    numbers = iter(range(99))
    rows = [
        tuple(_image(next(numbers), is_hybrid=is_hybrid) for _ in range(count)) for count in counts
    ]
    found = images_of(pa.table(image_columns(rows)))
    assert [len(row) for row in found] == list(counts)
    for one, other in zip(sum(rows, ()), sum(found, ()), strict=True):
        assert one.digest == other.digest
        np.testing.assert_array_equal(one.low_res, other.low_res)
        if is_hybrid:
            np.testing.assert_array_equal(one.high_res, other.high_res)
        else:
            assert other.high_res is None


def test_reading_pixels_copies_nothing() -> None:
    """The arrays an engine gets are views of the block's own buffer."""
    table = pa.table(image_columns([(_image(0, is_hybrid=True),)]))
    buffer = table["high_res"].chunk(0).values.values.buffers()[1]
    (images,) = images_of(table)
    assert images[0].high_res is not None
    assert images[0].high_res.ctypes.data == buffer.address
