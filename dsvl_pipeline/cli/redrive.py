"""``dsvl redrive``: some rows of a job once more, with other settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.options import CODE, JOB, ROW, RUN_CODES, SET, STAGE, job_file
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.summary import count_lines, figures
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.wording import amount, duration

if TYPE_CHECKING:
    from dsvl_pipeline.run.summary import RunSummary

EXAMPLES = """\
dsvl failures out/captions
dsvl redrive job.yaml --code length --set generation.max_new_tokens=1024
dsvl redrive job.yaml --stage fetch --set input.fetch_timeout_s=300
dsvl redrive job.yaml --row sku-1007 --row sku-1008"""
NOTES = """\
The new rows replace the old ones in the same table, each in one step; but an answer stays where its
redrive ends in an error. The version before stays readable until a vacuum (`dsvl versions`). They
count as up to date for the job as its file stands, and their `recipe` says what made them. What is
read, what is asked and where the table lies cannot be --set. Of a document, pages that have no
answer yet run as well.

Progress and results as of `dsvl run`; exit codes too, over the rows that ran."""
EXIT_CODES = RUN_CODES
OPTIONS = (JOB, SET, CODE, STAGE, ROW)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Run the rows, print what came of them."""
    from dsvl_pipeline.cli import progress
    from dsvl_pipeline.job.reading import load_job
    from dsvl_pipeline.store.uris import row_id_of
    from dsvl_pipeline.table.failures import Selection

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

    with progress.display(output) as show:
        result = run_job(job, redrive=Redrive(selection=selection, base=base), on_progress=show)
    progress.log_summary(result, output)
    output.result(figures(result), _lines(result))
    return result.exit_code if result.rows_new else 0


def _lines(result: RunSummary) -> Iterator[str]:
    if not result.rows_new:
        yield "no row of the job fits; `dsvl failures` lists the codes of its table"
        return
    yield (
        f"{amount(result.rows_new, 'row')} redriven in {duration(result.seconds)}, "
        f"{result.errors_wanted + result.answers_kept:,} of them failed"
    )
    if result.answers_kept:
        yield f"{amount(result.answers_kept, 'row')} of these keep the answers they had"
    yield from count_lines(result.ok, result.degraded, result.errors, result.error_codes)
