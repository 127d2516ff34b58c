"""Image files as rows: what ``input.images`` names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsvl_pipeline.records import Row
from dsvl_pipeline.sources.listing import file_rows, find
from dsvl_pipeline.sources.skips import Skips
from dsvl_pipeline.store.named import Named
from dsvl_pipeline.store.uris import scheme_of

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
    ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip


def image_rows(
    patterns: Sequence[str | Named], *, num_carried: int = 0, skips: Skips | None = None
) -> Iterator[Row]:
    """Make a row of each image that the patterns name, sorted by URI.

    Raises:
        ConfigError: They name nothing (at once, not when the rows are read).
    """
    files = find(patterns, setting="input.images", suffixes=SUFFIXES, skips=skips)
    return file_rows(files, "image", num_carried)


def may_have_pages(uri: str) -> bool:
    """Return whether an image is a TIFF by its name; it may have several pages."""
    if "?" in uri and scheme_of(uri) in ("http", "https"):
        uri = uri.partition("?")[0]  # what names no host may stand there, and is refused later
    return uri[-5:].lower().endswith((".tif", ".tiff"))
