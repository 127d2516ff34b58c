"""``dsvl``: from an argument list to an exit code.

Importing this module, and ``dsvl --help``, load neither torch nor ray: the commands import what
they need when they run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import NoReturn

from dsvl_pipeline.cli import (
    compact,
    doctor,
    export,
    failures,
    generate,
    lineage,
    plan,
    redrive,
    repair,
    report,
    run,
    schedule,
    status,
    submit,
    terminal,
    vacuum,
    verify,
    versions,
)
from dsvl_pipeline.cli.supervise import supervised
from dsvl_pipeline.errors import ConfigError, DsvlError

COMMANDS = (
    run,
    plan,
    status,
    failures,
    redrive,
    verify,
    repair,
    export,
    report,
    generate,
    lineage,
    versions,
    compact,
    vacuum,
    submit,
    schedule,
    doctor,
)
_DRIVERS = (run.execute, plan.execute, redrive.execute)

_DESCRIPTION = "Run DeepSeek-VL over very many images and document pages, on Ray, exactly once."
_EPILOG = """\
examples:
  dsvl run configs/demo.yaml                       the demo; the same command again resumes
  dsvl plan configs/demo.yaml                      what a run would do, and why
  dsvl status out/demo                             what is in the table
  dsvl failures out/demo                           what failed, by reason
  dsvl export out/demo demo.csv                    a plain copy
  dsvl generate photo.jpg --prompt "What is this?" one answer, without Ray

exit codes:
  0  done; at most max_error_fraction of the rows failed
  1  done; more rows failed, or a check did not hold
  2  the job, its input or its output is wrong; nothing was started
  3  it could not go on, was stopped, or could not write its output; what was committed is safe

DSVL_DEBUG=1 is the same as --debug."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code.

    Without ``argv`` the process is this command's alone, and what drives Ray is supervised.

    Raises:
        SystemExit: For ``--help`` and ``--version`` (0) and wrong usage (2), as argparse does.
    """
    return _run(_parser(), argv)


def run_as_job(default_job: str, argv: Sequence[str] | None = None) -> int:
    """Do what ``dsvl run`` does with this process's arguments; for the scripts in ``jobs/``.

    Args:
        default_job: The job file that is read if the arguments name none.
        argv: See `main`.
    """
    parser = argparse.ArgumentParser(description=f"{run.HELP[:1].upper()}{run.HELP[1:]}.")
    run.add_arguments(parser, default_job=default_job)
    return _run(_with_debug(parser), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsvl",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dsvl {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        added = commands.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.HELP,
            description=command.HELP[:1].upper() + command.HELP[1:] + ".",
            epilog=command.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        _with_debug(added)
    return parser


def _version() -> str:
    try:
        return version("dsvl-pipeline")
    except PackageNotFoundError:  # a source tree on the path, as in a Ray working directory
        return "(not installed)"


def _with_debug(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--debug", action="store_true", help="show where an error was raised")
    return parser


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    is_own_process = argv is None
    with terminal.safe_streams(is_kept=is_own_process):
        try:
            args = parser.parse_args(argv)
        except SystemExit as end:
            raise SystemExit(terminal.outcome(int(end.code or 0))) from None
        return _supervised(args, is_own_process=is_own_process)


def _supervised(args: argparse.Namespace, *, is_own_process: bool) -> int:
    if is_own_process and args.command in _DRIVERS:
        return supervised(lambda: terminal.outcome(_guarded(args)))
    return terminal.outcome(_guarded(args))


def _guarded(args: argparse.Namespace) -> int:
    """Run a command; every way it can end becomes an exit code with one clear message."""
    is_debug = args.debug or os.environ.get("DSVL_DEBUG", "") not in ("", "0")
    command: Callable[[argparse.Namespace], int] = args.command
    # A stopped pod gets SIGTERM; the same way out as Ctrl-C.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return command(args)
    except DsvlError as error:
        if is_debug:
            traceback.print_exc()
        # Two families claim AccessError; its own exit code is the right one.
        kind = "wrong" if isinstance(error, ConfigError) else "stopped"
        print(f"dsvl: {kind}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("dsvl: stopped by a signal; what was committed is safe", file=sys.stderr)
        return 3
    except OSError as error:  # the stores explain theirs: this is the machine's own disk
        if is_debug:
            traceback.print_exc()
        where = os.environ.get("TMPDIR", "/tmp")
        print(
            f"dsvl: stopped: this machine's files: {error}; look for room and rights there, and in "
            f"TMPDIR ({where}); what was committed is safe",
            file=sys.stderr,
        )
        return 3
    except Exception:
        # Python's own 1 would say "done, too many rows failed".
        traceback.print_exc()
        print("dsvl: stopped: the error above is a bug; please report it", file=sys.stderr)
        return 3
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
