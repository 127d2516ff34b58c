"""DeepSeek-VL, single-tower and hybrid: towers, aligner, language model, head.

Letters: ``N`` images, ``S`` edge of a picture in pixels, ``L`` image tokens, ``M`` image tokens of
all images of a step, ``T`` tokens of all sequences one after another, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.model.aligner import Aligner, HybridAligner
from dsvl_pipeline.model.config import ModelConfig
from dsvl_pipeline.model.linear import Linear
from dsvl_pipeline.model.llama import LastLayer, Llama
from dsvl_pipeline.model.sam import SamTower
from dsvl_pipeline.model.siglip import SiglipTower
from dsvl_pipeline.ops.attention import attend_packed, attend_paged, rotate_and_store
from dsvl_pipeline.ops.rotary import apply_rotary
from dsvl_pipeline.ops.values import KVPages, PackedInputs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LastRows:
    """Rows of a step whose scores are wanted: a sequence's last one, as a rule.

    Attributes:
        rows: ``int64[B]``, their places among the step's tokens.
        packed: As the step's own, for these tokens alone: each sequence's newest, one or a few.
    """

    rows: Tensor
    packed: PackedInputs


class DeepseekVL(nn.Module):
    """The whole model. Weights come from `checkpoint.load_model`.

    Attributes:
        config: The shape it was built with.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        text, low_res, high_res = config.text, config.low_res, config.high_res
        self.low_res = SiglipTower(low_res)
        self.high_res = None if high_res is None else SamTower(high_res, low_res.grid_size)
        self.aligner = (
            Aligner(low_res.hidden_size, text.hidden_size)
            if high_res is None
            else HybridAligner(low_res.hidden_size, 4 * high_res.output_channels, text.hidden_size)
        )
        self.text = Llama(text)
        self.lm_head = Linear(text.hidden_size, text.vocab_size, bias=False)
        self.attention_scale = text.head_dim**-0.5

    def quantizable(self) -> dict[str, Linear]:
        """Give the projections that fp8 is meant for, by the name of their weight.

        Those inside the language model's layers, but neither the head, which picks between close
        scores, nor the towers; nor shapes that matrix units do not take.
        """
        return {
            f"text.layers.{name}.weight": module
            for name, module in self.text.layers.named_modules()
            if isinstance(module, Linear) and module.can_quantize
        }

    def encode_images(self, low_res: Tensor, high_res: Tensor | None) -> Tensor:
        """Turn normalised pictures into image tokens.

        Args:
            low_res: ``[N, 3, S, S]`` for SigLIP.
            high_res: ``[N, 3, S, S]`` for SAM; None for the single-tower architecture.

        Returns:
            ``[N, L, D]``.
        """
        features = self.low_res(low_res)
        if self.high_res is None:
            output: Tensor = self.aligner(features)
        else:
            output = self.aligner(features, self.high_res(high_res))
        return output

    def embed(self, ids: Tensor, image_features: Tensor | None) -> Tensor:
        """Look up token embeddings and put image features in the place of image tokens.

        Args:
            ids: ``int[T]``.
            image_features: ``[M, D]``, in the order of the image tokens among ``ids``. None leaves
                image tokens their own embedding: a decoded id may happen to be one.

        Returns:
            ``[T, D]``.

        Raises:
            PromptError: The number of image tokens is not ``M``.
        """
        hidden: Tensor = self.text.embedding(ids)
        if image_features is None:
            return hidden
        is_image = ids == self.config.image_token_id
        num_tokens, num_features = int(is_image.sum()), image_features.shape[0]
        if num_tokens != num_features:
            raise PromptError(
                "image_token_count",
                f"the prompt holds {num_tokens} image tokens, but its images give {num_features} "
                f"features; one of them must be changed",
            )
        return hidden.masked_scatter(is_image[:, None], image_features.to(hidden.dtype))

    def forward(
        self, hidden: Tensor, packed: PackedInputs, kv: KVPages, *, last: LastRows | None = None
    ) -> Tensor:
        """Run one step over KV pages: any mix of whole prompts, chunks and single tokens.

        Args:
            hidden: ``[T, D]`` from `embed`.
            packed: Where the tokens belong.
            kv: Pages; the step's keys and values are written into them.
            last: Rows that are wanted, B of them; None is all. Keys and values are written for all.

        Returns:
            ``[T, D]`` or ``[B, D]`` behind the final norm, for `logits`.
        """
        num_heads = self.config.text.num_heads

        def attend(heads: Tensor, cos: Tensor, sin: Tensor, layer_index: int) -> Tensor:
            q = rotate_and_store(heads, cos, sin, kv, layer_index, packed, num_heads)
            return attend_paged(q, kv, layer_index, packed, self.attention_scale)

        last_layer = None if last is None else self._last_layer(last, packed, kv)
        output: Tensor = self.text(hidden, packed.positions, attend, last_layer)
        return output

    def _last_layer(self, last: LastRows, packed: PackedInputs, kv: KVPages) -> LastLayer:
        def attend(q: Tensor, heads: Tensor, cos: Tensor, sin: Tensor, layer_index: int) -> Tensor:
            rotate_and_store(heads, cos, sin, kv, layer_index, packed, 0)
            q = apply_rotary(q, cos[last.rows], sin[last.rows])
            return attend_paged(q, kv, layer_index, last.packed, self.attention_scale)

        return LastLayer(rows=last.rows, attend=attend)

    def forward_dense(self, hidden: Tensor, query_starts: Tensor) -> Tensor:
        """Run whole sequences without pages: the same layers, nothing kept.

        Args:
            hidden: ``[T, D]`` from `embed`.
            query_starts: ``int32[S + 1]``, the first token of each sequence, and ``T``.

        Returns:
            ``[T, D]`` behind the final norm, for `logits`.
        """
        H, Hkv = self.config.text.num_heads, self.config.text.num_kv_heads

        def attend(heads: Tensor, cos: Tensor, sin: Tensor, layer_index: int) -> Tensor:
            del layer_index  # nothing is kept
            # queries and keys lie side by side, so one call rotates both
            rotated, v = apply_rotary(heads[:, : H + Hkv], cos, sin), heads[:, H + Hkv :]
            q, k = rotated[:, :H], rotated[:, H:]
            return attend_packed(q, k, v, query_starts, self.attention_scale)

        starts = query_starts.to(torch.int64)
        firsts = starts[:-1].repeat_interleave(starts.diff(), output_size=hidden.shape[0])
        positions = torch.arange(hidden.shape[0], device=hidden.device) - firsts
        output: Tensor = self.text(hidden, positions, attend)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every vocabulary entry: ``[..., D]`` to ``[..., V]``."""
        scores: Tensor = self.lm_head(hidden)
        return scores
