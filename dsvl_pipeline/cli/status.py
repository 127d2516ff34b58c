"""``dsvl status``: what is in a table."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import named_by_user

HELP = "count a table's rows by status and error code"
EPILOG = """\
examples:
  dsvl status out/demo
  dsvl status s3://bucket/captions

It reads the log, so it may run beside a job and then shows what is committed so far.
exit codes: 0 shown; 2 there is no table at OUT; 3 a store failed."""

_STATES = {"running": "is at work, or was killed", "stopped": "was stopped", "failed": "failed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Count and print."""
    from dsvl_pipeline.cli.summary import print_counts
    from dsvl_pipeline.table.lineage import known_run
    from dsvl_pipeline.table.log import read_snapshot
    from dsvl_pipeline.table.reader import counts

    with named_by_user():
        snapshot = read_snapshot(args.out)
        run = known_run(args.out, snapshot.last_run_id)
    found = counts(snapshot)
    print_counts(
        {"ok": found.ok, "degraded": found.degraded, "error": found.errors}, found.error_codes
    )
    if run is not None and run.status != "done":
        state = _STATES[run.status]
        print(f"the last run {state}: rows may be missing until its job has run to the end")
    return 0
