"""``dsvl doctor``: what would keep a job from running here."""

from __future__ import annotations

import argparse
from itertools import chain

from dsvl_pipeline.cli.options import SET, job, job_file
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

EXAMPLES = """\
dsvl doctor                    # this machine: versions against the lock, GPU, shared memory, disk
dsvl doctor job.yaml           # and what the job names, by using it
kubectl exec POD -- dsvl doctor /etc/dsvl/job.yaml       # there, where it matters: in the head,
                                                         # and in a worker for its GPU"""
NOTES = """\
credentials    which ones are used, and which endpoint; they are never shown
input          is listed, and one byte of the first object read
output.uri     a small object is written, a second write to its name must be refused (conditional
               writes keep two runs apart), and it is deleted again
checkpoint     config, tokenizer and every weight file are whole; one on the hub is only asked for
GPU            is there, torch can use it, the weights fit
Ray cluster    answers, where cluster.address or RAY_ADDRESS names one
kubernetes     where the job file has the section: the API server, the operator, the account
shared memory  Ray's object store lives there; too little makes all of it slow
Ray's reach    who else on the network may reach a Ray that a run starts here

Each line is ok, a warning (slow or surprising) or a problem (it will not run), with what to do."""
EXIT_CODES = {
    0: "no problem",
    1: "a problem",
    2: "the job file is wrong, or the model's packages (the extra `model`) are missing where the "
    "job's engine would run",
}
OPTIONS = (job(is_required=False), SET)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Look, and print what was found as it is found."""
    from dsvl_pipeline.doctor.job import PACKAGES, check_job
    from dsvl_pipeline.doctor.machine import check_machine
    from dsvl_pipeline.job.reading import load_job

    path = job_file(args)
    job = load_job(path, args.set) if path else None
    findings = []
    for found in chain(check_machine(), check_job(job) if job else ()):
        findings.append(found)
        output.text(f"{found.grade:8} {found.about:15} {one_line(found.text)}")
        if found.advice:
            output.text(f"{'':24} -> {one_line(found.advice)}")
    num_problems = sum(found.grade == "problem" for found in findings)
    ended = amount(num_problems, "problem") if num_problems else "no problem"
    output.result({"num_problems": num_problems, "findings": findings}, ended)
    lacks_packages = any(found.about == PACKAGES for found in findings)
    return 2 if lacks_packages else 1 if num_problems else 0
