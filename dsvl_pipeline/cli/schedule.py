"""``dsvl schedule``: a job by the clock, on Kubernetes."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from datetime import UTC, datetime

from dsvl_pipeline.cli.arguments import add_job, job_file
from dsvl_pipeline.cli.text import exact_yaml
from dsvl_pipeline.errors import AccessError

HELP = "run a job by the clock on Kubernetes, each time for what is new or changed"
EPILOG = """\
examples:
  dsvl schedule configs/reprocess.yaml --cron "0 2 * * *"      print what would be created
  dsvl schedule job.yaml --cron "30 6 * * MON-FRI" --time-zone Europe/Berlin --create
  dsvl schedule job.yaml --cron @hourly > cronjob.yaml         for a repository of manifests

A CronJob with concurrencyPolicy Forbid starts `dsvl submit --replace` with the rendered RayJob; its
role may create RayJobs, and look at and delete the one of this job's name. While the last RayJob
has not ended no other is created, and the CronJob's own Job fails visibly. Doing it again changes
the schedule; to end it: kubectl delete cronjob NAME.

exit codes: 0 printed or created; 2 the job, the schedule or the cluster is wrong, or a RayJob could
not be created there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_job(parser)
    parser.add_argument(
        "--cron", required=True, metavar='"M H D M W"', help="when, as Kubernetes takes it"
    )
    parser.add_argument(
        "--time-zone", default="Etc/UTC", metavar="ZONE", help="of --cron (default: Etc/UTC)"
    )
    parser.add_argument("--create", action="store_true", help="create it, instead of printing it")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Check the schedule, then print or create."""
    from dsvl_pipeline.job.reading import load_job
    from dsvl_pipeline.kuberay import render, schedule
    from dsvl_pipeline.kuberay.client import Cluster

    job = load_job(job_file(args), args.set)
    times = schedule.starts(args.cron, args.time_zone, datetime.now(UTC))
    manifests = schedule.manifests(job, args.cron, args.time_zone)
    first = ", ".join(f"{time:%Y-%m-%d %H:%M}" for time in times)
    print(f"first starts ({args.time_zone}): {first}", file=sys.stderr)
    if not args.create:
        print(exact_yaml(render.dump(manifests)), end="")
        return 0
    cluster = Cluster(job.kubernetes.namespace)
    with suppress(AccessError):  # who may not look learns it later
        cluster.check_account(render.ACCOUNT)
    for name in cluster.create(manifests):
        print(f"{name} created in namespace {cluster.namespace}")
    return 0
