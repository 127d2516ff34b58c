"""``dsvl report``: a table as one web page, each picture beside its answers."""

from __future__ import annotations

import argparse
from contextlib import closing

from dsvl_pipeline.cli.options import NO_STORE, TABLE, named_by_user, option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

EXAMPLES = """\
dsvl report out/demo out/demo.html
dsvl report s3://bucket/captions captions.html"""
NOTES = """\
The page holds everything itself. Pictures are read again where they are local files that their run
read, may be read by its settings, and are still the same. Else the page says why there is none. Of
large tables the first 500 inputs are shown."""
EXIT_CODES = {0: "written", 2: "there is no table, or the destination is wrong", 3: NO_STORE}
OPTIONS = (TABLE, option("dest", metavar="DEST.html", help="the page to write"))


def execute(args: argparse.Namespace, output: Output) -> int:
    """Write the page, say how much it shows."""
    from dsvl_pipeline.report.html import write_report
    from dsvl_pipeline.report.pictures import RunPictures

    with named_by_user(), closing(RunPictures(args.out)) as pictures:
        num_rows = write_report(args.out, args.dest, picture=pictures.read)
    shown = f"{amount(num_rows, 'row')} on {one_line(args.dest)}"
    output.result({"num_rows": num_rows, "written": args.dest}, shown)
    return 0
