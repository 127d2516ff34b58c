"""Rows whose preprocessing may kill its process, prepared in another one.

A decoder that hangs or crashes takes its task's process with it, and Ray starts the task again.
From then on each row is prepared in a child that lives until a row kills it; that row is then
known, and becomes an error row.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsvl_pipeline.errors import DocumentError, ImageError, PromptError, RowError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.sandbox.child import Child

_CHILD = Path(__file__).with_name("row_child.py")
_LONGEST_FETCH_S = 900.0
_TIME_IS_UP = (-signal.SIGALRM, -signal.SIGXCPU)


class Isolated:
    """Prepares rows in a process of their own, replaced when one of them kills it."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job
        self._child: Child | None = None

    def prepare(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare a row as `preprocess` does.

        Raises:
            RowError: The row killed the process, or would not end.
        """
        if self._child is None:
            self._child = Child(_CHILD)
        limit_s = self._job.input.image_timeout_s * (1 + len(row["sources"])) + _LONGEST_FETCH_S
        try:
            # Not as an argument of the process, which everybody may read: it may have a password.
            _, body = self._child.exchange({}, pickle.dumps((dict(row), self._job)), limit_s)
        except (EOFError, BrokenPipeError, TimeoutError) as error:
            raise self._cause(row, is_late=isinstance(error, TimeoutError)) from None
        prepared: dict[str, Any] = pickle.loads(body)
        return prepared

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.end()

    def _cause(self, row: Mapping[str, Any], *, is_late: bool) -> RowError:
        child, self._child = self._child, None
        assert child is not None
        how = child.end()
        kind: type[RowError] = DocumentError if row["page_index"] is not None else ImageError
        what = "page" if row["page_index"] is not None else "image"
        if not row["sources"]:
            kind, what = PromptError, "prompt"
        if is_late or child.process.returncode in _TIME_IS_UP:
            return kind(
                f"{what}_timeout",
                f"preparing the {what} took longer than input.image_timeout_s = "
                f"{self._job.input.image_timeout_s:g}; raise it if that may be",
                is_retryable=True,
            )
        return kind(
            f"{what}_crashed",
            f"preparing the {what} ended its process twice ({how}); the file may be damaged or "
            f"need more memory than input.image_memory_gib = {self._job.input.image_memory_gib:g}",
        )
