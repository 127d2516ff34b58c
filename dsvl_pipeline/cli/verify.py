"""``dsvl verify``: proof that a table holds every row once."""

from __future__ import annotations

import argparse

HELP = "check the log against the parts: hashes, counts, every row once, rows in = rows out"
EPILOG = """\
examples:
  dsvl verify out/demo

It reads every part.
exit codes: 0 all checks hold; 1 one does not; 2 there is no table at OUT; 3 a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Check, print each finding."""
    from dsvl_pipeline.table.reader import verify

    raise NotImplementedError(verify)
