"""What may be written after ``dsvl``: every command with its options, its help, its exit codes.

A command is imported only when it is named: all of them would take longer than most of them run.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Container, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from dsvl_pipeline.cli.options import EVERY, Option
from dsvl_pipeline.cli.output import Output

COMMANDS = {
    "init": "write example jobs with comments, and the samples of the demo, to start from",
    "run": "run a job; the same command again computes only what is missing",
    "plan": "say what a run would compute and keep, why, and what it would take; "
    "nothing is written",
    "status": "count a table's rows by status and error code",
    "failures": "list a table's failed and degraded rows by stage and code, with examples",
    "redrive": "run only some rows of a job again: by code, stage or id, with other settings",
    "verify": "check the log against the parts: hashes, counts, every row once, rows in = rows out",
    "repair": "take lost and damaged parts out of a table, so that the next run computes "
    "their rows again",
    "export": "copy a table's rows into one Parquet, JSONL, CSV or Markdown file",
    "report": "show a table's rows on one web page, each picture beside its answers",
    "generate": "answer one prompt about some images, or none, without Ray",
    "lineage": "show a row's history: what was read, by which run and model, where it lies, "
    "what it replaced",
    "versions": "list a table's versions: when, by which run, rows, whether it can still be read",
    "compact": "merge a table's small parts; its rows stay as they are",
    "vacuum": "delete parts that killed runs left, and those that only earlier versions need",
    "submit": "run a job on a Ray cluster, or on Kubernetes with a cluster of its own",
    "schedule": "run a job by the clock on Kubernetes, each time for what is new or changed",
    "doctor": "look for what would keep a job from running here, and say what to do",
    "schema": "print the JSON schema of a job file, for editors that check one while it is written",
    "completion": "print a script that completes commands and options in a shell",
}
"""Each command, which is the module of this name, and what it is for."""

EXIT_CODES = {
    0: "done; at most max_error_fraction of the rows failed",
    1: "done; more rows failed, or a check did not hold",
    2: "the job, its input or its output is wrong; nothing was started",
    3: "it could not go on, was stopped, or could not write its output; what was committed is safe",
}
"""What they mean in general; a command's own ``EXIT_CODES`` say what that means for it."""

EXAMPLES = """\
dsvl init                                        # example jobs, into this directory
dsvl run demo.yaml                               # the demo; the same command again resumes
dsvl plan demo.yaml                              # what a run would do, and why
dsvl status out/demo                             # what is in the table
dsvl failures out/demo                           # what failed, by reason
dsvl export out/demo demo.csv                    # a plain copy
dsvl generate photo.jpg --prompt "What is this?" # one answer, without Ray"""

DESCRIPTION = "Run DeepSeek-VL over very many images and document pages, on Ray, exactly once."
_EPILOG = """\
Results go to standard output, all else to standard error. Every command takes --json, --quiet and
--debug; DSVL_DEBUG=1 is the same as --debug."""


class Command(Protocol):
    """What the module of a command declares.

    Attributes:
        EXAMPLES: Command lines, each with what it is for if that is not plain.
        NOTES: What a newcomer would not expect.
        EXIT_CODES: What each one means that the command ends with.
        OPTIONS: What it takes besides what every command takes.
    """

    EXAMPLES: str
    NOTES: str
    EXIT_CODES: Mapping[int, str]
    OPTIONS: Sequence[Option]

    def execute(self, args: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        ...


def command(name: str) -> Command:
    """Import the command of this name."""
    return cast("Command", import_module(f"dsvl_pipeline.cli.{name}"))


def build(named: Container[str]) -> argparse.ArgumentParser:
    """Return the parser of ``dsvl``.

    Args:
        named: The words of a command line. Only the commands among them are imported.
    """
    made = argparse.ArgumentParser(
        prog="dsvl",
        description=DESCRIPTION,
        epilog=f"{_examples(EXAMPLES)}\n\n{_EPILOG}\n\n{_exit_codes(EXIT_CODES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-V", "--version", action=_Version, nargs=0, help="show the version and exit")
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for name, told in COMMANDS.items():
        added = commands.add_parser(name, help=told)
        if name in named:
            fill(added, name)
    return made


def build_command(name: str) -> argparse.ArgumentParser:
    """Return the parser of one command alone."""
    return fill(argparse.ArgumentParser(prog=f"dsvl {name}"), name)


def fill(
    parser: argparse.ArgumentParser, name: str, options: Sequence[Option] | None = None
) -> argparse.ArgumentParser:
    """Import a command, and give an empty parser its options and its help.

    Args:
        parser: Extended in place.
        name: Of the command.
        options: What it takes, if that is not its own ``OPTIONS``.

    Returns:
        The same parser.
    """
    found, told = command(name), COMMANDS[name]
    notes = f"\n\n{found.NOTES}" if found.NOTES else ""
    parser.description = f"{told[:1].upper()}{told[1:]}."
    parser.epilog = f"{_examples(found.EXAMPLES)}{notes}\n\n{_exit_codes(found.EXIT_CODES)}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(name=name)
    for add in (*(found.OPTIONS if options is None else options), *EVERY):
        add(parser)
    return parser


def _examples(lines: str) -> str:
    return "examples:\n  " + lines.replace("\n", "\n  ")


def _exit_codes(meanings: Mapping[int, str]) -> str:
    lines = [
        textwrap.fill(told, 100, initial_indent=f"  {code}  ", subsequent_indent=" " * 5)
        for code, told in meanings.items()
    ]
    return "\n".join(["exit codes:", *lines])


class _Version(argparse.Action):
    """Prints the version, which is looked up only then: that takes as long as all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("dsvl-pipeline")
        except PackageNotFoundError:  # a source tree on the path, as in a Ray working directory
            found = "(not installed)"
        print(f"dsvl {found}")
        parser.exit()
