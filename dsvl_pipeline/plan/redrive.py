"""Some rows of a table once more, with other settings.

A redriven row keeps the row key that the job file gives it: it is up to date for the job as it
stands, though its ``recipe`` says what really made it. The next run leaves it alone, until the
content, the prompt or the job file changes. One whose redrive ends in an error keeps the answer
that it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsvl_pipeline.errors import ConfigError, NotFoundError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.places import absolute_place
from dsvl_pipeline.table.failures import Selection
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.schema import is_among, logical_key, without_pages

IS_ANSWER = "is_answer"
"""Column of the committed rows that are redriven: whether there is an answer to lose."""

_FIXED = ("name", "prompts", "output")
_FIXED_INPUT = ("manifest", "images", "documents", "columns", "carry", "check_changes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """Which rows run again, and for which job.

    Attributes:
        selection: Of the table's rows.
        base: The job as its file stands: which rows there are, what they are asked and what
            their keys are. The job that runs may differ from it in how it answers.
    """

    selection: Selection
    base: JobConfig

    @property
    def named_rows(self) -> frozenset[str]:
        """Rows that are selected by their id alone, so that each of them must be there."""
        wanted = self.selection
        return frozenset() if wanted.codes or wanted.stages else wanted.row_ids

    def check(self, job: JobConfig) -> None:
        """Refuse a job that is another one, or has no table yet.

        Raises:
            ConfigError: It is, or has none.
        """
        changed = _changed(self.base, job, _FIXED)
        changed += [f"input.{name}" for name in _changed(self.base.input, job.input, _FIXED_INPUT)]
        if changed:
            raise ConfigError(
                f"redrive: {', '.join(changed)} cannot be set for some rows of a table alone; "
                "change the job file and run it, or leave the setting out"
            )
        try:
            read_snapshot(absolute_place(job.output.uri))
        except NotFoundError as error:
            raise ConfigError(f"redrive: {error}; run the job first") from error

    def narrow(
        self, wanted: pa.Table, committed: pa.Table, selected: pa.Table
    ) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Return the wanted rows that are selected, what is committed of them, and all else.

        What is committed of them comes as if it had failed. All else stays as it is: the same
        row's answers to other prompts, and a row whose file is gone.

        Args:
            wanted: Of `rows.work_schema`.
            committed: What `compare.compare` takes.
            selected: Logical keys.
        """
        documents = without_pages(selected)  # what is wanted of a document has no page yet
        has_pages = pc.not_equal(wanted["kind"], "image")
        is_wanted = pc.if_else(has_pages, is_among(wanted, documents), is_among(wanted, selected))
        is_there = pc.not_equal(wanted["content_id"], b"")
        wanted = wanted.filter(pc.and_(is_wanted, is_there))
        has_answer = pc.not_equal(committed["status"], "error")
        committed = committed.append_column(IS_ANSWER, has_answer)
        is_concerned = is_among(without_pages(committed), wanted)
        others = committed.filter(pc.invert(is_concerned))
        committed = committed.filter(is_concerned)
        is_again = pc.is_in(logical_key(committed), logical_key(selected).combine_chunks())
        for name, value in (("status", "error"), ("is_retryable", True)):
            column = pc.if_else(is_again, pa.scalar(value), committed[name])
            committed = committed.set_column(committed.column_names.index(name), name, column)
        return wanted, committed, others


def replacing(rows: pa.Table, answers: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Divide redriven rows: those that go into the table, and errors that would cost an answer.

    Args:
        rows: Output rows.
        answers: Logical keys of the answers that are redriven.
    """
    # A document that can no longer be opened is one error for all of its pages.
    is_known = pc.or_(is_among(rows, answers), is_among(rows, without_pages(answers)))
    is_loss = pc.and_(pc.equal(rows["status"], "error"), is_known)
    return rows.filter(pc.invert(is_loss)), rows.filter(is_loss)


def is_kept(stale: pa.Table, losses: pa.Table) -> pa.ChunkedArray:
    """Return which committed rows stay because their redrive failed.

    Args:
        stale: Logical keys of what the redrive was to replace.
        losses: From `replacing`.
    """
    return pc.or_(is_among(stale, losses), is_among(without_pages(stale), losses))


def _changed(one: Any, other: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(one, name) != getattr(other, name)]
