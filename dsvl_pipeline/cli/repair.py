"""``dsvl repair``: lost and damaged parts leave the table, and the next run computes them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.options import DRY_RUN, TABLE, named_by_user, option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.wording import amount

if TYPE_CHECKING:
    from dsvl_pipeline.table.repair import Repair

EXAMPLES = """\
dsvl repair out/demo --dry-run
dsvl repair out/demo && dsvl run configs/demo.yaml"""
NOTES = """\
It reads every part. One that is missing, or not what was committed, leaves the log in one commit.
Where a good copy lies with those of earlier versions, the part is put back instead. What is left of
a damaged file is kept in _dsvl/superseded until `dsvl vacuum`. Then run the job again: it computes
what is missing, each row once. Rows whose input is gone cannot be computed again: restore the file
from a copy instead, if there is one. Damaged checkpoints of the log are made anew.
More than a tenth of the parts (and more than three), or all of several, leave with --yes only: was
data/ moved, or restored only in part?
It takes the table's lease: it is refused while a run is at work."""
EXIT_CODES = {
    0: "nothing to repair, or repaired",
    1: "--dry-run found something",
    2: "there is no table at OUT, or --yes is needed",
    3: "a run is at work, the log is damaged, or a store failed",
}
OPTIONS = (
    TABLE,
    DRY_RUN,
    option("--yes", action="store_true", help="drop parts however many they are"),
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Repair, name what was wrong and what to do next."""
    from dsvl_pipeline.table.repair import repair

    with named_by_user():
        done = repair(args.out, is_dry=args.dry_run, is_sure=args.yes)
    value = {"is_dry_run": args.dry_run, "num_rows": done.num_rows, **asdict(done)}
    output.result(value, _lines(done, is_dry=args.dry_run))
    return int(args.dry_run and bool(done.restored or done.dropped or done.checkpoints))


def _lines(done: Repair, *, is_dry: bool) -> Iterator[str]:
    for damage in done.restored:
        yield f"{'can be put back' if is_dry else 'put back from a copy'}: {damage.part.path}"
    for damage in done.dropped:
        yield f"{'to be dropped' if is_dry else 'dropped'}: {damage.part.path}: {damage.what}"
    for uri in done.checkpoints:
        yield f"{'to be made anew' if is_dry else 'made anew'}: {uri}"
    num_bad = len(done.restored) + len(done.dropped)
    yield f"{amount(num_bad, 'part')} of {done.num_parts:,} lost or damaged"
    if done.dropped:
        verb = "would leave" if is_dry else "left"
        yield (
            f"{amount(done.num_rows, 'row')} {verb} the table: run its job again to compute them. "
            "Rows whose input is gone cannot be computed again, only restored from a copy of the "
            "file"
        )
    if is_dry and done.is_large:
        yield "that many leave with --yes only: was data/ moved, or restored only in part?"
