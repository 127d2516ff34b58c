"""``dsvl export``: a plain copy of a table."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import named_by_user
from dsvl_pipeline.cli.text import amount

HELP = "copy a table's rows into one Parquet, JSONL, CSV or Markdown file"
EPILOG = """\
examples:
  dsvl export out/demo rows.csv
  dsvl export s3://bucket/captions s3://bucket/copies/captions.parquet
  dsvl export out/pages pages.md          one section per input, for people to read

The copy is made in memory. For very large tables read OUT/data directly: it is plain Parquet.
exit codes: 0 written; 2 there is no table, or the destination is wrong; 3 a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.add_argument("dest", metavar="DEST", help="file ending in .parquet, .jsonl, .csv or .md")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Write the copy, say how much it holds."""
    from dsvl_pipeline.report.export import export

    with named_by_user():
        num_rows = export(args.out, args.dest)
    print(f"{amount(num_rows, 'row')} to {args.dest}")
    return 0
