"""``dsvl report``: a table as one web page, each picture beside its answers."""

from __future__ import annotations

import argparse
from contextlib import closing

from dsvl_pipeline.cli.arguments import named_by_user
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

HELP = "show a table's rows on one web page, each picture beside its answers"
EPILOG = """\
examples:
  dsvl report out/demo out/demo.html
  dsvl report s3://bucket/captions captions.html

The page holds everything itself. Pictures are read again where they are local files that their run
read, may be read by its settings, and are still the same; else the page says why there is none. Of
large tables the first 500 inputs are shown.
exit codes: 0 written; 2 there is no table, or the destination is wrong; 3 a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.add_argument("dest", metavar="DEST.html", help="the page to write")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Write the page, say how much it shows."""
    from dsvl_pipeline.report.html import write_report
    from dsvl_pipeline.report.pictures import RunPictures

    with named_by_user(), closing(RunPictures(args.out)) as pictures:
        num_rows = write_report(args.out, args.dest, picture=pictures.read)
    print(f"{amount(num_rows, 'row')} on {one_line(args.dest)}")
    return 0
