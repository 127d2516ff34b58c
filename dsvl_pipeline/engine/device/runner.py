"""Run a planned step on the device: embed, forward over the KV pages, sample.

Letters: ``T`` tokens of the step, ``B`` rows that get a new token, ``D`` width, ``P`` pages that a
sequence may own, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline.engine.device.batch import pack
from dsvl_pipeline.engine.device.events import TimingEvent, record_event
from dsvl_pipeline.engine.device.features import ImageFeatures
from dsvl_pipeline.engine.device.graphs import StepGraphs, round_up
from dsvl_pipeline.engine.device.lanes import Lanes
from dsvl_pipeline.engine.device.step_rows import (
    Layout,
    can_verify_as_rows,
    pack_decode,
    pack_verify,
    unpack_decode,
    unpack_verify,
)
from dsvl_pipeline.engine.device.transfer import Download, upload
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Chunk, Decode, Prefill, Step
from dsvl_pipeline.model.deepseek_vl import DeepseekVL, LastRows
from dsvl_pipeline.ops.sampling import sample, sample_with_logprobs
from dsvl_pipeline.ops.values import KVPages, PackedInputs


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A step whose logits are on their way.

    Attributes:
        step: What was planned.
        rows: The chunk that each row of the logits belongs to, B of them.
        lanes: Of each row, when it was planned: a sequence that ends meanwhile loses its own.
        positions: Place of each row's new token in its sequence.
        logits: ``[B, V]``, good until the next step.
        num_encoded: Images that had to be encoded for it.
        events: When the step begins, and when its vision ends.
    """

    step: Step
    rows: tuple[Chunk, ...]
    lanes: NDArray[np.int64]
    positions: NDArray[np.int64]
    logits: Tensor | None
    num_encoded: int
    events: tuple[TimingEvent, TimingEvent]


@dataclass(frozen=True, slots=True)
class Launched:
    """A step whose tokens are on their way.

    Attributes:
        forwarded: Where they come from.
        token_ids: ``int64[B]``.
        logprobs: ``float32[B]``; None where nobody asked.
        end: When the device is done with it.
    """

    forwarded: Forwarded
    token_ids: Download
    logprobs: Download | None
    end: TimingEvent


