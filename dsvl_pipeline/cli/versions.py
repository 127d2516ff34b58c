"""``dsvl versions``: what a table was, commit by commit."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import named_by_user
from dsvl_pipeline.cli.text import columns

HELP = "list a table's versions: when, by which run, rows, whether it can still be read"
EPILOG = """\
examples:
  dsvl versions out/demo
  python -c "from dsvl_pipeline import read_table; print(read_table('out/demo', version=2))"

exit codes: 0 listed; 2 there is no table at OUT; 3 a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Read the whole log, print a line for each entry."""
    from dsvl_pipeline.table.log import list_versions

    with named_by_user():
        versions = list_versions(args.out)
    lines = [("version", "committed at", "by", "parts", "change", "rows", "errors", "readable")]
    for version in versions:
        entry = version.entry
        lines.append(
            (
                str(entry.number),
                entry.committed_at[:19] + "Z",
                entry.author.run_id,
                f"{version.num_parts:,}",
                f"+{len(entry.added)} -{len(entry.removed)}",
                f"{sum(entry.statuses.values()):,}",
                f"{entry.statuses.get('error', 0):,}",
                "yes" if version.is_readable else "no",
            )
        )
    print("\n".join(columns(lines)))
    return 0
