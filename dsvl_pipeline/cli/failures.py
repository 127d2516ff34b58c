"""``dsvl failures``: what failed, by reason."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import named_by_user, whole_number
from dsvl_pipeline.codes import CODES, STAGES
from dsvl_pipeline.wording import hint

HELP = "list a table's failed and degraded rows by stage and code, with examples"
EPILOG = """\
examples:
  dsvl failures out/demo
  dsvl failures s3://bucket/captions --stage fetch --examples 20

Answers that were cut off count as code 'length'. 'runs again' says whether the next `dsvl run`
computes the rows by itself; `dsvl redrive` runs any of them again, with other settings.
exit codes: 0 shown; 2 there is no table at OUT; 3 a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    add_selection(parser)
    parser.add_argument(
        "--examples", type=whole_number, default=3, metavar="N", help="rows shown of each code"
    )
    parser.set_defaults(command=execute)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Declare ``--code`` and ``--stage``."""
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        type=_code,
        metavar="CODE",
        help="only this code (repeatable)",
    )
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        choices=STAGES,
        help="only codes of this stage (repeatable)",
    )


def _code(name: str) -> str:
    """Refuse what is nearly a code; anything else may be one of a newer version's table."""
    if suggestion := hint(name, CODES):
        raise argparse.ArgumentTypeError(f"{name!r} is no code; {suggestion.rstrip()}")
    return name


def execute(args: argparse.Namespace) -> int:
    """Count and print."""
    from dsvl_pipeline.cli.text import columns, one_line, shorten
    from dsvl_pipeline.table.failures import Selection, read_failures
    from dsvl_pipeline.wording import amount

    selection = Selection(codes=frozenset(args.code), stages=frozenset(args.stage))
    with named_by_user():
        found = read_failures(args.out, selection, num_examples=args.examples)
    if not found:
        print("no failed or degraded rows" + (" of that kind" if args.code or args.stage else ""))
        return 0
    lines = [("stage", "code", "status", "rows", "runs again")]
    lines += [
        (f.stage, f.code, f.status, f"{f.num_rows:,}", "yes" if f.is_retryable else "no")
        for f in found
    ]
    print("\n".join(columns(lines)))
    for failure in found:
        if failure.examples:
            print(f"\n{one_line(failure.code)} ({amount(failure.num_rows, 'row')}), for example:")
        for name, message in failure.examples:
            print(f"  {shorten(name, 120)}" + (f": {shorten(message, 300)}" if message else ""))
    return 0
