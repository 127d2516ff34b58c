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


def add_job(parser: argparse.ArgumentParser, *, default_job: str | None = None) -> None:
    """Declare a job file, by place or by name, and settings that win over it.

    Args:
        parser: Extended in place.
        default_job: The job file if none is named; without one, naming one is required.
    """
    job = parser.add_mutually_exclusive_group(required=default_job is None)
    job.add_argument("job", nargs="?", metavar="JOB.yaml", help="the job file")
    job.add_argument(
        "--config",
        metavar="JOB.yaml",
        default=default_job,
        help="the same, as an option" + (f" (default: {default_job})" if default_job else ""),
    )
    add_overrides(parser)


def job_file(args: argparse.Namespace) -> str:
    """Give the job file, however it was named."""
    return args.job or args.config or ""


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Declare settings that win over the job file."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting that wins over the file, e.g. generation.temperature=0.2 (repeatable)",
    )


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
