"""What the device holds of each running sequence: its settings, newest token, tokens seen.

Letters: ``L`` lanes (most running sequences), ``B`` sequences of a step, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from dsvl_pipeline.engine.device.transfer import upload
from dsvl_pipeline.engine.schedule.sequence import Sequence
from dsvl_pipeline.engine.schedule.step import Chunk
from dsvl_pipeline.ops.values import SamplingTensors
from dsvl_pipeline.records import SamplingParams


class Lanes:
    """Per-lane state, written when a sequence starts and after each of its tokens.

    The newest token stays on the device, so that the next decode step can be launched before the
    host has read it.
    """

    def __init__(self, *, num_lanes: int, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._vocab_size = vocab_size
        # One more, for rows that only fill up a step.
        self.newest = torch.zeros(num_lanes + 1, dtype=torch.int64, device=device)
        self._integers = torch.zeros(num_lanes, 2, dtype=torch.int64, device=device)
        self._reals = torch.zeros(num_lanes, 4, dtype=torch.float64, device=device)
        # bool[L, V], made for the first sequence with a repetition penalty.
        self._seen: Tensor | None = None

    def start(self, sequences: Seq[Sequence]) -> None:
        """Write the state of sequences that begin, or begin again, in their lanes."""
        if not sequences:
            return
        lanes = upload(np.array([sequence.lane for sequence in sequences]), self._device)
        settings = [sequence.request.sampling for sequence in sequences]
        integers = np.array([(s.top_k, _wrap(s.seed)) for s in settings])
        reals = np.array(
            [(s.temperature, s.top_p, s.min_p, s.repetition_penalty) for s in settings],
            dtype=np.float64,
        )
        self._integers[lanes] = upload(integers, self._device)
        self._reals[lanes] = upload(reals, self._device)
        for sequence in sequences:
            if _is_penalised(sequence.request.sampling):
                self._start_seen(sequence)

    def set_newest(self, sequences: Seq[Sequence]) -> None:
        """Write the newest token of each of these."""
        lanes = np.array([sequence.lane for sequence in sequences])
        ids = np.array([sequence.token_ids[sequence.num_tokens - 1] for sequence in sequences])
        self.newest[upload(lanes, self._device)] = upload(ids.astype(np.int64), self._device)
        for sequence in sequences:
            if _is_penalised(sequence.request.sampling):
                self._start_seen(sequence)

    def settings(
        self, chunks: Seq[Chunk], lanes: Tensor, positions: Tensor, allowed: Tensor | None
    ) -> SamplingTensors:
        """Return what `sample` reads.

        Args:
            chunks: Whose tokens the rows are.
            lanes: ``int64[B]`` of each row.
            positions: ``int64[B]`` place of each new token in its sequence.
            allowed: As `SamplingTensors` has it.
        """
        params = [chunk.sequence.request.sampling for chunk in chunks]
        temperature, top_p, min_p, penalty = self._reals[lanes].unbind(-1)
        top_k, seed = self._integers[lanes].unbind(-1)
        is_penalised = any(map(_is_penalised, params))
        return SamplingTensors(
            temperature=temperature.float(),
            top_k=top_k,
            top_p=top_p,
            min_p=min_p.float(),
            repetition_penalty=penalty.float(),
            seed=seed,
            position=positions,
            seen=self._seen[lanes] if is_penalised and self._seen is not None else None,
            allowed=allowed,
            is_sampled=any(p.temperature > 0 for p in params),
            is_filtered=any(
                p.temperature > 0 and (p.top_k > 0 or p.top_p < 1 or p.min_p > 0) for p in params
            ),
        )

    def record(self, lanes: Tensor, token_ids: Tensor) -> None:
        """Note the tokens that a step produced."""
        self.newest[lanes] = token_ids
        if self._seen is not None:
            self._seen[lanes, token_ids] = True

    def _start_seen(self, sequence: Sequence) -> None:
        if self._seen is None:
            shape = (len(self._reals), self._vocab_size)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
        ids = upload(sequence.token_ids[: sequence.num_tokens].astype(np.int64), self._device)
        seen = self._seen[sequence.lane]
        seen.zero_()
        seen[ids] = True


def _is_penalised(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1


def _wrap(seed: int) -> int:
    """Fold an integer of any size into int64."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
