"""Run a planned step on the device: embed, forward over the KV pages, sample.

Letters: ``T`` tokens of the step, ``B`` sequences that get a new token, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsvl_pipeline.engine.batch import pack, token_ids
from dsvl_pipeline.engine.features import ImageFeatures
from dsvl_pipeline.engine.lanes import Lanes
from dsvl_pipeline.engine.sampling import sample, token_logprobs
from dsvl_pipeline.engine.scheduler import Chunk, Decode, Prefill, Step
from dsvl_pipeline.engine.sequence import Sequence
from dsvl_pipeline.model.config import ImageConfig
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.ops.attention import KVPages


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that was given to the device.

    Attributes:
        chunks: Those that get a new token, B of them.
        token_ids: ``int64[B]`` on the device.
        logprobs: ``float32[B]`` on the device; None where nobody asked.
    """

    chunks: tuple[Chunk, ...]
    token_ids: Tensor
    logprobs: Tensor | None

    def read(self) -> list[tuple[Sequence, int, float | None]]:
        """Wait for the device; return each sequence's new token and, if asked for, its logprob."""
        ids = self.token_ids.tolist()
        logprobs = [None] * len(ids) if self.logprobs is None else self.logprobs.tolist()
        return [
            (
                chunk.sequence,
                token_id,
                logprob if chunk.sequence.request.sampling.logprobs else None,
            )
            for chunk, token_id, logprob in zip(self.chunks, ids, logprobs, strict=True)
        ]


class Runner:
    """The model, its KV pages and the per-lane state: everything that lies on the device."""

    def __init__(
        self,
        model: DeepseekVL,
        image_config: ImageConfig,
        *,
        num_pages: int,
        page_size: int,
        num_lanes: int,
    ) -> None:
        parameter = next(model.parameters())
        self._device = parameter.device
        self._model = model
        self._image_token_id = model.config.image_token_id
        text = model.config.text
        self._kv = KVPages.allocate(
            text.num_layers,
            text.num_kv_heads,
            text.head_dim,
            num_pages,
            page_size,
            parameter.dtype,
            self._device,
        )
        self._lanes = Lanes(num_lanes=num_lanes, vocab_size=text.vocab_size, device=self._device)
        self._features = ImageFeatures(model, image_config)

    def encode_images(self, step: Step) -> int:
        """Encode what a step's new sequences show; return how many images that were."""
        new = [chunk.sequence for chunk in step.chunks if chunk.start == 0]
        num_encoded = self._features.hold(new)
        if num_encoded and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # so that its time is told from prefill's
        return num_encoded

    def launch(self, step: Step) -> Launched:
        """Queue a step on the device; `encode_images` of the same step comes first."""
        match step:
            case Prefill(chunks):
                self._lanes.start([chunk.sequence for chunk in chunks if chunk.start == 0])
                hidden = self._embed_known(chunks)
            case Decode(chunks):
                newest = self._lanes.newest(self._lanes.index(chunks))
                hidden = self._model.embed(newest, None)
        packed = pack(chunks, page_size=self._kv.page_size, device=self._device)
        return self._sample(chunks, self._model.forward(hidden, packed, self._kv))

    def release(self, sequence: Sequence) -> None:
        """Let go of what is kept for a sequence; its lane and pages are the scheduler's."""
        self._features.release(sequence)

    def _embed_known(self, chunks: Seq[Chunk]) -> Tensor:
        """Embed text and images, ``[T, D]``."""
        ids = torch.from_numpy(token_ids(chunks)).to(self._device)
        hidden = self._model.embed(ids, None)
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
            index = torch.from_numpy(np.concatenate(rows)).to(self._device)
            hidden.index_copy_(0, index, torch.cat(features))
        return hidden

    def _sample(self, chunks: Seq[Chunk], hidden: Tensor) -> Launched:
        sampled = tuple(chunk for chunk in chunks if chunk.is_sampled)
        if not sampled:
            return Launched((), torch.empty(0, dtype=torch.int64), None)
        ends = accumulate(chunk.end - chunk.start for chunk in chunks)
        last = [end - 1 for chunk, end in zip(chunks, ends, strict=True) if chunk.is_sampled]
        logits = self._model.logits(hidden[torch.tensor(last, device=self._device)])  # (B, V)
        lanes = self._lanes.index(sampled)
        positions = torch.tensor([chunk.end for chunk in sampled], device=self._device)
        ids = sample(logits, self._lanes.settings(sampled, lanes, positions))
        self._lanes.record(lanes, ids)
        wants_logprobs = any(chunk.sequence.request.sampling.logprobs for chunk in sampled)
        return Launched(sampled, ids, token_logprobs(logits, ids) if wants_logprobs else None)
