"""``dsvl plan``: what a run would do, and why."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.arguments import add_job, positive_int
from dsvl_pipeline.cli.text import amount, columns, shorten

if TYPE_CHECKING:
    from dsvl_pipeline.pipeline.preview import Explanation

HELP = "say what a run would compute and keep, and why; nothing is written"
EPILOG = """\
examples:
  dsvl plan job.yaml
  dsvl plan job.yaml --set generation.max_new_tokens=64
  dsvl plan job.yaml --explain SKU-0042

It reads the whole input and the keys of the table, and may run beside a job.
exit codes: 0 shown; 2 the job, its input or its output is wrong, or there is no such row; 3 a store
failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_job(parser)
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="as a run with --limit N would do"
    )
    parser.add_argument("--fresh", action="store_true", help="as a run with --fresh would do")
    parser.add_argument(
        "--explain", metavar="ROW", help="say of one row, by its id, why it would run or not"
    )
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Plan and print."""
    from dsvl_pipeline.config import load_job

    job = load_job(args.job or args.config, args.set)
    from dsvl_pipeline.pipeline.preview import explain, preview

    if args.explain is not None:
        for found in explain(job, args.explain, fresh=args.fresh):
            _print_explanation(args.explain, found)
        return 0
    result = preview(job, limit=args.limit, fresh=args.fresh)
    _print_counts("to run", result.to_run)
    if result.num_documents:
        documents = amount(result.num_documents, "document")
        print(f"  among them {documents}, whose pages are not counted yet")
    _print_counts("to keep", result.to_keep)
    if result.num_replaced:
        print(f"{amount(result.num_replaced, 'row')} of the table replaced by new answers")
    if result.num_dropped:
        print(f"{amount(result.num_dropped, 'row')} dropped: input vanished")
    return 0


def _print_counts(title: str, by_reason: Mapping[str, int]) -> None:
    lines = [(title, f"{sum(by_reason.values()):,}")]
    lines += [(f"  {reason}", f"{rows:,}") for reason, rows in by_reason.items()]
    print("\n".join(columns(lines)))


def _print_explanation(row_id: str, found: Explanation) -> None:
    prompt = f", prompt {found.prompt_id}" if found.prompt_id else ""
    pages = ""
    if found.pages:
        first, last = found.pages[0] + 1, found.pages[-1] + 1
        pages = f", page {first}" if len(found.pages) == 1 else f", {len(found.pages)} pages"
        pages += f" ({first} to {last})" if len(found.pages) > 1 else ""
    verdict = "would run" if found.is_run else "would not run"
    print(f"{shorten(row_id, 200)}{prompt}{pages}: {verdict}; {found.reason}")
    for detail in found.details:
        print(f"  {shorten(detail, 500)}")
