"""``dsvl redrive``: some rows of a job once more, with other settings."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import add_job, job_file
from dsvl_pipeline.cli.failures import add_selection
from dsvl_pipeline.errors import ConfigError

HELP = "run only some rows of a job again: by code, stage or id, with other settings"
EPILOG = """\
examples:
  dsvl failures out/captions
  dsvl redrive job.yaml --code length --set generation.max_new_tokens=1024
  dsvl redrive job.yaml --stage fetch --set input.fetch_timeout_s=300
  dsvl redrive job.yaml --row sku-1007 --row sku-1008

The new rows replace the old ones in the same table, each in one step; but an answer stays where its
redrive ends in an error. The version before stays readable until a vacuum (`dsvl versions`). They
count as up to date for the job as its file stands, and their `recipe` says what made them. What is
read, what is asked and where the table lies cannot be --set. Of a document, pages that have no
answer yet run as well.

Progress and results as of `dsvl run`; exit codes too, over the rows that ran."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_job(parser)
    add_selection(parser)
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="ID",
        help="only the row with this row_id, be it ok or not (repeatable)",
    )
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Run the rows, print what came of them."""
    from dsvl_pipeline.cli import progress, summary
    from dsvl_pipeline.cli.text import duration
    from dsvl_pipeline.job.reading import load_job
    from dsvl_pipeline.store.uris import row_id_of
    from dsvl_pipeline.table.failures import Selection
    from dsvl_pipeline.wording import amount

    if not (args.code or args.stage or args.row):
        raise ConfigError(
            "redrive: nothing selected; give --code, --stage or --row (`dsvl failures OUT` lists "
            "what there is)"
        )
    selection = Selection(
        codes=frozenset(args.code),
        stages=frozenset(args.stage),
        row_ids=frozenset(map(row_id_of, args.row)),
    )
    file = job_file(args)
    base, job = load_job(file), load_job(file, args.set)
    from dsvl_pipeline.plan.redrive import Redrive
    from dsvl_pipeline.run.run import run_job

    with progress.display() as show:
        result = run_job(job, redrive=Redrive(selection=selection, base=base), on_progress=show)
    progress.log_summary(result)
    if not result.rows_new:
        print("no row of the job fits; `dsvl failures` lists the codes of its table")
        return 0
    print(
        f"{amount(result.rows_new, 'row')} redriven in {duration(result.seconds)}, "
        f"{result.errors_wanted + result.answers_kept:,} of them failed"
    )
    if result.answers_kept:
        print(f"{amount(result.answers_kept, 'row')} of these keep the answers they had")
    summary.print_counts(
        {"ok": result.ok, "degraded": result.degraded, "error": result.errors}, result.error_codes
    )
    return result.exit_code
