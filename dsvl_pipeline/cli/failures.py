"""``dsvl failures``: what failed, by reason."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.options import (
    CODE,
    NO_STORE,
    NO_TABLE,
    STAGE,
    TABLE,
    named_by_user,
    option,
    whole_number,
)
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import columns, one_line, shorten
from dsvl_pipeline.wording import amount

if TYPE_CHECKING:
    from dsvl_pipeline.table.failures import Failure

EXAMPLES = """\
dsvl failures out/demo
dsvl failures s3://bucket/captions --stage fetch --examples 20
dsvl failures out/demo --json | jq -r '.failures[].code'"""
NOTES = """\
Answers that were cut off count as code 'length'. 'runs again' says whether the next `dsvl run`
computes the rows by itself; `dsvl redrive` runs any of them again, with other settings."""
EXIT_CODES = {0: "shown", 2: NO_TABLE, 3: NO_STORE}
OPTIONS = (
    TABLE,
    CODE,
    STAGE,
    option("--examples", type=whole_number, default=3, metavar="N", help="rows shown of each code"),
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Count and print."""
    from dsvl_pipeline.table.failures import Selection, read_failures

    selection = Selection(codes=frozenset(args.code), stages=frozenset(args.stage))
    with named_by_user():
        found = read_failures(args.out, selection, num_examples=args.examples)
    reasons = [{"stage": one.stage, **asdict(one)} for one in found]
    output.result({"failures": reasons}, _lines(found, is_part=bool(args.code or args.stage)))
    return 0


def _lines(found: list[Failure], *, is_part: bool) -> Iterator[str]:
    if not found:
        yield "no failed or degraded rows" + (" of that kind" if is_part else "")
        return
    lines = [("stage", "code", "status", "rows", "runs again")]
    lines += [
        (f.stage, f.code, f.status, f"{f.num_rows:,}", "yes" if f.is_retryable else "no")
        for f in found
    ]
    yield from columns(lines)
    for failure in found:
        if failure.examples:
            yield f"\n{one_line(failure.code)} ({amount(failure.num_rows, 'row')}), for example:"
        for name, message in failure.examples:
            yield f"  {shorten(name, 120)}" + (f": {shorten(message, 300)}" if message else "")
