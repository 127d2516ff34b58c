"""``docs/table.md``: the columns, files, statuses and error codes of a table.

Use:  python -m tools.render_table
after a change of ``dsvl_pipeline/table/columns.py`` or ``dsvl_pipeline/codes.py``; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dsvl_pipeline.codes import STAGES, codes_of
from dsvl_pipeline.table.columns import LINEAGE, OCCASION, PLACES, RESULT, Column

PAGE = Path(__file__).resolve().parents[1] / "docs" / "table.md"

_HEAD = """\
# The table

A job writes its answers to the table at `output.uri`. Each prompt for each image or page is one
row, whatever became of it. The rows lie in Parquet files, which pandas, DuckDB and Spark open as
they are. `dsvl_pipeline.read_table(uri)` reads exactly what was committed, also during a run.

Made by `python -m tools.render_table` from `dsvl_pipeline/table/columns.py` and
`dsvl_pipeline/codes.py`; change those.
"""
_BETWEEN = """\
Here follow two groups of columns that are yours:

- one for each property of the prompts' JSON schemas, null where an answer does not fit its schema;
- one for each column in `input.carry`, with the values of the row's input.
"""
_OLDER = """\
A column that a later version added is null in the rows of an earlier one. Adding one breaks no
reader: names and types of the others stay.
"""
LAYOUT = """\
data/00000/00000001-<32 hex digits>.parquet   a part: rows of shard 0, written under lease 1
_dsvl/format.json                             version of the layout, number of shards
_dsvl/log/00000001.json                       a commit: parts that join, parts that leave
_dsvl/checkpoints/00000100.json               what the commits up to this one add up to
_dsvl/lease/00000001.json                     the driver that holds the table
_dsvl/lease/00000001.renewed.json             its heartbeat
_dsvl/runs/<run_id>.json                      a run: job, model, versions, how it ended
_dsvl/superseded/data/00000/<part>.parquet    a part that left, kept for earlier versions
_dsvl/plan/<run_id>-00000-000000.parquet      work of a run, encrypted; gone after a good end
_dsvl/openlineage/<run_id>-start.jsonl        an OpenLineage event
"""
_LAYOUT_NOTES = """\
The log decides: a part that no commit names is not in the table. After a run that ended well
`data/` holds exactly the table. During a run, or after one that was killed, it may hold more; then
use `read_table`, `dsvl export`, or wait for the next good end. `dsvl verify` compares all of it.
"""
_STATUSES = """\
| status | what it means |
|---|---|
| `ok` | The answer is whole. |
| `degraded` | There is an answer, with a defect that `finish_reason` or `error_code` names. |
| `error` | There is no answer, and `error_code` says why. |

An error with `is_retryable` is asked again by the next run. Any other stays until its input, its
prompt or the job changes, or until `dsvl redrive` or `dsvl run --fresh`.
"""


def rendered() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_columns(), *_files(), *_statuses()])


def _columns() -> Iterator[str]:
    yield "## Columns\n\n### What was asked and answered\n"
    yield from _table(RESULT)
    yield _BETWEEN
    yield "### What the answer was made from\n"
    yield from _table(LINEAGE)
    yield "### When and where it was made\n"
    yield "These differ between two runs of one plan; all others are the same.\n"
    yield from _table(OCCASION)
    yield _OLDER
    yield "Filled by:\n"
    yield from (f"- {name}: {what}" for name, what in PLACES.items())
    yield ""


def _table(columns: Iterable[Column]) -> Iterator[str]:
    yield "| column | type | meaning | null in | filled by |\n|---|---|---|---|---|"
    for one in columns:
        kind = str(one.type).replace("element: ", "").replace("item: ", "")
        cells = [f"`{one.name}`", f"`{kind}`", one.meaning, one.nulls or "-", ", ".join(one.filled)]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _files() -> Iterator[str]:
    yield f"## Files\n\n```\n{LAYOUT}```\n"
    yield _LAYOUT_NOTES


def _statuses() -> Iterator[str]:
    yield f"## Statuses\n\n{_STATUSES}"
    yield "## Error codes\n\n`dsvl failures OUT` counts them, by the stage to look at.\n"
    yield "| stage | codes |\n|---|---|"
    for stage in STAGES:
        if codes := codes_of(stage):
            yield f"| {stage} | {', '.join(f'`{code}`' for code in codes)} |"
    yield ""


def main() -> None:
    """Write the page."""
    PAGE.write_text(rendered(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
