"""``dsvl repair``: lost and damaged parts leave the table, and the next run computes them."""

from __future__ import annotations

import argparse

from dsvl_pipeline.cli.arguments import named_by_user
from dsvl_pipeline.wording import amount

HELP = "take lost and damaged parts out of a table, so that the next run computes their rows again"
EPILOG = """\
examples:
  dsvl repair out/demo --dry-run
  dsvl repair out/demo && dsvl run configs/demo.yaml

It reads every part. One that is missing, or not what was committed, leaves the log in one commit;
where a good copy lies with those of earlier versions, the part is put back instead. What is left of
a damaged file is kept in _dsvl/superseded until `dsvl vacuum`. Then run the job again: it computes
what is missing, each row once. Rows whose input is gone cannot be computed again: restore the file
from a copy instead, if there is one. Damaged checkpoints of the log are made anew.
More than a tenth of the parts (and more than three), or all of several, leave with --yes only: was
data/ moved, or restored only in part?
It takes the table's lease: it is refused while a run is at work.
exit codes: 0 nothing to repair, or repaired; 1 --dry-run found something; 2 there is no table at
OUT, or --yes is needed; 3 a run is at work, the log is damaged, or a store failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("out", metavar="OUT", help="the table: output.uri of its job")
    parser.add_argument("--dry-run", action="store_true", help="only tell what is damaged")
    parser.add_argument("--yes", action="store_true", help="drop parts however many they are")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Repair, name what was wrong and what to do next."""
    from dsvl_pipeline.table.repair import repair

    with named_by_user():
        done = repair(args.out, is_dry=args.dry_run, is_sure=args.yes)
    is_dry = args.dry_run
    for damage in done.restored:
        print(f"{'can be put back' if is_dry else 'put back from a copy'}: {damage.part.path}")
    for damage in done.dropped:
        print(f"{'to be dropped' if is_dry else 'dropped'}: {damage.part.path}: {damage.what}")
    for uri in done.checkpoints:
        print(f"{'to be made anew' if is_dry else 'made anew'}: {uri}")
    num_bad = len(done.restored) + len(done.dropped)
    print(f"{amount(num_bad, 'part')} of {done.num_parts:,} lost or damaged")
    if done.dropped:
        verb = "would leave" if is_dry else "left"
        print(
            f"{amount(done.num_rows, 'row')} {verb} the table: run its job again to compute them. "
            "Rows whose input is gone cannot be computed again, only restored from a copy of the "
            "file"
        )
    if is_dry and done.is_large:
        print("that many leave with --yes only: was data/ moved, or restored only in part?")
    return int(is_dry and bool(num_bad or done.checkpoints))
