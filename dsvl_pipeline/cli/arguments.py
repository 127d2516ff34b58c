"""What the user wrote on the command line, checked."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from dsvl_pipeline.errors import ConfigError, NotFoundError


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1 up")
    return int(text)


def whole_number(text: str) -> int:
    """Read a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0 up")
    return int(text)


@contextmanager
def named_by_user() -> Iterator[None]:
    """Make what is missing a mistake of the command line, where the user named it himself.

    Raises:
        ConfigError: Instead of `NotFoundError`, which is the store's fault anywhere else.
    """
    try:
        yield
    except NotFoundError as error:
        raise ConfigError(str(error)) from error
