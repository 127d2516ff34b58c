"""What is printed after a run, and by ``dsvl status``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.text import columns, duration, hours, money, shorten
from dsvl_pipeline.wording import amount

if TYPE_CHECKING:
    from dsvl_pipeline.run.summary import RunSummary
    from dsvl_pipeline.sources.skips import Skipped

MAX_ROWS_SHOWN = 50
"""A table of at most this many rows (the demo, a trial with --limit) is shown after its run."""

_BLANK = "blank_page"


def print_run(result: RunSummary, *, max_error_fraction: float) -> None:
    """Print how a run ended, and the rows themselves if they are few."""
    rows = result.ok + result.degraded + result.errors
    if 0 < rows <= MAX_ROWS_SHOWN:
        print_rows(result.output_uri)
        print()
    if result.rows_new:
        print(
            f"{amount(result.rows_new, 'new row')} in {duration(result.seconds)}, "
            f"{result.rows_up_to_date:,} already up to date"
        )
    else:
        print(f"nothing to compute, {amount(result.rows_up_to_date, 'row')} already up to date")
    print_counts(
        {"ok": result.ok, "degraded": result.degraded, "error": result.errors}, result.error_codes
    )
    if line := engine_line(result.engine):
        print(line)
    if line := cost_line(result):
        print(line)
    for line in _remarks(result):
        print(line)
    print_skipped(result.skipped)
    for warning in result.warnings:
        print(f"warning: {warning}")
    if result.exit_code == 1:
        print(
            f"exit code 1: {result.errors_wanted / result.rows_wanted:.1%} of the rows failed, "
            f"more than max_error_fraction allows ({max_error_fraction:.1%})"
        )
    uri = result.output_uri
    print(f"table: {uri}    more: dsvl status {uri}, dsvl export {uri} rows.csv")


def print_skipped(skipped: Iterable[Skipped]) -> None:
    """Print what the input holds beside its rows; nothing where that is nothing."""
    for setting, same in groupby(skipped, key=lambda one: one.setting):
        reasons = list(same)
        count = sum(one.count for one in reasons)
        print(f"skipped of {setting}: {count:,}")
        for one in reasons:
            examples = ", ".join(shorten(repr(name), 120) for name in one.examples)
            print(f"  {one.count:,}: {shorten(one.reason, 200)}; e.g. {examples}")


def engine_line(engine: Mapping[str, float]) -> str:
    """Put what the engines did into words; nothing where they answered nothing."""
    up_s, new_tokens = engine.get("up_s", 0.0), engine.get("new_tokens", 0.0)
    if not up_s or not new_tokens:
        return ""
    num_engines = int(engine["engines"])
    parts = [
        f"{amount(int(new_tokens), 'new token')}",
        f"{new_tokens / up_s:,.0f} tokens/s of each of {amount(num_engines, 'engine')}",
    ]
    phases = {name: engine.get(f"{name}_s", 0.0) for name in ("vision", "prefill", "decode")}
    if any(phases.values()):
        parts += [f"{name} {seconds:.1f} s" for name, seconds in phases.items()]
        parts.append(f"busy {sum(phases.values()) / up_s:.0%} of their time")
    if "occupancy" in engine:
        parts.append(f"{engine['occupancy']:.0%} of the lanes filled")
    if "kv_use" in engine:
        parts.append(f"at most {engine['kv_use']:.0%} of the KV pages used")
    if preemptions := int(engine.get("preemptions", 0)):
        parts.append(amount(preemptions, "preemption"))
    if step_downs := int(engine.get("step_downs", 0)):
        parts.append(f"{amount(step_downs, 'step-down')} for want of memory")
    return "engine: " + ", ".join(parts)


def cost_line(result: RunSummary) -> str:
    """Put into words how fast the rows came and what they cost; nothing where there were none."""
    if not result.rows_new:
        return ""
    parts = [f"{result.rows_per_s:,.1f} rows/s over the whole run"]
    if result.gpu_busy is not None:
        parts.append(f"engines busy {result.gpu_busy:.0%} while loaded")
    if result.gpu_hours:
        parts.append(f"{hours(result.gpu_hours)} GPU-hours")
    if result.price is not None and result.price_per_1000_rows is not None:
        per_1000 = money(result.price_per_1000_rows, result.currency)
        parts.append(f"{money(result.price, result.currency)}, {per_1000} per 1,000 rows")
    return "cost: " + ", ".join(parts)


def _remarks(result: RunSummary) -> Iterator[str]:
    """What the counts do not say by themselves."""
    num_blank = result.error_codes.get(_BLANK, 0)
    if num_cut := result.degraded - num_blank:
        yield f"degraded: {amount(num_cut, 'answer')} cut off; raise generation.max_new_tokens"
    if num_blank:
        yield f"degraded: {amount(num_blank, 'page')} blank; the model was not asked"
    if result.rows_carried:
        yield (
            f"carried values of {amount(result.rows_carried, 'row')} changed: written again with "
            "the answers that they had"
        )
    if result.errors_kept:
        yield f"{amount(result.errors_kept, 'error row')} kept; --fresh computes them again"
    if result.rows_staying:
        yield (
            f"{amount(result.rows_staying, 'row')} of earlier inputs or prompts stay "
            f"({amount(result.errors_staying, 'error')})"
        )


def print_counts(by_status: Mapping[str, int], error_codes: Mapping[str, int]) -> None:
    """Print rows by status, then by error code, the most frequent first."""
    total = sum(by_status.values())
    lines = [("status", "rows", "share")]
    lines += [(s, f"{n:,}", f"{n / total:.1%}" if total else "-") for s, n in by_status.items()]
    lines.append(("all", f"{total:,}", ""))
    print("\n".join(columns(lines)))
    # Of the codes this one alone belongs to no error.
    error_codes = {code: rows for code, rows in error_codes.items() if code != _BLANK}
    if error_codes:
        most_first = sorted(error_codes.items(), key=lambda item: (-item[1], item[0]))
        print("\n".join(columns([("error code", "rows"), *((c, f"{n:,}") for c, n in most_first)])))


def print_rows(uri: str) -> None:
    """Print every row of a small table: what was read, its status, the answer or the error."""
    from dsvl_pipeline.store.uris import is_absolute, last_part
    from dsvl_pipeline.table.reader import read_table

    wanted = ["row_id", "page_index", "prompt_id", "status", "text", "error_code", "error_message"]
    rows = read_table(uri, columns=wanted).to_pylist()
    rows.sort(key=lambda row: (row["row_id"], row["page_index"] or 0, row["prompt_id"]))
    has_prompts = len({row["prompt_id"] for row in rows}) > 1
    width = max(24, shutil.get_terminal_size((120, 24)).columns - 50)
    lines = [("input", "status", "answer or error")]
    for row in rows:
        name = last_part(row["row_id"]) if is_absolute(row["row_id"]) else row["row_id"]
        page = "" if row["page_index"] is None else f" page {row['page_index'] + 1}"
        prompt = f" ({row['prompt_id']})" if has_prompts else ""
        failed = row["status"] == "error"
        answer = f"{row['error_code']}: {row['error_message']}" if failed else row["text"] or ""
        lines.append((shorten(name + page + prompt, 36), row["status"], shorten(answer, width)))
    print("\n".join(columns(lines)))
