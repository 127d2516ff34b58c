"""The second CPU stage: rows become what engines are asked, with pixels and tokens.

A bad row is data: it travels on with ``error_code`` set. Only broken infrastructure raises, so
that Ray retries it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa

from dsvl_pipeline.errors import RowError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.stages import rows
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.isolation import Isolated
from dsvl_pipeline.stages.worker_tools import Picture, WorkerTools, failure_columns, worker_tools


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
            prepared = [_prepare_apart(row, isolated) for row in rows.plain_rows(batch)]
    else:
        tools = worker_tools(config.job)
        seen: _Seen = {}
        prepared = [_prepare(row, tools, seen) for row in rows.plain_rows(batch)]
    for name in ("error_code", "error_message", "is_retryable"):
        column = pa.array([one[name] for one in prepared], batch.schema.field(name).type)
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    for column in rows.PREPARED:
        values = pa.array([one[column.name] for one in prepared], column.type)
        batch = batch.append_column(column.name, values)
    pixels = rows.image_columns([one["images"] for one in prepared])
    for name, column in pixels.items():
        batch = batch.append_column(name, column)
    return batch


_NOTHING: dict[str, Any] = {one.name: None for one in rows.PREPARED} | {"images": ()}
"""What is prepared of a row that is bad as it stands."""

_Seen = dict[tuple[str, str, int | None], Picture | RowError]
"""Pictures by kind of row, source and page."""


def _prepare(row: dict[str, Any], tools: WorkerTools, seen: _Seen) -> dict[str, Any]:
    result: dict[str, Any] = {name: row[name] for name in ("error_code", "error_message")}
    result |= _NOTHING | {"is_retryable": row["is_retryable"]}
    if row["error_code"] is not None:
        return result
    pictures: list[Picture] = []
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
        result |= failure_columns(error)
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
    return _prepare(row, worker_tools(job), {})


def _prepare_apart(row: dict[str, Any], isolated: Isolated) -> dict[str, Any]:
    try:
        return isolated.prepare(row)
    except RowError as error:
        return _NOTHING | failure_columns(error)


def _picture(tools: WorkerTools, kind: str, uri: str, page_index: int | None) -> Picture | RowError:
    try:
        return tools.picture(kind, uri, page_index)
    except RowError as error:
        return error
