"""The public model classes, over this project's own model and engine.

Letters: ``B`` prompts, ``T`` tokens of the longest, ``N`` images of all prompts, ``L`` image tokens
of one, ``D`` width, ``V`` vocabulary, ``S`` edge of a picture in pixels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor

from dsvl_pipeline import hub
from dsvl_pipeline.api import generation
from dsvl_pipeline.api.config import DeepseekVLConfig, DeepseekVLHybridConfig, read_config
from dsvl_pipeline.api.generation import GenerateOptions
from dsvl_pipeline.model.checkpoint import load_model
from dsvl_pipeline.model.deepseek_vl import DeepseekVL
from dsvl_pipeline.model.generation_defaults import read_generation_config
from dsvl_pipeline.model.image_config import read_image_config
from dsvl_pipeline.model.tensors import list_tensors

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """Attributes: ``pooler_output`` ``[N, L, D]``: what takes the place of the image tokens."""

    pooler_output: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What `DeepseekVLModel` computes.

    Attributes:
        last_hidden_state: ``[B, T, D]`` behind the final norm; zeros at padding.
        image_hidden_states: ``[N * L, D]``; None without images.
    """

    last_hidden_state: Tensor
    image_hidden_states: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalOutput:
    """What `DeepseekVLForConditionalGeneration` computes.

    Attributes:
        logits: ``[B, T, V]``; zeros at padding.
        image_hidden_states: ``[N * L, D]``; None without images.
    """

    logits: Tensor
    image_hidden_states: Tensor | None


