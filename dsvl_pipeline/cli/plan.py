"""``dsvl plan``: what a run would do, and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.options import FRESH, JOB, LIMIT, SET, job_file, option, positive_int
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.summary import skipped_lines
from dsvl_pipeline.cli.text import columns, hours, money, one_line, shorten
from dsvl_pipeline.wording import amount, duration

if TYPE_CHECKING:
    from dsvl_pipeline.run.explanation import Explanation
    from dsvl_pipeline.run.prediction import Prediction
    from dsvl_pipeline.run.preview import Preview

EXAMPLES = """\
dsvl plan job.yaml
dsvl plan job.yaml --set generation.max_new_tokens=64
dsvl plan job.yaml --explain SKU-0042
dsvl plan job.yaml --explain "$PWD/photos/a.jpg"        # of a file that input.images names
dsvl plan job.yaml --sample 500"""
NOTES = """\
It reads the whole input and the keys of the table, and may run beside a job. It joins the Ray
cluster of the job, or starts one on this machine, as a run does, however few the rows are. That
takes some seconds and about 1.5 GiB of memory. What counts as up to date depends on whether
engines have GPUs.
What a run would take is predicted from the table's last run of the same recipe. With --sample the
job's engines answer that many rows first, and these are measured; their answers are not kept.
--explain also says of a file that no setting reads why it is skipped."""
EXIT_CODES = {
    0: "shown",
    2: "the job, its input or its output is wrong, or there is no such row",
    3: "a store failed, or Ray did not start",
}
OPTIONS = (
    JOB,
    SET,
    LIMIT,
    FRESH,
    option("--explain", metavar="ROW", help="say of one row, by its id, why it would run or not"),
    option(
        "--sample",
        type=positive_int,
        default=0,
        metavar="N",
        help="predict time and price from answering N of the rows now",
    ),
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Plan and print."""
    from dsvl_pipeline.job.reading import load_job

    job = load_job(job_file(args), args.set)
    from dsvl_pipeline.run.explanation import explain
    from dsvl_pipeline.run.preview import preview
    from dsvl_pipeline.store.uris import row_id_of

    if args.explain is not None:
        found = list(explain(job, row_id_of(args.explain), fresh=args.fresh))
        value = {"row_id": args.explain, "explanations": found}
        output.result(value, (line for one in found for line in _explained(args.explain, one)))
        return 0
    result = preview(job, limit=args.limit, fresh=args.fresh, sample=args.sample)
    output.result(result, _lines(result))
    return 0


def _lines(result: Preview) -> Iterator[str]:
    yield from _counts("to run", result.to_run)
    unread = {"document": result.num_documents, "TIFF": result.num_tiffs}
    if any(unread.values()):
        files = " and ".join(amount(number, kind) for kind, number in unread.items() if number)
        yield f"  among them {files}, whose pages are not counted yet"
    yield from _counts("to keep", result.to_keep)
    if result.num_replaced:
        yield f"{amount(result.num_replaced, 'row')} of the table replaced by new answers"
    if result.num_dropped:
        dropped = amount(result.num_dropped, "row")
        yield f"{dropped} dropped: not in this input, and output.vanished is drop"
    yield from skipped_lines(result.skipped)
    if result.num_rewritten_parts:
        parts = amount(result.num_rewritten_parts, "part")
        yield f"{parts} written again with the same answers: carried values or types changed"
    if result.prediction is not None:
        yield from _predicted(result.prediction)
    elif result.to_run:
        yield "prediction: no run of this recipe was measured yet; --sample 500 answers some rows"


def _predicted(found: Prediction) -> Iterator[str]:
    parts = [
        f"{amount(found.rows, 'row')} in {duration(found.seconds)}",
        f"{found.rows_per_s:,.1f} rows/s",
        amount(found.new_tokens, "new token"),
    ]
    if found.gpu_busy is not None:
        parts.append(f"engines busy {found.gpu_busy:.0%} while loaded")
    engines = amount(found.replicas, "engine")
    parts.append(f"{hours(found.gpu_hours)} GPU-hours of {engines}" if found.gpu_hours else engines)
    if found.price is not None:
        per_1000 = money(1000 * found.price / found.rows, found.currency)
        parts.append(f"{money(found.price, found.currency)}, {per_1000} per 1,000 rows")
    yield "prediction: " + ", ".join(parts)
    yield f"  from {one_line(found.source)}; the start and the end of nodes are not in it"


def _counts(title: str, by_reason: Mapping[str, int]) -> list[str]:
    lines = [(title, f"{sum(by_reason.values()):,}")]
    lines += [(f"  {reason}", f"{rows:,}") for reason, rows in by_reason.items()]
    return columns(lines)


def _explained(row_id: str, found: Explanation) -> Iterator[str]:
    prompt = f", prompt {one_line(found.prompt_id)}" if found.prompt_id else ""
    pages = ""
    if found.pages:
        first, last = found.pages[0] + 1, found.pages[-1] + 1
        pages = (
            f", page {first}" if len(found.pages) == 1 else f", {amount(len(found.pages), 'page')}"
        )
        pages += f" ({first} to {last})" if len(found.pages) > 1 else ""
    verdict = "would run" if found.is_run else "would not run"
    yield f"{shorten(row_id, 200)}{prompt}{pages}: {verdict}; {one_line(found.reason)}"
    for detail in found.details:
        yield f"  {shorten(detail, 500)}"
