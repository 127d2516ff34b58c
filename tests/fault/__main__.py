"""The long campaign: ``python -m tests.fault --runs 200 --seed 1``, or ``make fault``."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.results import write_results
from tests.fault.campaign import JOBS, Outcome, open_campaign
from tests.fault.faults import FAULTS, missing


def main() -> int:
    """Play scenes with one seed after the other; 1 if a check did not hold in any of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--minutes", type=float, help="start no run after so long")
    parser.add_argument("--seed", type=int, default=None, help="of the first run; printed")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="only these")
    parser.add_argument("--store", choices=["local", "s3"], help="not drawn")
    parser.add_argument("--job", choices=JOBS, help="not drawn")
    parser.add_argument("--out", type=Path, help="results file or directory")
    args = parser.parse_args()
    # Also in the background, where shells let Ctrl-C be ignored: Ray and the server must not stay.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(3))
    first = random.randrange(10**6) if args.seed is None else args.seed
    wanted = args.fault or list(FAULTS)
    for fault in wanted:
        if missing(fault):
            print(f"left out: {fault}: {missing(fault)}", flush=True)
    faults = [fault for fault in wanted if not missing(fault)]
    outcomes: list[Outcome] = []
    started = time.monotonic()
    print(f"seeds {first} to {first + args.runs - 1}", flush=True)
    with open_campaign() as campaign:
        for seed in range(first, first + args.runs):
            if args.minutes and time.monotonic() - started > 60 * args.minutes:
                break
            # In turn, so that a campaign cut short has all of them.
            outcome = campaign.play(
                faults[seed % len(faults)], seed, store=args.store, job=args.job
            )
            outcomes.append(outcome)
            print(_line(outcome), flush=True)
            if args.out:
                figures = _figures(outcomes, first, time.monotonic() - started)
                write_results("faults", figures, path=args.out, is_partial=True)
    bad = [outcome for outcome in outcomes if outcome.problem]
    print(f"{len(outcomes)} runs, {len(bad)} with a problem", flush=True)
    write_results("faults", _figures(outcomes, first, time.monotonic() - started), path=args.out)
    return 1 if bad else 0


def _line(outcome: Outcome) -> str:
    place = f"{outcome.store} {outcome.job}{' replacing' if outcome.had_rows else ''}"
    line = (
        f"seed {outcome.seed} {outcome.fault} ({place}): exits {list(outcome.exit_codes)}, "
        f"{sum(outcome.store_faults.values())} store faults, {outcome.seconds} s"
    )
    return f"{line}: {outcome.problem}" if outcome.problem else line


def _figures(outcomes: list[Outcome], first: int, seconds: float) -> dict[str, Any]:
    store_faults: Counter[str] = Counter()
    for outcome in outcomes:
        store_faults.update(outcome.store_faults)
    return {
        "runs": len(outcomes),
        "seeds": [first, first + len(outcomes) - 1],
        "problems": [asdict(outcome) for outcome in outcomes if outcome.problem],
        "runs_by_fault": Counter(outcome.fault for outcome in outcomes),
        "runs_by_store": Counter(outcome.store for outcome in outcomes),
        "runs_that_replaced_rows": sum(outcome.had_rows for outcome in outcomes),
        "drivers_by_exit_code": Counter(
            str(code) for outcome in outcomes for code in outcome.exit_codes
        ),
        "store_faults": store_faults,
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
