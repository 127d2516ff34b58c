"""``dsvl submit``: the job of ``dsvl run``, elsewhere."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.options import DRY_RUN, FRESH, JOB, LIMIT, SET, job_file, option
from dsvl_pipeline.cli.output import Output, exact_yaml
from dsvl_pipeline.errors import AccessError, ConfigError

if TYPE_CHECKING:
    from dsvl_pipeline.kuberay.render import Manifest

EXAMPLES = """\
dsvl submit job.yaml --target ray --address http://head:8265
dsvl submit job.yaml --target k8s --dry-run             # what would be created
dsvl submit job.yaml --target k8s --set kubernetes.workers=8 --limit 1000
dsvl submit job.yaml --target k8s --replace             # again, when the last one has ended"""
NOTES = """\
ray: the job is started through the job API of the head, with this version of the package, and its
output is shown; Ctrl-C leaves it running. --address is the port of the dashboard (8265), else
RAY_API_SERVER_ADDRESS, RAY_ADDRESS or the cluster on this machine. Credentials are the cluster's
own. Relative paths in the job file are made absolute: the cluster must see them. --quiet is passed
on to the job; with --json the job's own output goes to standard error.

k8s: a ConfigMap with the job and a RayJob are created through the API server, by a kubeconfig or
the account of the pod. `kubernetes:` in the job file says how large it is. What --dry-run printed
may be edited, and submitted in place of the job file. The operator, the service account and the
network policies must be there (k8s/README.md)."""
EXIT_CODES = {
    0: "created; ray: and done",
    1: "ray: done, more rows failed than max_error_fraction",
    2: "the job or the cluster is wrong; k8s: nothing was created",
    3: "ray: the job was lost, or could not go on",
}
OPTIONS = (
    JOB,
    SET,
    LIMIT,
    FRESH,
    option("--target", choices=["ray", "k8s"], required=True, help="where it runs"),
    option("--address", metavar="URL", help="ray: the head, http://HEAD:8265"),
    option("--no-wait", action="store_true", help="ray: end when the job has been taken"),
    option("--replace", action="store_true", help="k8s: delete a RayJob of this name that ended"),
    DRY_RUN,
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Submit to the target."""
    for name, target in (("address", "ray"), ("no_wait", "ray"), ("replace", "k8s")):
        if target != args.target and getattr(args, name):
            written = name.replace("_", "-")
            raise ConfigError(f"--{written} is for --target {target}, not for {args.target}")
    return _to_ray(args, output) if args.target == "ray" else _to_kubernetes(args, output)


def _arguments(args: argparse.Namespace) -> list[str]:
    """Give what the job's own command line gets: words and numbers, for it goes through a shell."""
    limit = ["--limit", str(args.limit)] if args.limit else []
    return limit + (["--fresh"] if args.fresh else [])


def _to_ray(args: argparse.Namespace, output: Output) -> int:
    from dsvl_pipeline.job import places
    from dsvl_pipeline.job.reading import load_job

    job = places.absolute(load_job(job_file(args), args.set))
    # the cluster it was submitted to
    cluster = job.cluster.model_copy(update={"address": "auto"})
    job = job.model_copy(update={"cluster": cluster})
    from dsvl_pipeline.cluster.submit import COMMAND, RayHead

    arguments = _arguments(args) + (["--quiet"] if output.is_quiet else [])
    if args.dry_run:
        command = [*COMMAND, *arguments]
        text = f"# runs: {' '.join(command)}\n# job.yaml:\n{exact_yaml(job.as_yaml())}"
        output.result({"command": command, "job.yaml": job.as_yaml()}, text)
        return 0
    head = RayHead(args.address)
    job_id = head.submit(job.name, job.as_yaml(), arguments)
    output.text(f"Ray job {job_id}; to end it: ray job stop {job_id}")
    code = None
    try:
        if not args.no_wait:
            # Printed, and not part of the result: with --json that is another stream.
            code = head.follow(job_id, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"dsvl: it goes on; to look again: ray job logs -f {job_id}", file=sys.stderr)
        code = 3
    output.result({"job_id": job_id, "exit_code": code}, ())
    return code or 0


def _to_kubernetes(args: argparse.Namespace, output: Output) -> int:
    from dsvl_pipeline.job.reading import load_job
    from dsvl_pipeline.kuberay import render

    path = job_file(args)
    manifests = render.read(path)
    if manifests:
        if args.set or args.limit or args.fresh:
            raise ConfigError(f"{path} is rendered already; --set, --limit, --fresh come too late")
    else:
        job = load_job(path, args.set)
        manifests = render.manifests(job, _arguments(args))
        output.note(f"dsvl: {render.summary(job)}")
    if args.dry_run:
        show_manifests(manifests, output)
        return 0
    namespace = create(manifests, output, is_replacing=args.replace)
    name = manifests[-1]["metadata"]["name"]
    output.text(
        f"to watch:  kubectl get rayjob -n {namespace} {name} -w\n"
        f"its log:   kubectl logs -n {namespace} -f job/{name}\n"
        f"to end it: kubectl delete rayjob -n {namespace} {name}"
    )
    return 0


def show_manifests(manifests: list[Manifest], output: Output) -> None:
    """Print manifests as YAML or JSON; ``kubectl apply`` takes both."""
    from dsvl_pipeline.kuberay import render

    found = {"apiVersion": "v1", "kind": "List", "items": manifests}
    output.result(found, exact_yaml(render.dump(manifests)))


def create(manifests: list[Manifest], output: Output, *, is_replacing: bool = False) -> str:
    """Create objects on the cluster of the kubeconfig or of this pod, and print their names.

    Returns:
        The namespace that they are in.
    """
    from dsvl_pipeline.kuberay import render
    from dsvl_pipeline.kuberay.client import Cluster

    cluster = Cluster(manifests[-1]["metadata"].get("namespace"))
    with suppress(AccessError):  # who may not look learns it later
        cluster.check_account(render.ACCOUNT)
    names = list(cluster.create(manifests, is_replacing=is_replacing))
    lines = [f"{name} created in namespace {cluster.namespace}" for name in names]
    output.result({"namespace": cluster.namespace, "created": names}, lines)
    return cluster.namespace
