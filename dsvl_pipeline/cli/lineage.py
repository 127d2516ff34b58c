"""``dsvl lineage``: the whole history of a row."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsvl_pipeline.cli.options import NO_STORE, TABLE, named_by_user, option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import columns, one_line, shorten
from dsvl_pipeline.job.fields import fields_of

if TYPE_CHECKING:
    from dsvl_pipeline.table.columns import Section
    from dsvl_pipeline.table.history import RowHistory, Stage
    from dsvl_pipeline.table.lineage import RunManifest

Lines = tuple[tuple[str, str, str], ...]

EXAMPLES = """\
dsvl lineage out/demo "$PWD/photos/a.jpg"
dsvl lineage s3://bucket/pages s3://bucket/pdfs/report.pdf --page 3 --prompt text"""
NOTES = "ROW is a row_id; all its pages (counted from 0) and prompts are told, unless one is named."
EXIT_CODES = {0: "told", 2: "there is no such table or row", 3: NO_STORE}
OPTIONS = (
    TABLE,
    option("row", metavar="ROW", help="its row_id"),
    option("--page", type=int, metavar="N", help="only this page_index"),
    option("--prompt", metavar="ID", help="only this prompt_id"),
)

_OF_ROW: tuple[Section, ...] = ("answer", "read", "asked", "made")
_OF_RUN: tuple[Section, ...] = ("model", "run")  # the same for all rows of a run, and told once
_MOST_NUMBERS = 8
_TELL = {
    "answered": "answered; the table had no answer to it then",
    "replaced": "answered anew, in the place of the answer below",
    "carried": "written again, as what it carries changed; the answer is the one below",
    "moved": "moved here when other rows of its part were replaced or written again",
    "merged": "merged into this part by a compaction",
    "left": "the answer below left the table then, and nothing took its place",
    "dropped": "a repair dropped this lost or damaged part, which may have held an earlier answer",
    "gone": "what stood before was vacuumed",
    "unknown": "what stood before, if anything did, was vacuumed",
}


def execute(args: argparse.Namespace, output: Output) -> int:
    """Find the rows, print their histories."""
    from dsvl_pipeline.store.uris import row_id_of
    from dsvl_pipeline.table.history import row_histories

    with named_by_user():
        histories = row_histories(
            args.out, row_id_of(args.row), page_index=args.page, prompt_id=args.prompt
        )
    told = set[Lines]()
    texts = ["\n".join(_describe(history, told)) for history in histories]
    output.result({"rows": [_value(history) for history in histories]}, "\n\n".join(texts))
    return 0


def _value(history: RowHistory) -> dict[str, Any]:
    log = [
        {
            "event": stage.event,
            "version": stage.entry.number,
            "committed_at": stage.entry.committed_at,
            "run_id": stage.entry.author.run_id,
            "part": stage.part.path if stage.part is not None else None,
            "sha256": stage.part.sha256 if stage.part is not None else None,
            "text": stage.row.get("text"),
        }
        for stage in history.stages
    ]
    return {"row": dict(history.row), "run": history.run, "log": log}


def _describe(history: RowHistory, told: set[Lines]) -> Iterator[str]:
    from dsvl_pipeline.table.schema import OUR_COLUMNS

    row = history.row
    page = "" if row["page_index"] is None else f", page_index {row['page_index']}"
    yield one_line(f"row {row['row_id']}{page}, prompt {row['prompt_id']}")
    users = [name for name in row if name not in OUR_COLUMNS]
    fields = [name for name in users if name in _fields(history.run)]
    carried = [name for name in users if name not in fields]
    sections = {**_columns_of(_OF_ROW), "answer's fields": fields, "carried": carried}
    lines = _known(row, sections)
    of_run = _of_run(history)
    if of_run not in told:
        told.add(of_run)
        lines += of_run
    else:
        lines += (("run", "", "model and run are those of a row above"),)
    yield from (f"  {line}" for line in columns(lines))
    yield "  log, newest first"
    yield from (f"    {one_line(line)}" for line in _log(history.stages))


def _columns_of(sections: Iterable[Section]) -> dict[str, list[str]]:
    from dsvl_pipeline.table.columns import told_under

    return {section: told_under(section) for section in sections}


def _known(row: Mapping[str, Any], sections: Mapping[str, Iterable[str]]) -> Lines:
    lines: Lines = ()
    for section, names in sections.items():
        known = [
            (name, _numbers(row[name]) if name == "logprobs" else _text(row[name]))
            for name in names
            if row.get(name) not in (None, [])
        ]
        lines += tuple((section if not i else "", *pair) for i, pair in enumerate(known))
    return lines


def _of_run(history: RowHistory) -> Lines:
    lines, run = _known(history.row, _columns_of(_OF_RUN)), history.run
    if run is None:
        return lines
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    has_begun = any(section == "run" for section, *_ in lines)
    return (
        *lines,
        ("" if has_begun else "run", "status", f"{run.status}, {_times(run)}"),
        ("", "job", f"{run.job.get('name')}, digest {run.job_digest}"),
        ("", "versions", versions),
    )


def _times(run: RunManifest) -> str:
    return f"{run.started_at} to {run.finished_at or 'an end that is not known'}"


def _fields(run: RunManifest | None) -> set[str]:
    """Name the columns that the job's schemas make of an answer."""
    prompts = run.job.get("prompts") or () if run is not None else ()
    return {name for prompt in prompts for name in fields_of(prompt.get("schema") or {})}


def _log(stages: Sequence[Stage]) -> Iterator[str]:
    for stage in stages:
        entry, told = stage.entry, _TELL[stage.event]
        if stage.event == "answered" and stage is stages[-1]:
            told = "answered for the first time"
        if stage.event in ("gone", "unknown"):
            yield f"before version {entry.number}: {told}"
            continue
        yield f"version {entry.number}, {entry.committed_at}, {entry.author.run_id}: {told}"
        if stage.part is not None:
            yield f"  {stage.part.path}, sha256 {stage.part.sha256}"
        if stage.event in ("answered", "replaced"):
            row = stage.row
            yield (
                f"  run {row['run_id']}, {row['status']}, recipe {row['recipe']}, "
                f"row_key {_text(row['row_key'])}: "
                f"{shorten(row['text'] or row['error_code'] or 'no text', 60)}"
            )


def _numbers(values: Sequence[float | None]) -> str:
    """Give the first log-probabilities, in short: there is one for each token."""
    shown = ", ".join("-" if item is None else f"{item:.4g}" for item in values[:_MOST_NUMBERS])
    return shown if len(values) <= _MOST_NUMBERS else f"{shown}, ... ({len(values):,} in all)"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return ", ".join("-" if item is None else _text(item) for item in value)
    return shorten(str(value), 1000)  # a message ends with what to do
