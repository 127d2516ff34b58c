"""A step's chunks, packed into the tensors that the model reads.

Letters: ``T`` tokens of the step, ``S`` sequences, ``P`` pages of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray

from dsvl_pipeline.engine.scheduler import Chunk
from dsvl_pipeline.ops.attention import PackedInputs


def pack(chunks: Seq[Chunk], *, page_size: int, device: torch.device) -> PackedInputs:
    """Say where each token of a step stands in its sequence and in the KV pages."""
    starts = np.array([chunk.start for chunk in chunks], dtype=np.int64)
    ends = np.array([chunk.end for chunk in chunks], dtype=np.int64)
    lengths = ends - starts
    query_starts = np.zeros(len(chunks) + 1, dtype=np.int32)
    np.cumsum(lengths, out=query_starts[1:])
    owner = np.repeat(np.arange(len(chunks)), lengths)  # (T,)
    positions = np.arange(query_starts[-1]) - query_starts[:-1][owner] + starts[owner]

    page_table = _page_table(chunks)
    pages = page_table[owner, positions // page_size].astype(np.int64)
    slots = pages * page_size + positions % page_size
    return PackedInputs(
        positions=torch.from_numpy(positions).to(device),
        slots=torch.from_numpy(slots).to(device),
        query_starts=torch.from_numpy(query_starts).to(device),
        page_table=torch.from_numpy(page_table).to(device),
        kv_lens=torch.from_numpy(ends.astype(np.int32)).to(device),
        max_query_len=int(lengths.max()),
        max_kv_len=int(ends.max()),
    )


def token_ids(chunks: Seq[Chunk]) -> NDArray[np.int64]:
    """Return the known ids of a step, ``int64[T]``."""
    parts = [chunk.sequence.token_ids[chunk.start : chunk.end] for chunk in chunks]
    return np.concatenate(parts).astype(np.int64)


def _page_table(chunks: Seq[Chunk]) -> NDArray[np.int32]:
    """Stack the page tables, ``int32[S, P]``; what is padded is never read."""
    tables = [chunk.sequence.page_table for chunk in chunks]
    stacked = np.zeros((len(tables), max(map(len, tables))), dtype=np.int32)
    for row, table in zip(stacked, tables, strict=True):
        row[: len(table)] = table
    return stacked
