"""``dsvl versions``: what a table was, commit by commit."""

from __future__ import annotations

import argparse
from typing import Any

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
    found: list[dict[str, Any]] = [
        {
            "version": one.entry.number,
            "committed_at": one.entry.committed_at,
            "run_id": one.entry.author.run_id,
            "num_parts": one.num_parts,
            "num_parts_added": len(one.entry.added),
            "num_parts_removed": len(one.entry.removed),
            "num_rows": sum(one.entry.statuses.values()),
            "num_errors": one.entry.statuses.get("error", 0),
            "is_readable": one.is_readable,
        }
        for one in versions
    ]
    lines = [("version", "committed at", "by", "parts", "change", "rows", "errors", "readable")]
    lines += [
        (
            f"{one['version']}",
            f"{one['committed_at'][:19]}Z",
            one["run_id"],
            f"{one['num_parts']:,}",
            f"+{one['num_parts_added']} -{one['num_parts_removed']}",
            f"{one['num_rows']:,}",
            f"{one['num_errors']:,}",
            "yes" if one["is_readable"] else "no",
        )
        for one in found
    ]
    output.result({"versions": found}, columns(lines))
    return 0
