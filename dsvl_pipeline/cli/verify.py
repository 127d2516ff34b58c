"""``dsvl verify``: proof that a table holds every row once."""

from __future__ import annotations

import argparse
import shlex

from dsvl_pipeline.cli.arguments import named_by_user
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

HELP = "check the log against the parts: hashes, counts, every row once, rows in = rows out"
EPILOG = """\
examples:
  dsvl verify out/demo
  dsvl verify s3://bucket/captions

It reads every part. Beside a running job it checks what is committed so far.
exit codes: 0 all checks hold; 1 one does not; 2 there is no table at OUT; 3 a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Check, print what was looked at and every problem."""
    from dsvl_pipeline.store import objects
    from dsvl_pipeline.table.verify import verify

    with named_by_user():
        found = verify(args.out)
    print(
        f"version {found.version}: {amount(found.num_rows, 'row')} in "
        f"{amount(found.num_parts, 'part')}"
    )
    if found.num_expected is not None:
        compared = "=" if found.has_expected else "are not"
        print(f"rows in {compared} rows out: the last run wanted {found.num_expected:,}")
    elif found.last_run is None:
        print("rows in: not known, no run has ended yet")
    elif found.last_run == "done":
        print("rows in: not known, the run before the last one did not end well; run the job again")
    else:
        print(f"rows in: not known, the last run is {found.last_run!r}; run its job again")
    if found.unlogged:
        print(
            f"{amount(len(found.unlogged), 'part')} on the store that the log does not name "
            f"(a run that goes on or was killed left them), first {one_line(found.unlogged[0])}"
        )
    for problem in found.problems:
        print(f"problem: {one_line(str(problem))}")
    if found.num_bad_parts:
        place = shlex.quote(objects.redact(args.out))
        print(
            f"{amount(found.num_bad_parts, 'part')} lost or damaged: restore from a copy, or let "
            f"`dsvl repair {place}` take out of the log what is lost; the next run of the job "
            "computes it again"
        )
    print(f"{amount(len(found.problems), 'problem')}" if found.problems else "all checks hold")
    return 1 if found.problems else 0
