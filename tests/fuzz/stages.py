"""The process that takes damaged files through the CPU stages: folders in, what became of them out.

A script for `sources.child.Child`: a decoder may kill it, as it may kill a Ray worker.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.plan.spool import Spool
from dsvl_pipeline.sandbox.frames import read_frame, write_frame
from dsvl_pipeline.sources.open import open_input
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.pages import list_pages
from dsvl_pipeline.stages.preprocess import preprocess

_ROWS_PER_BATCH = 4
_TOLD = ("row_id", "page_index", "num_pages", "error_code", "error_message", "num_ids")


def take(job: JobConfig, source: dict[str, Any], *, is_isolated: bool) -> dict[str, Any]:
    """Plan an input and prepare its rows as a run does, without Ray.

    Args:
        job: For the stages, the same for all inputs: they keep their tools by it.
        source: The ``input`` section.
        is_isolated: See `preprocess`.

    Returns:
        ``refused`` (the message of a `ConfigError`), or ``planned`` (ids of the rows that the plan
        has) and, of files, ``listed`` (how many rows there are once pages are listed) and ``rows``
        (those after preprocessing); of a manifest ``text`` (of its prompts) and ``failed``.
    """
    try:
        found = open_input(InputConfig.model_validate(source))
        spool = Spool(found.rows(), job.prompts, "recipe", found.carry_schema)
    except ConfigError as error:
        return {"refused": str(error)}
    try:
        ((_, planned),) = spool.shards(1)
    finally:
        spool.close()
    config = StageConfig(job=job, dtype="float32", recipe="recipe", lineage={})
    result: dict[str, Any] = {"planned": planned["row_id"].to_pylist(), "listed": 0, "rows": []}
    if "images" not in source and "documents" not in source:
        failed = zip(*(planned[name].to_pylist() for name in _TOLD[3:5]), strict=True)
        result["text"] = "\n".join(filter(None, planned["prompt"].to_pylist()))
        return result | {"failed": [pair for pair in failed if pair[0] is not None]}
    listed = list_pages(planned, config=config)
    result["listed"] = listed.num_rows
    for start in range(0, listed.num_rows, _ROWS_PER_BATCH):
        batch = listed.slice(start, _ROWS_PER_BATCH).combine_chunks()
        prepared = preprocess(batch, config=config, is_isolated=is_isolated)
        result["rows"] += _told(prepared)
    return result


def _told(prepared: pa.Table) -> list[dict[str, Any]]:
    ids = prepared["prompt_ids"].to_pylist()
    rows = prepared.select([name for name in _TOLD if name in prepared.column_names]).to_pylist()
    return [row | {"num_ids": len(ids[n] or ())} for n, row in enumerate(rows)]


def main(job_json: str) -> None:
    """Answer folders until stdin ends."""
    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # Pillow warns of what it then refuses, or reads all the same
    job = JobConfig.model_validate_json(job_json)
    write_frame(answers, {"ready": True})
    while True:
        try:
            header, _ = read_frame(commands)
        except EOFError:
            return
        try:
            result = take(job, header["source"], is_isolated=header["is_isolated"])
        except Exception:  # whatever it is, a run would end with it
            result = {"traceback": traceback.format_exc()}
        write_frame(answers, {}, pickle.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text())
