"""The first CPU stage: documents and TIFFs become rows of their pages.

Row counts never depend on what failed by chance, else a retry could lose rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from dsvl_pipeline import keys
from dsvl_pipeline.errors import RowError
from dsvl_pipeline.stages import rows, work_files
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.worker_tools import failure_columns, worker_tools
from dsvl_pipeline.store.retry import with_retries


def read_work(batch: pa.Table, *, key: bytes, retry_for_s: float) -> pa.Table:
    """Read the work file a row names, from a store that may be away for so long."""
    (uri,) = batch["item"].to_pylist()
    return with_retries(
        functools.partial(work_files.read, uri, key), uri=uri, timeout_s=retry_for_s
    )


def list_pages(batch: pa.Table, *, config: StageConfig) -> pa.Table:
    """Turn each document or TIFF into rows of its pages that have no answer yet.

    Pages come before prompts: the prompts of one page stay neighbours, so that it is rendered
    once. A document that cannot be opened becomes an error row for each prompt.
    """
    out: list[dict[str, Any]] = []
    documents: dict[str, list[dict[str, Any]]] = {}
    for row in rows.plain_rows(batch):
        if row["kind"] != "image" and row["error_code"] is None:
            documents.setdefault(row["row_id"], []).append(row)
        else:
            out.append(row)
    for asked in documents.values():
        out.extend(_pages_of(asked, config))
    return rows.work_table(out, batch)


def _pages_of(asked: list[dict[str, Any]], config: StageConfig) -> Iterable[dict[str, Any]]:
    """Yield the page rows of one document or TIFF, asked one or several prompts.

    A TIFF with a single page, or what only has the name of one, is an image: a row without a page.
    A document without pages to show is one error row for each prompt: its prompts may have come in
    different blocks, so there is no one row that all of them could share.
    """
    tools = worker_tools(config.job)
    try:
        num_pages = tools.num_pages(asked[0]["kind"], asked[0]["sources"][0])
    except RowError as error:
        for row in asked:
            digest = rows.prompt_digest_of(row)
            row_key = keys.row_key(row["content_id"], None, digest, config.recipe)
            row |= {"done_pages": [], "num_pages": None, "row_key": row_key}
            yield row | failure_columns(error)
        return
    for page in [None] if num_pages is None else range(num_pages):
        for row in asked:
            # A document that has another number of pages by now is read from its first one on.
            if row["num_pages"] not in (None, num_pages) or page not in row["done_pages"]:
                digest = rows.prompt_digest_of(row)
                yield row | {
                    "page_index": page,
                    "num_pages": num_pages,
                    "done_pages": [],
                    "row_key": keys.row_key(row["content_id"], page, digest, config.recipe),
                }
