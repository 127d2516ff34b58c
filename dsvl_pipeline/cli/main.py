"""``dsvl``: from an argument list to an exit code.

Importing this module, and ``dsvl --help``, load neither torch nor ray: a command is imported when
it is named, and imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from dsvl_pipeline.cli.options import JOB, job
from dsvl_pipeline.cli.output import Output, safe_streams
from dsvl_pipeline.cli.parser import build, command, fill
from dsvl_pipeline.errors import ConfigError, DsvlError

_DRIVERS = ("run", "plan", "redrive")
"""What drives Ray, which may end the process without a word."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Without ``argv`` the process is this command's alone, and what drives Ray is supervised.

    Raises:
        SystemExit: For ``--help`` and ``--version`` (0) and wrong usage (2), as argparse does.
    """
    return _run(build(sys.argv[1:] if argv is None else argv), argv)


def run_as_job(default_job: str, argv: Sequence[str] | None = None) -> int:
    """Do what ``dsvl run`` does with this process's arguments; for the scripts in ``jobs/``.

    Args:
        default_job: The job file that is read if the arguments name none.
        argv: See `main`.
    """
    options = [job(default=default_job) if one is JOB else one for one in command("run").OPTIONS]
    return _run(fill(argparse.ArgumentParser(), "run", options), argv)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    is_own_process = argv is None
    with safe_streams(is_kept=is_own_process):
        try:
            args = parser.parse_args(argv)
        except SystemExit as end:
            raise SystemExit(Output().outcome(int(end.code or 0))) from None
        output = Output(is_json=args.json, is_quiet=args.quiet)
        if output.is_json:  # whatever libraries and workers print is no result
            sys.stdout = sys.stderr
        if is_own_process and args.name in _DRIVERS:
            from dsvl_pipeline.cli.supervise import supervised

            return supervised(lambda: output.outcome(_guarded(args, output)))
        return output.outcome(_guarded(args, output))


def _guarded(args: argparse.Namespace, output: Output) -> int:
    """Run a command; every way it can end becomes an exit code with one clear message."""
    is_debug = args.debug or os.environ.get("DSVL_DEBUG", "") not in ("", "0")
    # A stopped pod gets SIGTERM; the same way out as Ctrl-C.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return command(args.name).execute(args, output)
    except DsvlError as error:
        if is_debug:
            _print_traceback()
        # Two families claim AccessError; its own exit code is the right one.
        kind = "wrong" if isinstance(error, ConfigError) else "stopped"
        print(f"dsvl: {kind}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("dsvl: stopped by a signal; what was committed is safe", file=sys.stderr)
        return 3
    except OSError as error:  # the stores explain theirs: this is the machine's own disk
        if is_debug:
            _print_traceback()
        where = os.environ.get("TMPDIR", "/tmp")
        print(
            f"dsvl: stopped: this machine's files: {error}; look for room and rights there, and in "
            f"TMPDIR ({where}); what was committed is safe",
            file=sys.stderr,
        )
        return 3
    except Exception:
        # Python's own 1 would say "done, too many rows failed".
        _print_traceback()
        print("dsvl: stopped: the error above is a bug; please report it", file=sys.stderr)
        return 3
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()
