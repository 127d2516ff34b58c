"""Documents: PDF files as rows, and their pages as pictures."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from dsvl_pipeline.errors import DocumentError
from dsvl_pipeline.job.inputs import DocumentConfig
from dsvl_pipeline.records import Row, RowFailure
from dsvl_pipeline.sandbox.child import Child
from dsvl_pipeline.sources.listing import file_rows, find
from dsvl_pipeline.sources.skips import Skips
from dsvl_pipeline.store.named import Named

DOCUMENTS_PER_CHILD = 200
TEXT_TIMEOUT_S = 5.0
MAX_TEXT_CHARS = 50_000
_NO_TEXT = ("Cc", "Cn", "Co", "Cs")  # control, unassigned (U+FFFE), private, half characters
_CHILD = Path(__file__).with_name("pdf_child.py")

T = TypeVar("T")


def document_rows(
    patterns: Sequence[str | Named], *, num_carried: int = 0, skips: Skips | None = None
) -> Iterator[Row]:
    """Make a row of each document that the patterns name, sorted by URI.

    Raises:
        ConfigError: They name nothing (at once, not when the rows are read).
    """
    files = find(patterns, setting="input.documents", suffixes=(".pdf",), skips=skips)
    return file_rows(files, "document", num_carried)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPage:
    """A page's picture.

    Attributes:
        image: RGB.
        defect: Why this is not all there is to see, if it is not: ``page_count``,
            ``document_portfolio``, ``document_xfa`` or ``page_shape``.
    """

    image: Image.Image
    defect: RowFailure | None


class DocumentRenderer:
    """Renders pages in a process of its own, which is killed and replaced when it misbehaves.

    The process starts with the first document, serves `DOCUMENTS_PER_CHILD` of them and gets each
    document once, however many of its pages are asked for in a row. Thread-safe, one call at a
    time.
    """

    def __init__(self, config: DocumentConfig) -> None:
        self._config = config
        self._password = config.password_text
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._num_documents = 0
        self._document: bytes | None = None
        self._num_pages = 0

    def page_count(self, data: bytes) -> int:
        """Count a document's pages.

        Raises:
            DocumentError: ``document_encrypted``, ``document_unreadable``, ``document_too_long``,
                ``document_timeout`` (retryable) or ``document_crashed``.
        """
        with self._lock:
            self._retried_after_crash(lambda: self._open(data))
            return self._num_pages

    def render(self, data: bytes, page_index: int) -> Image.Image:
        """Render a page as RGB, as `page` does."""
        return self.page(data, page_index).image

    def page(self, data: bytes, page_index: int) -> RenderedPage:
        """Render a page, and tell whether it is all there is.

        Args:
            data: The document; pass the same object for all its pages.
            page_index: From 0.

        Raises:
            DocumentError: As for `page_count`, or ``page_unreadable``, ``page_timeout``
                (retryable) or ``page_crashed``.
        """
        command = {
            "command": "render",
            "page_index": page_index,
            "dpi": self._config.dpi,
            "max_px": self._config.max_page_px,
        }

        def ask() -> tuple[dict[str, Any], bytes]:
            self._open(data)
            return self._ask(command, what=f"page {page_index}")

        with self._lock:
            header, pixels = self._retried_after_crash(ask)
        defect = None
        if header["defects"]:
            messages = "; ".join(message for _, message in header["defects"])
            defect = RowFailure(code=header["defects"][0][0], message=messages)
        image = Image.frombytes("RGB", (header["width"], header["height"]), pixels)
        return RenderedPage(image=image, defect=defect)

    def text(self, data: bytes, page_index: int, *, max_chars: int = MAX_TEXT_CHARS) -> str:
        """Read a page's text layer: what it says itself, which may be anything or nothing.

        It is a hint, so a page whose text cannot be read, or not soon, has none.

        Args:
            data: The document; pass the same object for all its pages.
            page_index: From 0.
            max_chars: Longer text is cut.
        """
        command = {"command": "text", "page_index": page_index, "max_chars": max_chars}
        with self._lock:
            try:
                self._open(data)
                limit_s = min(TEXT_TIMEOUT_S, self._config.page_timeout_s)
                _, text = self._ask(command, what=f"page {page_index}", limit_s=limit_s)
            except DocumentError:
                return ""
        lines = text.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        # pdfium marks a hyphen at a line's end, and what it cannot map, with control characters.
        return "".join(c for c in lines if c in "\n\t" or unicodedata.category(c) not in _NO_TEXT)

    def close(self) -> None:
        """End the process; a later call starts another."""
        with self._lock:
            self._replace()

    def _open(self, data: bytes) -> None:
        if self._child is not None and self._document == data:  # compares identity first
            return
        if self._num_documents >= DOCUMENTS_PER_CHILD:
            self._replace()
        self._document = None
        max_pages = self._config.max_pages
        command = {"command": "open", "password": self._password, "max_pages": max_pages}
        header, _ = self._ask(command, data, what="document")
        num_pages = header["num_pages"]
        if num_pages > max_pages:
            raise DocumentError(
                "document_too_long",
                f"the document has {num_pages:,} pages, at most {max_pages:,} are allowed; raise "
                "input.document.max_pages",
                is_retryable=True,
            )
        self._num_documents += 1
        self._document, self._num_pages = data, num_pages

    def _retried_after_crash(self, operation: Callable[[], T]) -> T:
        """Try again once in a new process: the old one may have died of an earlier document."""
        try:
            return operation()
        except _CrashedError:
            return operation()

    def _ask(
        self,
        command: dict[str, Any],
        payload: bytes = b"",
        *,
        what: str,
        limit_s: float | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        kind = what.partition(" ")[0]
        limit_s = self._config.page_timeout_s if limit_s is None else limit_s
        if self._child is None:
            memory_bytes = int(self._config.memory_gib * 2**30)
            self._child = Child(_CHILD, str(memory_bytes), str(2 * self._config.page_timeout_s))
        try:
            header, pixels = self._child.exchange(command, payload, limit_s)
        except TimeoutError:
            self._replace()
            raise DocumentError(
                f"{kind}_timeout",
                f"the {what} took longer than {limit_s:g} s to read; raise "
                "input.document.page_timeout_s",
                is_retryable=True,
            ) from None
        except (EOFError, BrokenPipeError):
            raise _CrashedError(
                f"{kind}_crashed",
                f"the {what} ended the rendering process ({self._replace()}); it may need more "
                f"than input.document.memory_gib = {self._config.memory_gib:g}",
            ) from None
        if "error" in header:
            raise DocumentError(
                header["error"],
                f"the {what} {header['message']}",
                is_retryable=header["is_retryable"],
            )
        return header, pixels

    def _replace(self) -> str:
        """End the child, and say how it ended; the next command starts another."""
        child, self._child = self._child, None
        self._document, self._num_documents = None, 0
        return child.end() if child is not None else ""


class _CrashedError(DocumentError):
    """The child died."""
