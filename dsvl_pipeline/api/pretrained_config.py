"""How configs are read from files and written to them, as the reference does.

Source of the behaviour: ``PreTrainedConfig``, transformers 5.23.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dsvl_pipeline.api.config_values import GENERATION_KEYS, ConfigValues
from dsvl_pipeline.api.locating import FILE_OPTIONS, Name, load_config_dict
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.json_files import read_json, reading

_IGNORED_OPTIONS = {"trust_remote_code", "proxies", "_from_auto", "_from_pipeline"}
# Part of the config's making; what else is given is set afterwards.
_EARLY_KEYS = {"num_labels", "attn_implementation", "output_attentions", "name_or_path"}


@dataclass(init=False, eq=False, repr=False, kw_only=True)
class PretrainedConfig(ConfigValues):
    """A config with the ways of the reference to load and save it."""

    def to_json_file(self, json_file_path: Name, use_diff: bool = True) -> None:
        """Write `to_json_string`."""
        Path(json_file_path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    def save_pretrained(self, save_directory: Name, push_to_hub: bool = False) -> None:
        """Write ``config.json`` into a directory, which is made where needed.

        Raises:
            NotImplementedError: With ``push_to_hub``.
            ValueError: Settings of ``generate`` are set.
        """
        if push_to_hub:
            self.push_to_hub()
        settings = sorted(name for name in GENERATION_KEYS if getattr(self, name, None) is not None)
        if settings:
            raise ValueError(
                f"the config has {', '.join(settings)}, which belong into model.generation_config"
            )
        os.makedirs(save_directory, exist_ok=True)
        self.to_json_file(Path(save_directory) / "config.json")

    def push_to_hub(self, *_: Any, **__: Any) -> None:
        """Refuse: nothing here writes to the hub."""
        raise NotImplementedError(
            "push_to_hub cannot be done here; use save_pretrained, then `hf upload`"
        )

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Name, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what ``config.json`` says, and the options that say not where it lies."""
        where = {key: options.pop(key) for key in FILE_OPTIONS & options.keys()}
        for key in _IGNORED_OPTIONS & options.keys():
            del options[key]
        return load_config_dict(pretrained_model_name_or_path, **where), options

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **options: Any) -> Self:
        """Read a config. Only JSON is downloaded, but for checkpoints of the original dialect.

        Args:
            pretrained_model_name_or_path: A directory, a JSON file, a hub id, or ``demo``.
            options: ``revision``, ``subfolder``, ``cache_dir``, ``token``, ``local_files_only``
                and ``force_download`` say where it lies. Others replace values of the file, or,
                as dicts, values of its sections. With ``return_unused_kwargs`` those that name no
                value are returned as well, as a second result; else they are ignored.

        Raises:
            UnreadableCheckpointError: It cannot be had.
            CheckpointError: It is broken, or of another architecture.
        """
        where = str(pretrained_model_name_or_path)
        found, options = cls.get_config_dict(pretrained_model_name_or_path, **options)
        with reading(where):
            return cls.from_dict(cls._own_part(found, where), **options)

    @classmethod
    def _own_part(cls, found: dict[str, Any], where: str) -> dict[str, Any]:
        """Give the section of a whole config that this class is for, or the config itself."""
        part: dict[str, Any] = found.get(cls.base_config_key) or found
        model_type = part.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise CheckpointError(
                f"{where} has model_type={model_type!r}, which {cls.__name__} is not for; it takes "
                f"{cls.model_type!r}"
            )
        return part

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> Self:
        """Make a config of a dict; see `from_pretrained` for the options."""
        returns_unused = options.pop("return_unused_kwargs", False)
        values = copy.deepcopy(dict(config_dict))
        for key in _EARLY_KEYS & options.keys():
            values[key] = options.pop(key)
        for key in ("torch_dtype", "dtype"):  # where both are given the newer name wins
            if (dtype := options.pop(key, None)) not in (None, "auto"):
                values["dtype"] = dtype
        config = cls(**values)
        for name in [name for name in options if hasattr(config, name)]:
            value, before = options.pop(name), getattr(config, name)
            if isinstance(before, ConfigValues) and isinstance(value, Mapping):
                value = type(before)(**{**before.to_dict(), **value})
            setattr(config, name, value)
        return (config, options) if returns_unused else config  # type: ignore[return-value]

    @classmethod
    def from_json_file(cls, json_file: Name) -> Self:
        """Read a config from a JSON file."""
        return cls(**read_json(Path(json_file)))
