"""What one worker process keeps between tasks: tokenizer, fetcher, renderer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline import hub
from dsvl_pipeline.errors import DocumentError, ImageError, RowError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import Password
from dsvl_pipeline.processor import decode, tiff
from dsvl_pipeline.processor.blank import is_blank
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import ImageInput, RowFailure
from dsvl_pipeline.sandbox.limits import limited
from dsvl_pipeline.sources.documents import DocumentRenderer
from dsvl_pipeline.sources.fetch import Fetched, Fetcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded source: the image, its size in pixels and where its bytes came from.

    ``draft_ids`` is what the source itself says that it shows, where the job wants that, and
    ``defect`` why the picture is not all there is, if it is not.

    The bytes themselves are not kept: a batch of large files would stay in memory for nothing.
    """

    image: ImageInput
    width: int
    height: int
    etag: str | None
    version: str | None
    sha256: str
    num_bytes: int
    num_frames: int | None
    is_blank: bool
    defect: RowFailure | None
    draft_ids: NDArray[np.int32] | None


def failure_columns(error: RowError) -> dict[str, Any]:
    """Return what a row says that failed."""
    return {
        "error_code": error.code,
        "error_message": str(error),
        "is_retryable": error.is_retryable,
    }


class WorkerTools:
    """What one worker process keeps between tasks: tokenizer, fetcher, renderer."""

    def __init__(self, job: JobConfig, password: Password) -> None:
        checkpoint = hub.resolve(job.model.checkpoint, job.model.revision)
        self.processor = Processor.from_pretrained(checkpoint)
        self.fetcher = Fetcher(job.input)
        document = job.input.document.model_copy(update={"password": password})
        self.renderer = DocumentRenderer(document)
        memory_bytes = int(job.input.image_memory_gib * 2**30)
        self._limited = functools.partial(limited, job.input.image_timeout_s, memory_bytes)
        self._frames = job.input.frames
        self._max_pages = job.input.document.max_pages
        self._has_drafts = job.input.document.draft
        # An answer may skip a part of the page, but not say more than it may say.
        self._max_draft_tokens = 2 * job.generation.max_new_tokens
        self._file: tuple[str, str, Fetched] | None = None
        self._tiff: tiff.Pages | None = None  # of that file, once they were looked for

    def file(self, kind: str, uri: str) -> Fetched:
        """Return the bytes of a document or TIFF; the last is kept, as its pages are neighbours."""
        if self._file is None or self._file[:2] != (kind, uri):
            is_document = kind == "document"
            read = self.fetcher.read_document if is_document else self.fetcher.read
            self._file, self._tiff = (kind, uri, read(uri)), None
        return self._file[2]

    def tiff_pages(self, data: bytes) -> tiff.Pages:
        """Return the pages of the TIFF that is kept."""
        if self._tiff is None:
            self._tiff = tiff.Pages(data, most=self._max_pages + 1)
        return self._tiff

    def num_pages(self, kind: str, uri: str) -> int | None:
        """Count the pages of a document or TIFF; None for one picture, or what is no TIFF."""
        data = self.file(kind, uri).data
        if kind == "document":
            count = self.renderer.page_count(data)
            if not count:
                raise DocumentError("document_empty", "the document has no pages")
            return count
        if not tiff.is_tiff(data):
            return None
        count = len(self.tiff_pages(data))
        if count > self._max_pages:
            raise ImageError(
                "image_too_many_pages",
                f"the TIFF has more pages than are allowed ({self._max_pages:,}); raise "
                "input.document.max_pages",
                is_retryable=True,
            )
        return count if count > 1 else None

    def picture(self, kind: str, uri: str, page_index: int | None) -> Picture:
        """Fetch and decode an image or a page of a TIFF, or render a page of a document."""
        digest = draft_ids = num_frames = defect = None  # a page is not its document
        if kind == "document":
            assert page_index is not None
            fetched = self.file(kind, uri)
            page = self.renderer.page(fetched.data, page_index)
            picture, defect = page.image, page.defect
            if self._has_drafts:
                text = self.renderer.text(fetched.data, page_index)
                draft_ids = self.processor.draft_ids(text, most=self._max_draft_tokens)
        elif page_index is not None:
            fetched = self.file(kind, uri)
            with self._limited():
                found = self.tiff_pages(fetched.data)
                picture = decode.decode_frame(fetched.data, page_index, pages=found).image
        else:
            fetched = self.fetcher.read(uri)
            digest = bytes.fromhex(fetched.sha256)[:16]
            with self._limited():
                frame = decode.decode_frame(fetched.data)
            self._check_frames(frame)
            picture, num_frames = frame.image, frame.num_frames
        with self._limited():
            is_empty = page_index is not None and is_blank(picture)
            seen = self.processor.image(picture, source_digest=digest)
        return Picture(
            image=seen,
            width=picture.width,
            height=picture.height,
            etag=fetched.etag,
            version=fetched.version,
            sha256=fetched.sha256,
            num_bytes=len(fetched.data),
            num_frames=num_frames,
            is_blank=is_empty,
            defect=defect,
            draft_ids=draft_ids,
        )

    def _check_frames(self, frame: decode.Frame) -> None:
        """Refuse a file of which a row would show one picture while the job wants them all.

        Raises:
            ImageError: With code ``image_frames``.
        """
        is_lost = self._frames == "pages" and frame.holds in ("pages", "slices")
        is_refused = self._frames == "error" and frame.holds != "views"
        if frame.num_frames > 1 and (is_lost or is_refused):
            if is_refused:
                advice = "set it to pages (a row for each page of a TIFF) or to first"
            elif frame.holds == "slices":
                advice = "save them as pages, each with a directory, or set it to first"
            else:
                advice = (
                    "name the file .tif and give it an input row of its own, for a row for each "
                    "page, or set it to first"
                )
            raise ImageError(
                "image_frames",
                f"the file holds {frame.num_frames:,} {frame.holds}, and a row shows one, which "
                f"input.frames: {self._frames} does not allow; {advice}",
                is_retryable=True,
            )


@functools.lru_cache(maxsize=2)
def _tools_of(job_json: str, password: Password) -> WorkerTools:
    return WorkerTools(JobConfig.model_validate_json(job_json), password)


def worker_tools(job: JobConfig) -> WorkerTools:
    """Return the tools for a job: the same ones again, as long as its tasks follow one another."""
    # JSON has no secrets.
    return _tools_of(job.model_dump_json(), job.input.document.password)
