"""A line of a manifest, of whatever format, and how much of one is read."""

from __future__ import annotations

from typing import Any, NamedTuple

LINES_PER_BATCH = 4096

MAX_LINE_BYTES = 16 << 20

# Values take up to twenty times their text: what is read on after so much waits for the next batch.
MAX_TEXT_BYTES = 16 << 20

MAX_BATCH_BYTES = 64 << 20

# Manifests (ids, URIs, prompts) expand 3 to 30 times; a bomb of 463 bytes makes gigabytes.
MAX_EXPANSION = 1000

MAX_GZIP_EXPANSION = 200

FREE_EXPANSION_BYTES = 64 << 20


class Line(NamedTuple):
    """One line (of Parquet: row) of a manifest file.

    Attributes:
        number: From 1; the header of a CSV file is line 1.
        values: Of the wanted columns, in their order; empty where there is a problem.
        problem: What was found and expected, for people.
    """

    number: int
    values: tuple[Any, ...]
    problem: str | None = None


class UnfitError(ValueError):
    """A value does not fit the type that the files of a manifest have in common.

    Attributes:
        column: Its name.
    """

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(problem)
        self.column = column


BAD_TEXT = object()  # stands for a value that is not valid UTF-8

BAD_TIME = object()  # stands for one that microseconds cannot count
