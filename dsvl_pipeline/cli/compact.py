"""``dsvl compact``: fewer, larger parts."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.options import NO_TABLE, TABLE, named_by_user, option, positive_int
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.wording import amount

EXAMPLES = """\
dsvl compact out/demo
dsvl compact s3://bucket/captions --rows-per-part 200000"""
NOTES = """\
It takes the table's lease: it is refused while a run is at work, and no run starts meanwhile. Who
reads through read_table sees every row once throughout; read OUT/data itself before or after.
Earlier versions stay readable, and take room, until `dsvl vacuum OUT`."""
EXIT_CODES = {
    0: "merged, or nothing to merge",
    2: NO_TABLE,
    3: "a run is at work, a part is damaged, or a store failed: what the log said before holds",
}
OPTIONS = (
    TABLE,
    option(
        "--rows-per-part",
        type=positive_int,
        metavar="N",
        help="most rows of a merged part (default 50,000)",
    ),
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Merge, say what became of how many parts."""
    from dsvl_pipeline.table.compact import ROWS_PER_PART, compact

    with named_by_user():
        done = compact(args.out, rows_per_part=args.rows_per_part or ROWS_PER_PART)
    parts = amount(done.num_parts, "part")
    output.result(done, f"version {done.version}: {parts}, {done.num_parts_before:,} before")
    return 0