class Runner:
    """The model, its KV pages and the per-lane state: everything that lies on the device."""

    def __init__(
        self,
        model: DeepseekVL,
        *,
        kv: KVPages,
        num_lanes: int,
        features: ImageFeatures,
        use_graphs: bool,
    ) -> None:
        """Take memory for the lanes; graphs are captured as they are needed.

        Args:
            model: On its device.
            kv: One page more than sequences use: rows that fill up a step write to the last one.
            num_lanes: Most running sequences.
            features: Of the same model.
            use_graphs: Whether to replay decode steps as CUDA graphs; on a GPU only.
        """
        self._device = next(model.parameters()).device
        self._model = model
        self._image_token_id = model.config.image_token_id
        self._kv = kv
        text = model.config.text
        self._lanes = Lanes(num_lanes=num_lanes, vocab_size=text.vocab_size, device=self._device)
        self._features = features
        num_pages = kv.k.shape[1] - 1
        self._layout = Layout(
            page_size=kv.page_size,
            padding_page=num_pages,
            padding_lane=num_lanes,
            max_pages=min(-(-text.max_positions // kv.page_size), num_pages),
        )
        self._decode_graphs: StepGraphs | None = None
        self._verify_graphs: StepGraphs | None = None
        if use_graphs and self._device.type == "cuda":
            graphs_of = partial(StepGraphs, max_rows=num_lanes, device=self._device)
            self._decode_graphs = graphs_of(self._decode_rows, width=self._layout.decode_width)
            self._verify_graphs = graphs_of(
                lambda rows, _: self._verify_rows(rows), width=self._layout.verify_width
            )

    def forward(self, step: Step, upcoming: Seq[Sequence] = ()) -> Forwarded:
        """Queue a step on the device up to its logits.

        Args:
            step: What was planned.
            upcoming: Sequences that will start soon; their images may be encoded along.
        """
        begin = record_event(self._device)
        num_encoded = 0
        new: list[Sequence] = []
        if isinstance(step, Prefill):
            new = [c.sequence for c in step.chunks if c.start == c.sequence.num_reused]
            num_encoded = self._features.hold([s for s in new if self._shows_images(s)], upcoming)
        seen = record_event(self._device) if num_encoded else begin
        match step:
            case Prefill(chunks, copies):
                self._copy_pages(copies)
                self._lanes.start(new)
                rows = tuple(chunk for chunk in chunks if chunk.is_sampled)
                positions = np.array([chunk.end for chunk in rows], dtype=np.int64)
                logits = self._prefill(chunks)
            case Decode(chunks) if step.has_drafts:
                rows = tuple(c for c in chunks for _ in range(c.start, c.end))
                places = [np.arange(c.start, c.end) + 1 for c in chunks]
                positions = np.concatenate(places).astype(np.int64)
                logits = self._verify(chunks)
            case Decode(rows):
                positions = np.array([chunk.end for chunk in rows], dtype=np.int64)
                logits = self._decode(rows)
        lanes = np.array(_lanes(rows), dtype=np.int64)
        return Forwarded(step, rows, lanes, positions, logits, num_encoded, (begin, seen))

    def sample(self, forwarded: Forwarded, allowed: NDArray[np.int32] | None) -> Launched:
        """Queue the choice of tokens.

        Args:
            forwarded: The step.
            allowed: ``int32[B, ceil(V / 32)]`` as `SamplingTensors` has it.
        """
        rows, logits = forwarded.rows, forwarded.logits
        if logits is None:
            # On the device: its reader waits for the step, without which there are no times.
            nothing = torch.empty(0, dtype=torch.int64, device=self._device)
            end = record_event(self._device)
            return Launched(forwarded, Download(nothing), None, end)
        lanes = upload(forwarded.lanes, self._device)
        settings = self._lanes.settings(
            rows,
            lanes,
            upload(forwarded.positions, self._device),
            None if allowed is None else upload(allowed, self._device),
        )
        wants_logprobs = any(chunk.sequence.request.sampling.logprobs for chunk in rows)
        logprobs = None
        if wants_logprobs:
            ids, logprobs = sample_with_logprobs(logits, settings)
        else:
            ids = sample(logits, settings)
        if not (isinstance(forwarded.step, Decode) and forwarded.step.has_drafts):
            self._lanes.record(lanes, ids)  # else the host tells which of the tokens counts
        end = record_event(
            self._device
        )  # before the copies: who has read them may ask for the time
        at_host = None if logprobs is None else Download(logprobs)
        return Launched(forwarded, Download(ids), at_host, end)

    def set_newest(self, sequences: Seq[Sequence]) -> None:
        """Tell the device the newest tokens after drafts were verified."""
        self._lanes.set_newest(sequences)

    def release(self, sequence: Sequence) -> None:
        """Let go of what is kept for a sequence; its lane and pages are the scheduler's."""
        self._features.release(sequence)

    def _prefill(self, chunks: Seq[Chunk]) -> Tensor | None:
        known = pack(chunks, page_size=self._kv.page_size, device=self._device)
        hidden = self._model.embed(known.ids, None)
        self._put_features(hidden, chunks)
        ends = np.cumsum([chunk.end - chunk.start for chunk in chunks])
        sampled = np.array(
            [n for n, chunk in enumerate(chunks) if chunk.is_sampled], dtype=np.int64
        )
        # Without any, one row all the same: the layers want to see the last one's keys stored.
        kept = sampled if len(sampled) else np.zeros(1, dtype=np.int64)
        rows = upload(ends[kept] - 1, self._device)
        index = upload(kept, self._device)
        last = LastRows(
            rows=rows,
            packed=PackedInputs(
                positions=known.packed.positions[rows],
                slots=known.packed.slots[rows],
                query_starts=torch.arange(len(kept) + 1, dtype=torch.int32, device=self._device),
                page_table=known.packed.page_table[index],
                kv_lens=known.packed.kv_lens[index],
                max_query_len=1,
                max_kv_len=known.packed.max_kv_len,
            ),
        )
        hidden = self._model.forward(hidden, known.packed, self._kv, last=last)
        return self._model.logits(hidden) if len(sampled) else None

    def _verify(self, chunks: Seq[Chunk]) -> Tensor:
        if self._verify_graphs is None or not can_verify_as_rows(chunks):
            known = pack(chunks, page_size=self._kv.page_size, device=self._device)
            hidden = self._model.embed(known.ids, None)
            return self._model.logits(self._model.forward(hidden, known.packed, self._kv))
        rows, index = pack_verify(chunks, self._layout, round_up(len(chunks)))
        hidden = self._verify_graphs(torch.from_numpy(rows).pin_memory(), False)
        return self._model.logits(hidden[upload(index, self._device)])

    def _verify_rows(self, rows: Tensor) -> Tensor:
        ids, packed = unpack_verify(rows, self._layout)
        return self._model.forward(self._model.embed(ids, None), packed, self._kv)

    def _decode(self, chunks: Seq[Chunk]) -> Tensor:
        if self._decode_graphs is None:
            longest = max(len(chunk.sequence.page_table) for chunk in chunks)
            layout = replace(self._layout, max_pages=longest)
            rows, is_shared = pack_decode(chunks, layout, len(chunks))
            hidden = self._decode_rows(upload(rows, self._device), is_shared)
        else:
            rows, is_shared = pack_decode(chunks, self._layout, round_up(len(chunks)))
            hidden = self._decode_graphs(torch.from_numpy(rows).pin_memory(), is_shared)
        # Not in the graph: each one would keep logits of its own, gigabytes in all.
        return self._model.logits(hidden)[: len(chunks)]

    def _decode_rows(self, rows: Tensor, is_shared: bool) -> Tensor:
        lanes, packed = unpack_decode(rows, self._layout, is_shared)
        hidden = self._model.embed(self._lanes.newest[lanes], None)
        return self._model.forward(hidden, packed, self._kv)

    def _put_features(self, hidden: Tensor, chunks: Seq[Chunk]) -> None:
        """Replace the embeddings of image tokens by image features, in place."""
        rows: list[NDArray[np.intp]] = []
        features: list[Tensor] = []
        chunk_start = 0
        for chunk in chunks:
            if chunk.sequence.request.images:
                # In the prompt alone: the model may have produced this id as well, as any other.
                places = np.flatnonzero(chunk.sequence.request.prompt_ids == self._image_token_id)
                first, last = np.searchsorted(places, (chunk.start, chunk.end)).tolist()
                rows.append(places[first:last] - chunk.start + chunk_start)
                features += self._features.rows(chunk.sequence, first, last)
            chunk_start += chunk.end - chunk.start
        if features:
            hidden.index_copy_(0, upload(np.concatenate(rows), self._device), torch.cat(features))

    def _shows_images(self, sequence: Sequence) -> bool:
        """Whether image tokens have to be computed: not so where their pages are shared."""
        ids = sequence.request.prompt_ids[sequence.num_reused :]
        return bool(sequence.request.images) and bool((ids == self._image_token_id).any())

    def _copy_pages(self, copies: Seq[tuple[int, int]]) -> None:
        if copies:
            sources, targets = upload(np.array(copies, dtype=np.int64).T.copy(), self._device)
            for pages in (self._kv.k, self._kv.v):
                pages[:, targets] = pages[:, sources]


def _lanes(chunks: Seq[Chunk]) -> list[int]:
    lanes = [chunk.sequence.lane for chunk in chunks]
    assert None not in lanes, "a sequence without a lane was planned"
    return lanes  # type: ignore[return-value]
