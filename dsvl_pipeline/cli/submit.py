"""``dsvl submit``: the job of ``dsvl run``, elsewhere."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from dsvl_pipeline.cli.arguments import add_job, job_file, positive_int
from dsvl_pipeline.cli.text import exact_yaml
from dsvl_pipeline.errors import AccessError, ConfigError

HELP = "run a job on a Ray cluster, or on Kubernetes with a cluster of its own"
EPILOG = """\
examples:
  dsvl submit job.yaml --target ray --address http://head:8265
  dsvl submit job.yaml --target k8s --dry-run             what would be created
  dsvl submit job.yaml --target k8s --set kubernetes.workers=8 --limit 1000
  dsvl submit job.yaml --target k8s --replace             again, when the last one has ended

ray: the job is started through the job API of the head, with this version of the package, and its
  output is shown; Ctrl-C leaves it running. --address is the port of the dashboard (8265), else
  RAY_API_SERVER_ADDRESS, RAY_ADDRESS or the cluster on this machine. Credentials are the cluster's
  own. Relative paths in the job file are made absolute: the cluster must see them.
k8s: a ConfigMap with the job and a RayJob are created through the API server (kubeconfig, or the
  account of the pod); `kubernetes:` in the job file says how large it is. What --dry-run printed
  may be edited, and submitted in place of the job file. The operator, the service account and the
  network policies must be there (k8s/README.md).

exit codes: ray: those of `dsvl run`; k8s: 0 created; 2 nothing was created or started; 3 the job
was lost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_job(parser)
    parser.add_argument("--target", choices=["ray", "k8s"], required=True, help="where it runs")
    parser.add_argument("--address", metavar="URL", help="ray: the head, http://HEAD:8265")
    parser.add_argument(
        "--no-wait", action="store_true", help="ray: end when the job has been taken"
    )
    parser.add_argument(
        "--replace", action="store_true", help="k8s: delete a RayJob of this name that has ended"
    )
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="as a run with --limit N would do"
    )
    parser.add_argument("--fresh", action="store_true", help="as a run with --fresh would do")
    parser.add_argument("--dry-run", action="store_true", help="print it; nothing is started")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Submit to the target."""
    for option, target in (("address", "ray"), ("no_wait", "ray"), ("replace", "k8s")):
        if target != args.target and getattr(args, option):
            name = option.replace("_", "-")
            raise ConfigError(f"--{name} is for --target {target}, not for {args.target}")
    return _to_ray(args) if args.target == "ray" else _to_kubernetes(args)


def _arguments(args: argparse.Namespace) -> list[str]:
    """Give what the job's own command line gets: words and numbers, for it goes through a shell."""
    limit = ["--limit", str(args.limit)] if args.limit else []
    return limit + (["--fresh"] if args.fresh else [])


def _to_ray(args: argparse.Namespace) -> int:
    from dsvl_pipeline.job import places
    from dsvl_pipeline.job.reading import load_job

    job = places.absolute(load_job(job_file(args), args.set))
    # the cluster it was submitted to
    cluster = job.cluster.model_copy(update={"address": "auto"})
    job = job.model_copy(update={"cluster": cluster})
    from dsvl_pipeline.cluster.submit import COMMAND, RayHead

    if args.dry_run:
        print(f"# runs: {' '.join([*COMMAND, *_arguments(args)])}\n# job.yaml:")
        print(exact_yaml(job.as_yaml()))
        return 0
    head = RayHead(args.address)
    job_id = head.submit(job.name, job.as_yaml(), _arguments(args))
    print(f"Ray job {job_id}; to end it: ray job stop {job_id}", flush=True)
    if args.no_wait:
        return 0
    try:
        return head.follow(job_id, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"dsvl: it goes on; to look again: ray job logs -f {job_id}", file=sys.stderr)
        return 3


def _to_kubernetes(args: argparse.Namespace) -> int:
    from dsvl_pipeline.job.reading import load_job
    from dsvl_pipeline.kuberay import render
    from dsvl_pipeline.kuberay.client import Cluster

    path = job_file(args)
    manifests = render.read(path)
    if manifests:
        if args.set or args.limit or args.fresh:
            raise ConfigError(f"{path} is rendered already; --set, --limit, --fresh come too late")
    else:
        job = load_job(path, args.set)
        manifests = render.manifests(job, _arguments(args))
        print(f"dsvl: {render.summary(job)}", file=sys.stderr)
    if args.dry_run:
        print(exact_yaml(render.dump(manifests)), end="")
        return 0
    cluster = Cluster(manifests[-1]["metadata"].get("namespace"))
    with suppress(AccessError):  # who may not look learns it later
        cluster.check_account(render.ACCOUNT)
    for name in cluster.create(manifests, is_replacing=args.replace):
        print(f"{name} created in namespace {cluster.namespace}")
    name = manifests[-1]["metadata"]["name"]
    print(
        f"to watch:  kubectl get rayjob -n {cluster.namespace} {name} -w\n"
        f"its log:   kubectl logs -n {cluster.namespace} -f job/{name}\n"
        f"to end it: kubectl delete rayjob -n {cluster.namespace} {name}"
    )
    return 0
