"""``dsvl run``: a job file to a committed table."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import add_job, job_file, positive_int

HELP = "run a job; the same command again computes only what is missing"
EPILOG = """\
examples:
  dsvl run configs/demo.yaml
  dsvl run job.yaml --set generation.max_new_tokens=64 --set output.uri=s3://bucket/try --limit 100
  dsvl run job.yaml --set 'prompts=[{id: caption, text: "Describe the image."}]'

docs/job-file.md lists every key of a job file. Progress and log lines go to standard error, results
to standard output. On a terminal progress is one live line; elsewhere (a pipe, a file, a pod) it is
a line of JSON at the start, one a minute and one at the end, and then one with the event "summary"
that holds all figures. The table for people goes to standard output in both cases.

exit codes: 0 done; 1 done, more rows failed than max_error_fraction; 2 the job, its input or its
output is wrong, nothing was started; 3 it could not go on, what was committed is safe."""


def add_arguments(parser: argparse.ArgumentParser, *, default_job: str | None = None) -> None:
    """Declare what the command takes.

    Args:
        parser: Extended in place.
        default_job: The job file if none is named; without one, naming one is required.
    """
    add_job(parser, default_job=default_job)
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="only the first N inputs; to try a job"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="compute every row again, also those up to date"
    )
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Run the job, show its progress, print what came out."""
    from dsvl_pipeline.cli import progress, summary
    from dsvl_pipeline.job.reading import load_job

    job = load_job(job_file(args), args.set)  # a wrong job file is told before ray is even imported
    from dsvl_pipeline.run.run import run_job

    with progress.display() as show:
        result = run_job(job, limit=args.limit, fresh=args.fresh, on_progress=show)
    progress.log_summary(result)
    summary.print_run(result, max_error_fraction=job.max_error_fraction)
    return result.exit_code
