"""The CPU stages: what runs inside Ray tasks. Each takes one Arrow table and returns one.

A bad row is data: it travels on with ``error_code`` set. Only broken infrastructure raises, so
that Ray retries it. Row counts never depend on what failed, else a retry could lose rows.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsvl_pipeline import hub, keys
from dsvl_pipeline.config import JobConfig, Password
from dsvl_pipeline.errors import DocumentError, ImageError, RowError
from dsvl_pipeline.pipeline import blocks, work
from dsvl_pipeline.pipeline.isolate import Isolated, limited
from dsvl_pipeline.pipeline.patience import patiently
from dsvl_pipeline.pipeline.stage_config import StageConfig
from dsvl_pipeline.processor import image, tiff
from dsvl_pipeline.processor.blank import is_blank
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import ImageInput, RowFailure
from dsvl_pipeline.sources.documents import DocumentRenderer
from dsvl_pipeline.sources.fetch import Fetched, Fetcher


def read_work(batch: pa.Table, *, key: bytes, patience_s: float) -> pa.Table:
    """Read the work file a row names, from a store that may be away for so long."""
    (uri,) = batch["item"].to_pylist()
    return patiently(functools.partial(work.read, uri, key), uri=uri, patience_s=patience_s)


def list_pages(batch: pa.Table, *, config: StageConfig) -> pa.Table:
    """Turn each document or TIFF into rows of its pages that have no answer yet.

    Pages come before prompts: the prompts of one page stay neighbours, so that it is rendered
    once. A document that cannot be opened becomes an error row for each prompt.
    """
    out: list[dict[str, Any]] = []
    documents: dict[str, list[dict[str, Any]]] = {}
    for row in blocks.plain_rows(batch):
        if row["kind"] != "image" and row["error_code"] is None:
            documents.setdefault(row["row_id"], []).append(row)
        else:
            out.append(row)
    for asked in documents.values():
        out.extend(_pages_of(asked, config))
    return blocks.work_table(out, batch)


def _pages_of(asked: list[dict[str, Any]], config: StageConfig) -> Iterable[dict[str, Any]]:
    """The page rows of one document or TIFF, asked one or several prompts.

    A TIFF with a single page, or what only has the name of one, is an image: a row without a page.
    A document without pages to show is one error row for each prompt: its prompts may have come in
    different blocks, so there is no one row that all of them could share.
    """
    tools = _tools(config.job)
    try:
        num_pages = tools.num_pages(asked[0]["kind"], asked[0]["sources"][0])
    except RowError as error:
        for row in asked:
            digest = blocks.prompt_digest_of(row)
            row_key = keys.row_key(row["content_id"], None, digest, config.recipe)
            row |= {"done_pages": [], "num_pages": None, "row_key": row_key}
            yield row | _failure(error)
        return
    for page in [None] if num_pages is None else range(num_pages):
        for row in asked:
            # A document that has another number of pages by now is read from its first one on.
            if row["num_pages"] not in (None, num_pages) or page not in row["done_pages"]:
                digest = blocks.prompt_digest_of(row)
                yield row | {
                    "page_index": page,
                    "num_pages": num_pages,
                    "done_pages": [],
                    "row_key": keys.row_key(row["content_id"], page, digest, config.recipe),
                }


def preprocess(batch: pa.Table, *, config: StageConfig, is_isolated: bool = False) -> pa.Table:
    """Fetch, decode and tokenise: adds prompt ids, pixels and what lineage wants to know.

    Neighbouring rows that name the same image or page share one decoding.

    Args:
        batch: Work rows.
        config: Of the job.
        is_isolated: Whether an attempt at this batch has killed its process: each row then has to
            show in another one whether it was the one.
    """
    if is_isolated:
        with contextlib.closing(Isolated(config.job)) as isolated:
            prepared = [_prepare_apart(row, isolated) for row in blocks.plain_rows(batch)]
    else:
        tools = _tools(config.job)
        seen: _Seen = {}
        prepared = [_prepare(row, tools, seen) for row in blocks.plain_rows(batch)]
    for name in ("error_code", "error_message", "is_retryable"):
        column = pa.array([one[name] for one in prepared], batch.schema.field(name).type)
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    for name, kind in _PREPARED.items():
        batch = batch.append_column(name, pa.array([one[name] for one in prepared], kind))
    pixels = blocks.image_columns([one["images"] for one in prepared])
    for name, column in pixels.items():
        batch = batch.append_column(name, column)
    return batch


_PREPARED: dict[str, pa.DataType] = {
    "source_etags": pa.list_(pa.string()),
    "source_versions": pa.list_(pa.string()),
    "source_sha256s": pa.list_(pa.string()),
    "source_bytes": pa.list_(pa.int64()),
    "image_widths": pa.list_(pa.int32()),
    "image_heights": pa.list_(pa.int32()),
    "num_frames": pa.int32(),
    "is_blank": pa.bool_(),
    "defect_code": pa.string(),
    "defect_message": pa.string(),
    "prompt_ids": pa.list_(pa.int32()),
    "draft_ids": pa.list_(pa.int32()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
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


_Seen = dict[tuple[str, str, int | None], _Picture | RowError]
"""Pictures by kind of row, source and page."""


def _prepare(row: dict[str, Any], tools: _Tools, seen: _Seen) -> dict[str, Any]:
    result: dict[str, Any] = {name: row[name] for name in ("error_code", "error_message")}
    result |= dict.fromkeys(_PREPARED) | {"is_retryable": row["is_retryable"], "images": ()}
    if row["error_code"] is not None:
        return result
    pictures: list[_Picture] = []
    try:
        # Before anything is fetched: a row of too many images can never be answered.
        content = [{"type": "image"} for _ in row["sources"]]
        content.append({"type": "text", "text": row["prompt"]})
        prompt = tools.processor.prompt_ids([{"role": "user", "content": content}])
        for uri in row["sources"]:
            at = (row["kind"], uri, row["page_index"])
            if at not in seen:
                seen[at] = _picture(tools, *at)
            picture = seen[at]
            if isinstance(picture, RowError):
                raise picture
            pictures.append(picture)
    except RowError as error:
        result |= _failure(error)
    else:
        result |= {
            "prompt_ids": prompt,
            "images": tuple(p.image for p in pictures),
            "draft_ids": pictures[0].draft_ids if len(pictures) == 1 else None,
        }
    defect = next((picture.defect for picture in pictures if picture.defect), None)
    return result | {
        "defect_code": defect and defect.code,
        "defect_message": defect and defect.message,
        "source_etags": [picture.etag for picture in pictures],
        "source_versions": [picture.version for picture in pictures],
        "source_sha256s": [picture.sha256 for picture in pictures],
        "source_bytes": [picture.num_bytes for picture in pictures],
        "image_widths": [picture.width for picture in pictures],
        "image_heights": [picture.height for picture in pictures],
        "num_frames": max((p.num_frames for p in pictures if p.num_frames), default=None),
        "is_blank": any(p.is_blank for p in pictures),
    }


def prepare_row(row: dict[str, Any], job: JobConfig) -> dict[str, Any]:
    """Prepare one row, the same as `preprocess` does with many."""
    return _prepare(row, _tools(job), {})


def _prepare_apart(row: dict[str, Any], isolated: Isolated) -> dict[str, Any]:
    try:
        return isolated.prepare(row)
    except RowError as error:
        return dict.fromkeys(_PREPARED) | {"images": ()} | _failure(error)


def _picture(tools: _Tools, kind: str, uri: str, page_index: int | None) -> _Picture | RowError:
    try:
        return tools.picture(kind, uri, page_index)
    except RowError as error:
        return error


def _failure(error: RowError) -> dict[str, Any]:
    return {
        "error_code": error.code,
        "error_message": str(error),
        "is_retryable": error.is_retryable,
    }


class _Tools:
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
        """The bytes of a document or TIFF; the last one is kept, as its pages are neighbours."""
        if self._file is None or self._file[:2] != (kind, uri):
            is_document = kind == "document"
            read = self.fetcher.read_document if is_document else self.fetcher.read
            self._file, self._tiff = (kind, uri, read(uri)), None
        return self._file[2]

    def tiff_pages(self, data: bytes) -> tiff.Pages:
        """The pages of the TIFF that is kept."""
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

    def picture(self, kind: str, uri: str, page_index: int | None) -> _Picture:
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
                picture = image.decode_frame(fetched.data, page_index, pages=found).image
        else:
            fetched = self.fetcher.read(uri)
            digest = bytes.fromhex(fetched.sha256)[:16]
            with self._limited():
                frame = image.decode_frame(fetched.data)
            self._check_frames(frame)
            picture, num_frames = frame.image, frame.num_frames
        with self._limited():
            is_empty = page_index is not None and is_blank(picture)
            seen = self.processor.image(picture, source_digest=digest)
        return _Picture(
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

    def _check_frames(self, frame: image.Frame) -> None:
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
def _tools_of(job_json: str, password: Password) -> _Tools:
    return _Tools(JobConfig.model_validate_json(job_json), password)


def _tools(job: JobConfig) -> _Tools:
    # JSON has no secrets.
    return _tools_of(job.model_dump_json(), job.input.document.password)
