"""Prepared rows as requests for an engine."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsvl_pipeline.records import Request, SamplingParams
from dsvl_pipeline.stages.rows import images_of
from dsvl_pipeline.table.schema import logical_key


def batch_digest(batch: pa.Table) -> bytes:
    """Return a name for a batch: the same at every attempt."""
    state = hashlib.blake2b(digest_size=16)
    for key in logical_key(batch).to_pylist():
        state.update(len(key).to_bytes(4, "little") + key)
    return state.digest()


def requests_of(batch: pa.Table, sampling: SamplingParams) -> dict[int, Request]:
    """Return the rows that have something to ask, by their place in the batch."""
    images = images_of(batch)
    names = ("row_key", "error_code", "is_blank", "schema", "regex")
    asks = zip(logical_key(batch).to_pylist(), batch.select(names).to_pylist(), strict=True)
    return {
        index: Request(
            request_id=logical_key.hex(),
            prompt_ids=batch["prompt_ids"][index].values.to_numpy(),
            images=images[index],
            sampling=replace(sampling, seed=_seed(ask["row_key"], sampling.seed)),
            schema=ask["schema"],
            regex=ask["regex"],
            draft_ids=_ids(batch["draft_ids"][index]),
        )
        for index, (logical_key, ask) in enumerate(asks)
        if ask["error_code"] is None and not ask["is_blank"]
    }


def _ids(ids: pa.ListScalar) -> NDArray[np.int32] | None:
    """Return ``int32[K]``, a view; None where there is no list."""
    values = ids.values
    return None if values is None else values.to_numpy()


def _seed(row_key: bytes, seed: int) -> int:
    """Return a row's own randomness, the same wherever and whenever it runs."""
    return (int.from_bytes(row_key[:8], "little") ^ seed) & (2**63 - 1)
