"""Options that several commands take, each declared once, and the values that they check."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dsvl_pipeline.codes import CODES, STAGES
from dsvl_pipeline.errors import ConfigError, NotFoundError
from dsvl_pipeline.wording import hint

Option = Callable[[argparse.ArgumentParser], object]
"""Adds an option, or several that belong together, to a command's parser."""


def option(*names: str, **settings: Any) -> Option:
    """Declare an option or an argument, in the words of `argparse`'s ``add_argument``."""
    return lambda parser: parser.add_argument(*names, **settings)


def job(*, default: str | None = None, is_required: bool = True) -> Option:
    """Declare a job file, as an argument or as an option.

    Args:
        default: The file that is read if none is named.
        is_required: Whether one must be named, if there is no default.
    """
    told = f" (default: {default})" if default else ""

    def add(parser: argparse.ArgumentParser) -> None:
        group = parser.add_mutually_exclusive_group(required=is_required and default is None)
        group.add_argument("job", nargs="?", metavar="JOB.yaml", help="the job file")
        group.add_argument(
            "--config", metavar="JOB.yaml", default=default, help=f"the same, as an option{told}"
        )

    return add


def job_file(args: argparse.Namespace) -> str:
    """Return the job file, however it was named; empty if it was not."""
    return args.job or args.config or ""


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


def _code(name: str) -> str:
    """Refuse what is nearly a code; anything else may be one of a newer version's table."""
    if suggestion := hint(name, CODES):
        raise argparse.ArgumentTypeError(f"{name!r} is no code; {suggestion.rstrip()}")
    return name


def _repeatable(name: str, *, help: str, **settings: Any) -> Option:
    return option(name, action="append", default=[], help=f"{help} (repeatable)", **settings)


TABLE = option("out", metavar="OUT", help="the table: output.uri of its job")
JOB = job()
SET = _repeatable(
    "--set",
    metavar="KEY=VALUE",
    help="a setting that wins over the file, e.g. generation.temperature=0.2",
)
LIMIT = option("--limit", type=positive_int, metavar="N", help="only the first N inputs")
FRESH = option(
    "--fresh", action="store_true", help="compute every row again, also those up to date"
)
CODE = _repeatable("--code", type=_code, metavar="CODE", help="only this code")
STAGE = _repeatable("--stage", choices=STAGES, help="only codes of this stage")
ROW = _repeatable("--row", metavar="ID", help="only the row with this row_id, be it ok or not")
DRY_RUN = option("--dry-run", action="store_true", help="only tell what would be done")

EVERY = (
    option("--json", action="store_true", help="print the result as one line of JSON"),
    option("--quiet", action="store_true", help="no progress, no notes; warnings and errors stay"),
    option("--debug", action="store_true", help="show where an error was raised"),
)
"""What every command takes."""

RUN_CODES = {
    0: "done",
    1: "done, more rows failed than max_error_fraction",
    2: "the job, its input or its output is wrong, nothing was started",
    3: "it could not go on, what was committed is safe",
}
NO_TABLE = "there is no table at OUT"
NO_STORE = "a store failed"


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
