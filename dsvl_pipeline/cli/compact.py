"""``dsvl compact``: fewer, larger parts."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import named_by_user, positive_int
from dsvl_pipeline.wording import amount

HELP = "merge a table's small parts; its rows stay as they are"
EPILOG = """\
examples:
  dsvl compact out/demo
  dsvl compact s3://bucket/captions --rows-per-part 200000

It takes the table's lease: it is refused while a run is at work, and no run starts meanwhile. Who
reads through read_table sees every row once throughout; read OUT/data itself before or after.
Earlier versions stay readable, and take room, until `dsvl vacuum OUT`.
exit codes: 0 merged, or nothing to merge; 2 there is no table at OUT; 3 a run is at work, a part is
damaged, or a store failed: what the log said before still holds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.add_argument(
        "--rows-per-part",
        type=positive_int,
        metavar="N",
        help="most rows of a merged part (default 50,000)",
    )
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Merge, say what became of how many parts."""
    from dsvl_pipeline.table.compact import ROWS_PER_PART, compact

    with named_by_user():
        done = compact(args.out, rows_per_part=args.rows_per_part or ROWS_PER_PART)
    print(
        f"version {done.version}: {amount(done.num_parts, 'part')}, "
        f"{done.num_parts_before:,} before"
    )
    return 0
