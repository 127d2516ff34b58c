"""``dsvl schedule``: a job by the clock, on Kubernetes."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from dsvl_pipeline.cli.options import JOB, SET, job_file, option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.submit import create, show_manifests

EXAMPLES = """\
dsvl schedule configs/reprocess.yaml --cron "0 2 * * *"      # print what would be created
dsvl schedule job.yaml --cron "30 6 * * MON-FRI" --time-zone Europe/Berlin --create
dsvl schedule job.yaml --cron @hourly > cronjob.yaml         # for a repository of manifests"""
NOTES = """\
A CronJob with concurrencyPolicy Forbid starts `dsvl submit --replace` with the rendered RayJob; its
role may create RayJobs, and look at and delete the one of this job's name. While the last RayJob
has not ended no other is created, and the CronJob's own Job fails visibly. Doing it again changes
the schedule; to end it: kubectl delete cronjob NAME."""
EXIT_CODES = {
    0: "printed or created",
    2: "the job, the schedule or the cluster is wrong, or a RayJob could not be created there",
}
OPTIONS = (
    JOB,
    SET,
    option("--cron", required=True, metavar='"M H D M W"', help="when, as Kubernetes takes it"),
    option("--time-zone", default="Etc/UTC", metavar="ZONE", help="of --cron (default: Etc/UTC)"),
    option("--create", action="store_true", help="create it, instead of printing it"),
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Check the schedule, then print or create."""
    from dsvl_pipeline.job.reading import load_job
    from dsvl_pipeline.kuberay import schedule

    job = load_job(job_file(args), args.set)
    times = schedule.starts(args.cron, args.time_zone, datetime.now(UTC))
    manifests = schedule.manifests(job, args.cron, args.time_zone)
    first = ", ".join(f"{time:%Y-%m-%d %H:%M}" for time in times)
    output.note(f"first starts ({args.time_zone}): {first}")
    if args.create:
        create(manifests, output)
    else:
        show_manifests(manifests, output)
    return 0
