"""``dsvl verify``: proof that a table holds every row once."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.options import NO_STORE, NO_TABLE, TABLE, named_by_user
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

if TYPE_CHECKING:
    from dsvl_pipeline.table.verify import Verification

EXAMPLES = """\
dsvl verify out/demo
dsvl verify s3://bucket/captions"""
NOTES = "It reads every part. Beside a running job it checks what is committed so far."
EXIT_CODES = {0: "all checks hold", 1: "one does not", 2: NO_TABLE, 3: NO_STORE}
OPTIONS = (TABLE,)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Check, print what was looked at and every problem."""
    from dsvl_pipeline.store import objects
    from dsvl_pipeline.table.verify import verify

    with named_by_user():
        found = verify(args.out)
    output.result(found, _lines(found, objects.redact(args.out)))
    return 1 if found.problems else 0


def _lines(found: Verification, uri: str) -> Iterator[str]:
    rows, parts = amount(found.num_rows, "row"), amount(found.num_parts, "part")
    yield f"version {found.version}: {rows} in {parts}"
    yield _rows_in(found)
    if found.unlogged:
        yield (
            f"{amount(len(found.unlogged), 'part')} on the store that the log does not name "
            f"(a run that goes on or was killed left them), first {one_line(found.unlogged[0])}"
        )
    for problem in found.problems:
        yield f"problem: {one_line(str(problem))}"
    if found.num_bad_parts:
        yield (
            f"{amount(found.num_bad_parts, 'part')} lost or damaged: restore from a copy, or let "
            f"`dsvl repair {shlex.quote(uri)}` take out of the log what is lost; the next run of "
            "the job computes it again"
        )
    yield amount(len(found.problems), "problem") if found.problems else "all checks hold"


def _rows_in(found: Verification) -> str:
    if found.num_expected is not None:
        compared = "=" if found.has_expected else "are not"
        return f"rows in {compared} rows out: the last run wanted {found.num_expected:,}"
    if found.last_run is None:
        return "rows in: not known, no run has ended yet"
    if found.last_run == "done":
        return "rows in: not known, the run before the last one did not end well; run the job again"
    return f"rows in: not known, the last run is {found.last_run!r}; run its job again"
