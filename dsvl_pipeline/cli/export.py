"""``dsvl export``: a plain copy of a table."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.options import NO_STORE, TABLE, named_by_user, option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

EXAMPLES = """\
dsvl export out/demo rows.csv
dsvl export s3://bucket/captions s3://bucket/copies/captions.parquet
dsvl export out/pages pages.md          # one section per input, for people to read
dsvl export out/demo rows.csv --spreadsheet"""
NOTES = """\
CSV is RFC 4180 in UTF-8: every text is in quotes and exact, line ends and NUL included; null is
nothing, an empty text is "". Readers guess types: to get what was written, give them the types, and
  csv      open(path, newline="", encoding="utf-8"); null and "" are one to it
  pandas   read_csv(path, dtype=str, keep_default_na=False); likewise
  pyarrow  ParseOptions(newlines_in_values=True), ConvertOptions(strings_can_be_null=True,
           quoted_strings_can_be_null=False, null_values=[""])
  DuckDB   read_csv(path, header=true, all_varchar=true, allow_quoted_nulls=false)
Spreadsheets run what begins with =, +, - or @. --spreadsheet puts an apostrophe before such texts
and before those that begin with a tab or a line end; their values are then no longer exact.

The copy is made in memory. For very large tables read OUT/data directly: it is plain Parquet."""
EXIT_CODES = {0: "written", 2: "there is no table, or the destination is wrong", 3: NO_STORE}
OPTIONS = (
    TABLE,
    option("dest", metavar="DEST", help="file ending in .parquet, .jsonl, .csv or .md"),
    option("--spreadsheet", action="store_true", help="CSV: let no text be taken for a formula"),
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Write the copy, say how much it holds."""
    from dsvl_pipeline.export.export import export

    with named_by_user():
        num_rows = export(args.out, args.dest, is_for_spreadsheet=args.spreadsheet)
    copied = f"{amount(num_rows, 'row')} to {one_line(args.dest)}"
    output.result({"num_rows": num_rows, "written": args.dest}, copied)
    return 0
