"""``dsvl status``: what is in a table."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from dsvl_pipeline.cli.options import NO_STORE, NO_TABLE, TABLE, named_by_user
from dsvl_pipeline.cli.output import Output

EXAMPLES = """\
dsvl status out/demo
dsvl status s3://bucket/captions --json"""
NOTES = "It reads the log, so it may run beside a job and then shows what is committed so far."
EXIT_CODES = {0: "shown", 2: NO_TABLE, 3: NO_STORE}
OPTIONS = (TABLE,)

_STATES = {"running": "is at work, or was killed", "stopped": "was stopped", "failed": "failed"}


def execute(args: argparse.Namespace, output: Output) -> int:
    """Count and print."""
    from dsvl_pipeline.cli.summary import count_lines
    from dsvl_pipeline.table.lineage import known_run
    from dsvl_pipeline.table.log import read_snapshot
    from dsvl_pipeline.table.reader import counts

    with named_by_user():
        snapshot = read_snapshot(args.out)
        run = known_run(args.out, snapshot.last_run_id)
    found = counts(snapshot)
    lines = count_lines(found.ok, found.degraded, found.errors, found.error_codes)
    if run is not None and run.status != "done":
        state = _STATES[run.status]
        lines.append(f"the last run {state}: rows may be missing until its job has run to the end")
    last_run = {"run_id": run.run_id, "status": run.status} if run is not None else None
    output.result(asdict(found) | {"last_run": last_run}, lines)
    return 0
