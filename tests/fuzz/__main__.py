"""The long campaign: ``python -m tests.fuzz --images 10000``, or ``make fuzz``."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

from benchmarks.results import write_results
from tests.fuzz.campaign import Campaign, Kind, Outcome

_DEFAULTS: dict[Kind, int] = {"images": 10_000, "documents": 3_000, "manifests": 10_000}


def main() -> int:
    """Try damaged files of each kind; 1 if something did not hold of any of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, count in _DEFAULTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, help=f"default {count:,}")
    parser.add_argument("--seed", type=int, default=None, help="of the first file; printed")
    parser.add_argument("--keep", type=Path, help="directory for files that broke something")
    parser.add_argument("--out", type=Path, help="results file or directory")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(3))
    first = random.randrange(10**6) if args.seed is None else args.seed
    print(f"first seed {first}", flush=True)
    figures: dict[str, Any] = {"first_seed": first}
    num_problems = 0
    campaign = Campaign(args.keep)
    try:
        for kind in _DEFAULTS:
            outcome = _play(campaign, kind, first, getattr(args, kind))
            num_problems += len(outcome.problems)
            figures[kind] = {
                "files": outcome.num_files,
                "rows": outcome.num_rows,
                "rows_by_code": {code or "none": n for code, n in outcome.codes.items()},
                "refused_whole": outcome.num_refused,
                "killed_their_process": outcome.num_deaths,
                "problems": outcome.problems,
            }
    finally:
        campaign.close()
    write_results("fuzz", figures, path=args.out)
    return 1 if num_problems else 0


def _play(campaign: Campaign, kind: Kind, first: int, count: int) -> Outcome:
    outcome, told, started = Outcome(), 0, time.monotonic()
    said = started
    for outcome in campaign.play(cast("Kind", kind), first, count):
        for problem in outcome.problems[told:]:
            print(problem, flush=True)
        told = len(outcome.problems)
        if time.monotonic() - said > 30:
            said = time.monotonic()
            print(f"{kind}: {outcome.num_files:,} of {count:,}", flush=True)
    print(
        f"{kind}: {outcome.num_files:,} files, {outcome.num_rows:,} rows, "
        f"{outcome.num_refused:,} refused whole, {outcome.num_deaths} killed their process, "
        f"{told} problems, {time.monotonic() - started:.0f} s\n  {dict(outcome.codes)}",
        flush=True,
    )
    return outcome


if __name__ == "__main__":
    sys.exit(main())
