"""``dsvl versions``: what a table was, commit by commit."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.options import NO_STORE, NO_TABLE, TABLE, named_by_user
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import columns

EXAMPLES = """\
dsvl versions out/demo
python -c "from dsvl_pipeline import read_table; print(read_table('out/demo', version=2))\""""
NOTES = ""
EXIT_CODES = {0: "listed", 2: NO_TABLE, 3: NO_STORE}
OPTIONS = (TABLE,)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Read the whole log, print a line for each entry."""
    from dsvl_pipeline.table.log import list_versions

    with named_by_user():
        versions = list_versions(args.out)
    found = [
        {
            "version": one.entry.number,
            "committed_at": one.entry.committed_at,
            "run_id": one.entry.author.run_id,
            "parts": one.num_parts,
            "parts_added": len(one.entry.added),
            "parts_removed": len(one.entry.removed),
            "rows": sum(one.entry.statuses.values()),
            "errors": one.entry.statuses.get("error", 0),
            "is_readable": one.is_readable,
        }
        for one in versions
    ]
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
    output.result({"versions": found}, columns(lines))
    return 0
