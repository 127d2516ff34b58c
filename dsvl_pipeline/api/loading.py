"""How the public models are loaded and saved, with the reference's arguments.

Source of the behaviour: ``from_pretrained`` and ``save_pretrained``, transformers 5.23.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dsvl_pipeline.api.config import require_model_type
from dsvl_pipeline.api.filling import Report, fill
from dsvl_pipeline.api.generation.config import GenerationConfig
from dsvl_pipeline.api.initialising import Config
from dsvl_pipeline.api.load_options import LoadOptions, Where, split_options
from dsvl_pipeline.api.locating import Name, locate
from dsvl_pipeline.api.pretrained_model import PretrainedModel
from dsvl_pipeline.model.checkpoint import is_exact, load_model
from dsvl_pipeline.model.json_files import reading
from dsvl_pipeline.model.reading import read_all
from dsvl_pipeline.model.saving import save_weights

_logger = logging.getLogger(__name__)


class LoadedModel(PretrainedModel):
    """A public model that is loaded from a checkpoint and saved as one."""

    generation_config: Any

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Name | None,
        *,
        config: Config | Name | None = None,
        **options: Any,
    ) -> Any:
        """Load a checkpoint, in eval mode. Weights that are not there are random, with a warning.

        Args:
            pretrained_model_name_or_path: A directory, a hub id, or ``demo``; None where a config
                and a ``state_dict`` are given.
            config: A config, or where it lies; by default the checkpoint's.
            options: Those of `LoadOptions` and `Where`. Names of values of the config set them.

        Returns:
            The model; with ``output_loading_info`` a pair of it and a report.

        Raises:
            CheckpointError: Files are missing or broken, or it is of the other architecture.
            TypeError: An option is unknown.
            ValueError: An option asks for what cannot be done.
        """
        where, load, values = split_options(cls.__name__, options)
        name = pretrained_model_name_or_path
        config = cls._config(name if config is None else config, where, values)
        if load.attn_implementation is not None:
            config._attn_implementation = load.attn_implementation
        report = Report()
        if load.state_dict is None:
            assert name is not None, "the config would not have been found"
            directory = locate(name, needs="weights", **where)
            model = cls._of_directory(directory, config, load, report)
        else:
            model = cls._of_tensors(load.state_dict, config, load, report)
        model.eval().config.dtype = model.dtype
        if load.generation_config is not None and model.can_generate():
            model.generation_config = load.generation_config
        report.require_shapes(name, is_allowed=load.ignore_mismatched_sizes)
        for warning in report.warnings():
            _logger.warning("%s: %s", name, warning)
        return (model, report.info) if load.output_loading_info else model

    @classmethod
    def _config(cls, config: Config | Name | None, where: Where, values: dict[str, Any]) -> Config:
        """Read or copy a config, with some values changed."""
        kind = cls.config_class
        if config is None:
            raise ValueError(f"{cls.__name__}.from_pretrained needs a name, or a config")
        if isinstance(config, str | os.PathLike):
            written, _ = kind.get_config_dict(config, **where)
            with reading(str(config)):
                require_model_type(
                    written.get("model_type"), kind.model_type, str(config), cls.__name__
                )
                found = kind.from_dict(written)
        else:
            found = copy.deepcopy(config)
        unknown = sorted(name for name in values if not hasattr(found, name))
        if unknown:
            raise TypeError(
                f"{cls.__name__}.from_pretrained() got an unexpected keyword argument "
                f"{unknown[0]!r}"
            )
        found.update(values)
        return found

    @classmethod
    def _of_directory(
        cls, directory: Path, config: Config, load: LoadOptions, report: Report
    ) -> Self:
        device, dtype = load.device(), load.dtype_of(config, directory)
        shape = config.model_config()
        if load.key_mapping is None and is_exact(directory, shape):
            network = load_model(directory, dtype=dtype, device=device, config=shape)
            if not cls.can_generate():
                del network.lm_head
            model = cls(config, network=network.requires_grad_(True))
            _note_tie(model)
        else:
            load.chosen_dtype = dtype
            model = cls._of_tensors(dict(read_all(directory)), config, load, report)
        if model.can_generate():
            model.generation_config = GenerationConfig.of_checkpoint(directory)
        return model

    @classmethod
    def _of_tensors(
        cls, tensors: Mapping[str, Tensor], config: Config, load: LoadOptions, report: Report
    ) -> Self:
        """Build a model with random weights, and put those that fit into it."""
        model = cls(config)
        head = model.get_output_embeddings()
        stored = tensors.get("lm_head.weight")
        if head is not None and stored is not None and config.tie_word_embeddings:
            head.weight = nn.Parameter(head.weight.detach().clone())
        elif head is not None and stored is None and _is_of_whole(tensors):  # the file decides
            head.weight = model.get_input_embeddings().weight
        found = fill(model, tensors, load.key_mapping)
        report.missing, report.unexpected = found.missing, found.unexpected
        report.mismatched = found.mismatched
        _note_tie(model)
        if config.tie_word_embeddings:
            report.missing.discard("lm_head.weight")
        dtype = load.chosen_dtype or load.dtype_of(config, None)
        return model.to(load.device(), dtype)

    def save_pretrained(
        self,
        save_directory: Name,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        safe_serialization: bool = True,
        **ignored: Any,
    ) -> None:
        """Write weights and configs, as the community's checkpoints are laid out.

        Args:
            save_directory: Made where needed.
            is_main_process: Whether to write anything: one process of several does.
            state_dict: Weights instead of the model's own.
            push_to_hub: Must be false: nothing here writes to the hub.
            max_shard_size: Most bytes of a file, a number or as ``5GB``.
            variant: Part of the weight files' names.
            safe_serialization: Must be true: nothing here writes pickles.
            ignored: ``token``, ``save_original_format`` and the like, which change nothing here.
        """
        if push_to_hub:
            raise NotImplementedError("push_to_hub: save it, then use `hf upload`")
        if not safe_serialization:
            raise ValueError("safe_serialization=False: only safetensors are written, no pickles")
        if not is_main_process:
            return
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.config)
        config.architectures, config.dtype = [type(self).__name__], self.dtype
        config.save_pretrained(directory)
        if hasattr(getattr(self, "generation_config", None), "save_pretrained"):
            self.generation_config.save_pretrained(directory)
        tensors = self.state_dict() if state_dict is None else state_dict
        save_weights(tensors, directory, max_shard_size, variant)


def _is_of_whole(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether names are those of a model with head."""
    return any(name.startswith("model.") for name in tensors)


def _note_tie(model: PretrainedModel) -> None:
    """Let the config say what the file decided."""
    head = model.get_output_embeddings()
    if head is not None:
        embedding = model.get_input_embeddings().weight
        if model.config.tie_word_embeddings and torch.equal(head.weight, embedding):
            head.weight = embedding
        model.config.tie_word_embeddings = head.weight is embedding
