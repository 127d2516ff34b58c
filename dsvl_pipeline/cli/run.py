"""``dsvl run``: a job file to a committed table."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.options import FRESH, JOB, LIMIT, RUN_CODES, SET, job_file
from dsvl_pipeline.cli.output import Output

EXAMPLES = """\
dsvl run configs/demo.yaml
dsvl run job.yaml --set generation.max_new_tokens=64 --set output.uri=s3://bucket/try --limit 100
dsvl run job.yaml --set 'prompts=[{id: caption, text: "Describe the image."}]'"""
NOTES = """\
docs/job-file.md lists every key of a job file. Progress and log lines go to standard error, results
to standard output. On a terminal progress is one live line. Elsewhere (a pipe, a file, a pod) it is
a line of JSON at the start, one a minute and one at the end. Then one with the event "summary"
holds all figures. The table for people goes to standard output in both cases; with --json it
is the figures that go there, and with --quiet there is no progress."""
EXIT_CODES = RUN_CODES
OPTIONS = (JOB, SET, LIMIT, FRESH)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Run the job, show its progress, print what came out."""
    from dsvl_pipeline.cli import progress, summary
    from dsvl_pipeline.job.reading import load_job

    job = load_job(job_file(args), args.set)  # a wrong job file is told before ray is even imported
    from dsvl_pipeline.run.run import run_job

    with progress.display(output) as show:
        result = run_job(job, limit=args.limit, fresh=args.fresh, on_progress=show)
    progress.log_summary(result, output)
    lines = summary.run_lines(result, max_error_fraction=job.max_error_fraction)
    output.result(summary.figures(result), lines)
    return result.exit_code
