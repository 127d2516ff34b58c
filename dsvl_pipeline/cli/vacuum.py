"""``dsvl vacuum``: room back from what the table no longer needs."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.options import DRY_RUN, NO_TABLE, TABLE, named_by_user, option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.wording import amount

EXAMPLES = """\
dsvl vacuum out/demo --dry-run
dsvl vacuum s3://bucket/captions --older-than-hours 24"""
NOTES = """\
What the table holds now is never touched, nor what a run at work has not committed yet, whatever
its age. What runs that have ended left uncommitted goes at once. Where the last one was killed, it
goes once it is old. The table's lease is then taken for a moment, so that a run that only seems
dead can commit it no more. Of earlier versions goes what is old, by the store's clock. --dry-run
writes nothing, waits for nothing and tells ages by this machine's clock. Versions whose parts
are deleted can no longer be read (`dsvl versions OUT` tells which can be)."""
EXIT_CODES = {0: "done", 2: NO_TABLE, 3: "a store failed, or the log is damaged"}
OPTIONS = (
    TABLE,
    option(
        "--older-than-hours",
        type=float,
        metavar="H",
        help="leave alone what left the table, or a killed run left, lately (default 168, a week; "
        "at least 1, for who reads an earlier version may be at it)",
    ),
    DRY_RUN,
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Delete, name what went and how much room it took."""
    from dsvl_pipeline.table.vacuum import GRACE_S, LEAST_GRACE_S, vacuum

    hours = args.older_than_hours
    grace_s = GRACE_S if hours is None else hours * 3600
    if grace_s < LEAST_GRACE_S:
        raise ConfigError(
            f"--older-than-hours is {hours:g}, at least {LEAST_GRACE_S / 3600:g} is needed: who "
            "reads an earlier version may be at it"
        )
    with named_by_user():
        found = vacuum(args.out, grace_s=grace_s, is_dry=args.dry_run)
    num_bytes = sum(info.size for info in found)
    verb = "would be deleted, by this machine's clock" if args.dry_run else "deleted"
    lines = [one_line(info.uri) for info in found]
    lines.append(f"{amount(len(found), 'part')}, {num_bytes:,} bytes: {verb}")
    parts = [{"uri": info.uri, "num_bytes": info.size} for info in found]
    output.result({"is_dry_run": args.dry_run, "num_bytes": num_bytes, "parts": parts}, lines)
    return 0
