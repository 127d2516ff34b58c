"""What a run came to, in figures and in words; the counts of ``dsvl status`` too."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dsvl_pipeline.cli.text import columns, hours, money, shorten
from dsvl_pipeline.wording import amount, duration

if TYPE_CHECKING:
    from dsvl_pipeline.run.summary import RunSummary
    from dsvl_pipeline.sources.skips import Skipped

MAX_ROWS_SHOWN = 50
"""A table of at most this many rows (the demo, a trial with --limit) is shown after its run."""

_BLANK = "blank_page"


def figures(result: RunSummary) -> dict[str, Any]:
    """Return all that is known of a run that has ended, by name."""
    derived = ("rows_per_s", "gpu_busy", "gpu_hours", "price_per_1000_rows")
    return asdict(result) | {name: getattr(result, name) for name in derived}


def run_lines(result: RunSummary, *, max_error_fraction: float) -> Iterator[str]:
    """Say how a run ended, and show the rows themselves if they are few."""
    rows = result.ok + result.degraded + result.errors
    if 0 < rows <= MAX_ROWS_SHOWN:
        yield from row_lines(result.output_uri)
        yield ""
    if result.rows_new:
        yield (
            f"{amount(result.rows_new, 'new row')} in {duration(result.seconds)}, "
            f"{result.rows_up_to_date:,} already up to date"
        )
    else:
        yield f"nothing to compute, {amount(result.rows_up_to_date, 'row')} already up to date"
    yield from count_lines(result.ok, result.degraded, result.errors, result.error_codes)
    yield from filter(None, (engine_line(result.engine), cost_line(result)))
    yield from _remarks(result)
    yield from skipped_lines(result.skipped)
    for warning in result.warnings:
        yield f"warning: {warning}"
    if result.exit_code == 1:
        yield (
            f"exit code 1: {result.errors_wanted / result.rows_wanted:.1%} of the rows failed, "
            f"more than max_error_fraction allows ({max_error_fraction:.1%})"
        )
    uri = result.output_uri
    yield f"table: {uri}    more: dsvl status {uri}, dsvl export {uri} rows.csv"


def skipped_lines(skipped: Iterable[Skipped]) -> Iterator[str]:
    """Say what the input holds beside its rows; nothing where that is nothing."""
    for setting, same in groupby(skipped, key=lambda one: one.setting):
        reasons = list(same)
        count = sum(one.count for one in reasons)
        yield f"skipped of {setting}: {count:,}"
        for one in reasons:
            examples = ", ".join(shorten(repr(name), 120) for name in one.examples)
            yield f"  {one.count:,}: {shorten(one.reason, 200)}; e.g. {examples}"


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
    """Say what the counts do not say by themselves."""
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


def count_lines(ok: int, degraded: int, errors: int, error_codes: Mapping[str, int]) -> list[str]:
    """Count rows by status, then by error code, the most frequent first."""
    total = ok + degraded + errors
    lines = [("status", "rows", "share")]
    for status, rows in (("ok", ok), ("degraded", degraded), ("error", errors)):
        lines.append((status, f"{rows:,}", f"{rows / total:.1%}" if total else "-"))
    lines.append(("all", f"{total:,}", ""))
    # Of the codes this one alone belongs to no error.
    codes = [(code, rows) for code, rows in error_codes.items() if code != _BLANK]
    if not codes:
        return columns(lines)
    codes.sort(key=lambda item: (-item[1], item[0]))
    return columns(lines) + columns([("error code", "rows"), *((c, f"{n:,}") for c, n in codes)])


def row_lines(uri: str) -> list[str]:
    """Show every row of a small table: what was read, its status, the answer or the error."""
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
    return columns(lines)