class _PretrainedModel:
    """What both model classes are: a loaded network with its checkpoint's config."""

    is_hybrid: ClassVar[bool] = False

    def __init__(self, model: DeepseekVL, directory: Path) -> None:
        self.model = model
        kind = DeepseekVLHybridConfig if self.is_hybrid else DeepseekVLConfig
        self.config = kind.from_pretrained(directory)
        self.generation_config = read_generation_config(directory)
        if self.generation_config.warning is not None:
            _logger.warning("%s: %s", directory, self.generation_config.warning)
        self._image_config = read_image_config(directory)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: torch.device | str | int | Mapping[str, Any] | None = None,
        attn_implementation: str | None = None,
    ) -> Self:
        """Load a checkpoint.

        Args:
            name: A directory, a hub id, or ``demo``.
            revision: Commit, tag or branch of a hub id.
            dtype: Of all weights; by default, and for ``auto``, what config.json says, else that
                of the first weight.
            torch_dtype: Older name of ``dtype``.
            device_map: A device; ``auto`` is the first GPU, or the CPU without one, as is None.
            attn_implementation: Accepted and without effect: the kernels follow the device.

        Raises:
            CheckpointError: Files are missing or broken, or it is of the other architecture.
        """
        directory = hub.resolve(str(name), revision)
        read_config(directory, is_hybrid=cls.is_hybrid, class_name=cls.__name__)
        chosen = _dtype(dtype if dtype is not None else torch_dtype, directory)
        return cls(load_model(directory, dtype=chosen, device=_device(device_map)), directory)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def eval(self) -> Self:
        """Do nothing: a loaded model is never in training mode."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast the weights, with the arguments of ``torch.nn.Module.to``."""
        self.model.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def get_image_features(
        self, pixel_values: Tensor, high_res_pixel_values: Tensor | None = None
    ) -> ImageFeatures:
        """Turn pictures, as the processor makes them, into image tokens."""
        if (high_res_pixel_values is not None) != self.is_hybrid:
            wanted, found = ("", "no ") if self.is_hybrid else ("no ", "")
            raise ValueError(
                f"the model has {wanted}high-resolution tower, but {found}high_res_pixel_values "
                "were given; use the processor of the same checkpoint"
            )
        high_res = high_res_pixel_values
        if high_res is not None:
            high_res = high_res.to(self.device, self.dtype)
        low_res = pixel_values.to(self.device, self.dtype)
        return ImageFeatures(pooler_output=self.model.encode_images(low_res, high_res))

    @torch.no_grad()
    def _run(
        self,
        input_ids: Tensor,
        mask: Tensor,
        pixel_values: Tensor | None,
        high_res_pixel_values: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return hidden states of the unmasked tokens, ``[tokens, D]``, and image features."""
        features = None
        if pixel_values is not None:
            found = self.get_image_features(pixel_values, high_res_pixel_values)
            features = found.pooler_output.flatten(0, 1)  # (N * L, D)
        ends = mask.sum(1).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
        hidden = self.model.embed(input_ids.to(self.device)[mask], features)
        return self.model.forward_dense(hidden, starts), features

    def _mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        mask = attention_mask.to(self.device).bool()
        # At most one change from 0 to 1 and one back: what is left out in the middle would have
        # positions of its own in the reference, and has none here.
        num_starts = mask[:, :1].sum(1) + (mask[:, 1:] & ~mask[:, :-1]).sum(1)
        if (num_starts > 1).any():
            raise ValueError(
                f"attention_mask has zeros between ones in row {int(num_starts.argmax())}; only "
                "padding on the left or right can be masked"
            )
        return mask


class DeepseekVLModel(_PretrainedModel):
    """Towers and language model without the head."""

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
    ) -> ModelOutput:
        """Run whole prompts, as the processor makes them, without gradients."""
        mask = self._mask(input_ids, attention_mask)
        hidden, features = self._run(input_ids, mask, pixel_values, high_res_pixel_values)
        return ModelOutput(last_hidden_state=_unpack(hidden, mask), image_hidden_states=features)

    forward = __call__


class DeepseekVLForConditionalGeneration(_PretrainedModel):
    """The whole model."""

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
    ) -> CausalOutput:
        """Run whole prompts, as the processor makes them, without gradients."""
        mask = self._mask(input_ids, attention_mask)
        hidden, features = self._run(input_ids, mask, pixel_values, high_res_pixel_values)
        with torch.no_grad():
            logits = _unpack(self.model.logits(hidden), mask)
        return CausalOutput(logits=logits, image_hidden_states=features)

    forward = __call__

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Tensor:
        """Answer prompts, on an engine of this project.

        Sampling draws its seeds from torch's global generator, so that ``torch.manual_seed``
        repeats it.

        Args:
            input_ids: ``int[B, T]``, padded on the left.
            attention_mask: ``[B, T]``, 0 at padding. Without one, padding is what has the pad id,
                unless that is an end of sequence as well.
            pixel_values: ``[N, 3, S, S]``, the pictures of all prompts in order.
            high_res_pixel_values: The same for the other tower, if there is one.
            options: Those of `GenerateOptions`.

        Returns:
            ``int64[B, T + new]``: the prompts as given, then the answers, end of sequence included.

        Raises:
            CheckpointError: ``generation_config.json`` asks for what this engine does not do.
            PromptError: The engine cannot run a prompt, e.g. because it is too long.
            ValueError: Arguments contradict each other.
        """
        settings = generation.resolve(self.generation_config, input_ids.shape[1], options)
        pad = settings.pad_token_id
        if attention_mask is None:
            attention_mask = generation.infer_mask(input_ids, pad, settings.eos_token_ids)
        prompts = generation.unpad(input_ids, attention_mask)
        images = generation.deal_images(
            prompts, self.model.config, pixel_values, high_res_pixel_values
        )
        answers = generation.answer(self.model, self._image_config, prompts, images, settings)
        return torch.cat([input_ids, generation.pad_right(answers, pad, like=input_ids)], dim=1)


# The names of the reference documentation: what differs is which checkpoints they take.
class DeepseekVLHybridModel(DeepseekVLModel):
    """Two towers and language model without the head."""

    is_hybrid = True


class DeepseekVLHybridForConditionalGeneration(DeepseekVLForConditionalGeneration):
    """The whole model with two towers."""

    is_hybrid = True


def _dtype(wanted: torch.dtype | str | None, directory: Path) -> torch.dtype:
    if isinstance(wanted, torch.dtype):
        return wanted
    if wanted in (None, "auto"):
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        wanted = config.get("dtype") or config.get("torch_dtype") or _dtype_of_weights(directory)
    dtype = getattr(torch, str(wanted), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype is {wanted!r}; it must be a torch dtype such as 'bfloat16'")
    return dtype


def _dtype_of_weights(directory: Path) -> str:
    """What the reference takes where config.json says nothing: the first weight's."""
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    found = (names.get(tensor.dtype) for tensor in list_tensors(directory).values())
    return next(filter(None, found), "float32")


def _device(device_map: torch.device | str | int | Mapping[str, Any] | None) -> torch.device:
    if isinstance(device_map, Mapping):
        device_map = device_map.get("")
    if device_map in (None, "auto"):
        is_gpu = device_map == "auto" and torch.cuda.is_available()
        return torch.device("cuda" if is_gpu else "cpu")
    return torch.device(device_map)


def _unpack(values: Tensor, mask: Tensor) -> Tensor:
    """Put values of unmasked tokens back into their places: ``[B, T, ...]``."""
    padded = values.new_zeros((*mask.shape, *values.shape[1:]))
    padded[mask] = values
    return padded
