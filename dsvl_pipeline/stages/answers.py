"""Completions as output rows: what was asked, what came back, and this run's lineage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from dsvl_pipeline.job.fields import FieldType, read_fields
from dsvl_pipeline.records import Completion
from dsvl_pipeline.stages.config import StageConfig
from dsvl_pipeline.stages.rows import CARRY, plain_rows, prompt_digest_of
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.schema import output_schema


def output_rows(
    rows: pa.Table,
    answers: dict[int, Completion],
    config: StageConfig,
    device: str,
    attempt: int,
) -> pa.Table:
    """Return the output rows: what was asked, what came back, and this run's lineage."""
    carry = pa.schema(
        [f.with_name(f.name.removeprefix(CARRY)) for f in rows.schema if f.name.startswith(CARRY)]
    )
    job = config.job
    schema = output_schema(carry, job.fields)
    fields = {prompt.id: prompt.fields for prompt in job.prompts}
    place = {"device": device, "node": os.uname().nodename, "produced_at": datetime.now(UTC)}
    place |= {"attempt": attempt}
    out = []
    for index, row in enumerate(plain_rows(rows)):
        uris = row.pop("sources")
        row["source_uris"] = [objects.redact(uri) for uri in uris]
        # Signed URLs lose their query: the digest still tells one from another.
        row["source_uri_sha256s"] = [hashlib.sha256(uri.encode()).hexdigest() for uri in uris]
        is_asked = row["prompt"] is not None
        row["prompt_digest"] = prompt_digest_of(row).hex() if is_asked else None
        answer = _answer(row, answers.get(index))
        if row["schema"] is not None and answer.get("finish_reason") == "stop":
            answer |= _typed(answer["text"], fields.get(row["prompt_id"], {}))
        answer |= _defect(row, answer)
        # A property may be called as a column that we do not put out.
        row |= config.lineage | place | dict.fromkeys(job.fields) | answer
        out.append(row)
    ours = pa.schema([field for field in schema if field.name not in carry.names])
    table = pa.Table.from_pylist(out, schema=ours)
    # From Arrow to Arrow. A user's `is_blank` or `kind` stands before our own, which is no output
    # column; output columns have no such double, `output_schema` refused it.
    for field in carry:
        table = table.append_column(field, rows[CARRY + field.name])
    return table.select(schema.names)


def _defect(row: dict[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page's own defect makes of an answer to it, whose own defect is told as well.

    An answer that is cut, or repeats itself, says so in its ``finish_reason`` too.
    """
    if row.get("defect_code") is None or answer["status"] == "error":
        return {}
    messages = (row["defect_message"], answer.get("error_message"))
    return {
        "status": "degraded",
        "error_code": row["defect_code"],
        "error_message": "; ".join(filter(None, messages)),
    }


_LOOPS = {
    "error_code": "repetition",
    "error_message": "the answer went on repeating itself and was ended; what is repeated stands "
    "at its end once. If the page is like that, raise generation.max_loop_tokens",
}


def _typed(text: str, fields: Mapping[str, FieldType]) -> dict[str, Any]:
    """Return the columns for an answer's fields.

    An answer that was ended by a stop text, or whose numbers are larger than a column can hold,
    is degraded, and its fields stay empty.
    """
    try:
        return read_fields(text, fields)
    except ValueError as error:
        return {
            "status": "degraded",
            "error_code": "schema_unsatisfied",
            "error_message": f"the answer does not fit the prompt's JSON schema: {error}",
        }


def _logprobs(completion: Completion) -> dict[str, Any]:
    """Return the columns for how sure the model was; none where nobody asked."""
    logprobs = completion.logprobs
    if logprobs is None or not len(logprobs):
        return {}
    return {
        "mean_logprob": float(logprobs.mean(dtype=np.float64)),
        "min_logprob": float(logprobs.min()),
        "logprobs": logprobs.tolist(),
    }


def _answer(row: dict[str, Any], completion: Completion | None) -> dict[str, Any]:
    if completion is None:
        if row["error_code"] is not None:
            return {"status": "error"}
        return {
            "status": "degraded",
            "text": "",
            "error_code": "blank_page",
            "error_message": "the page is blank; the model was not asked",
        }
    if completion.error is not None:
        return {
            "status": "error",
            "error_code": completion.error.code,
            "error_message": completion.error.message,
            "is_retryable": completion.error.is_retryable,
        }
    is_whole = completion.finish_reason == "stop"
    defect = _LOOPS if completion.finish_reason == "repetition" else {}
    return defect | {
        "status": "ok" if is_whole else "degraded",
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        **_logprobs(completion),
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_completion_tokens": len(completion.completion_ids),
        "latency_s": completion.timings["finished_s"],
    }
