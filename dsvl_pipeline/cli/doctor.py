"""``dsvl doctor``: what would keep a job from running here."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import add_overrides
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

HELP = "look for what would keep a job from running here, and say what to do"
EPILOG = """\
examples:
  dsvl doctor                    this machine: versions against the lock, GPU, shared memory, disk
  dsvl doctor job.yaml           and what the job names, by using it
  kubectl exec POD -- dsvl doctor /etc/dsvl/job.yaml       there, where it matters: in the head,
                                                           and in a worker for its GPU

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

Each line is ok, a warning (slow or surprising) or a problem (it will not run), with what to do.
exit codes: 0 no problem; 1 a problem; 2 the job file is wrong, or the model's packages (the extra
`model`) are missing where the job's engine would run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("job", nargs="?", metavar="JOB.yaml", help="the job file")
    parser.add_argument("--config", metavar="JOB.yaml", help="the same, as an option")
    add_overrides(parser)
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Look, and print what was found as it is found."""
    from dsvl_pipeline.doctor.job import PACKAGES, check_job
    from dsvl_pipeline.doctor.machine import check_machine
    from dsvl_pipeline.job.reading import load_job

    path = args.job or args.config
    job = load_job(path, args.set) if path else None
    num_problems, lacks_packages = 0, False
    for findings in (check_machine(), check_job(job) if job else ()):
        for found in findings:
            num_problems += found.grade == "problem"
            lacks_packages |= found.about == PACKAGES
            print(f"{found.grade:8} {found.about:15} {one_line(found.text)}", flush=True)
            if found.advice:
                print(f"{'':24} -> {one_line(found.advice)}", flush=True)
    print(amount(num_problems, "problem") if num_problems else "no problem")
    return 2 if lacks_packages else 1 if num_problems else 0
