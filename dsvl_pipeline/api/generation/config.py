"""How `generate` answers, by the reference's names.

Source of the behaviour: ``GenerationConfig``, transformers 5.23.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dsvl_pipeline.api.locating import Name, locate
from dsvl_pipeline.model.end_of_sequence import read_end_of_sequence
from dsvl_pipeline.model.json_files import read_json, read_optional_json, reading

_logger = logging.getLogger(__name__)

FILE_NAME = "generation_config.json"

# What is done where nobody says anything else. Of those without a default, None does nothing.
DEFAULTS: Mapping[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_return_sequences": 1,
    "use_cache": True,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict_in_generate": False,
    "remove_invalid_values": False,
    "renormalize_logits": False,
}
_WITHOUT_DEFAULT = {
    *("max_new_tokens", "min_new_tokens", "max_time", "stop_strings", "min_p", "bad_words_ids"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("sequence_bias", "exponential_decay_length_penalty"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
}
# What changes nothing but speed or memory, for which this project has its own ways.
_WITHOUT_EFFECT = {
    *("cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile"),
    *("prefill_chunk_size", "return_legacy_cache", "low_memory", "use_mtp"),
    *("continuous_batching_config", "is_assistant", "num_assistant_tokens", "speculation_type"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind"),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit"),
    *("target_lookbehind", "assistant_ensemble_weight"),
}
# What would change answers and cannot be done here, with the value that does not.
_UNSUPPORTED: Mapping[str, Any] = {
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "token_healing": False,
    "top_h": None,
    "force_words_ids": None,
    "constraints": None,
    "watermarking_config": None,
    "dola_layers": None,
    "decoder_start_token_id": None,
}
NAMES = {*DEFAULTS, *_WITHOUT_DEFAULT, *_WITHOUT_EFFECT, *_UNSUPPORTED}


class GenerationConfig:
    """How `generate` answers. None says that the model's own config, or the default, decides.

    Unknown names are kept as attributes, and do nothing.
    """

    def __init__(self, **values: Any) -> None:
        for name in sorted(NAMES):
            setattr(self, name, None)
        for name, value in values.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Only for what is missing: type checkers need not know every name.
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    @classmethod
    def of_checkpoint(cls, directory: Path) -> Self:
        """Read ``generation_config.json``, which may be absent, with an end of sequence mended.

        Raises:
            CheckpointError: It is broken.
        """
        with reading(directory):
            values = read_optional_json(directory / FILE_NAME)
        end = read_end_of_sequence(directory)
        if end.warning is not None:
            _logger.warning("%s: %s", directory, end.warning)
        ends = list(end.eos_token_ids)
        eos = ends[0] if len(ends) == 1 else ends or None
        return cls(**{**values, "eos_token_id": eos})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: Name,
        config_file_name: str = FILE_NAME,
        *,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: Name | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **values: Any,
    ) -> Self:
        """Read a directory's or hub id's file as it is; ``values`` replace some of its own."""
        directory = locate(
            pretrained_model_name,
            needs="processor",  # what may lie without a model
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        with reading(directory):
            return cls(**{**read_json(directory / config_file_name), **values})

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **values: Any) -> Self:
        """Make one of a dict; ``values`` replace some of it."""
        return cls(**{**copy.deepcopy(dict(config_dict)), **values})

    @classmethod
    def from_model_config(cls, model_config: Any) -> Self:
        """Make the one of a model without ``generation_config.json``: its special tokens alone."""
        text = model_config.get_text_config()
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return cls(**{name: getattr(text, name, None) for name in names})

    def update(self, **values: Any) -> dict[str, Any]:
        """Set those that are attributes; return the others."""
        unused = {name: value for name, value in values.items() if not hasattr(self, name)}
        for name in values.keys() - unused.keys():
            setattr(self, name, values[name])
        return unused

    def to_dict(self) -> dict[str, Any]:
        """Return everything that is set, for a file."""
        found = {k: copy.deepcopy(v) for k, v in vars(self).items() if v is not None}
        if isinstance(bias := found.get("sequence_bias"), dict):  # keys of JSON are texts
            found["sequence_bias"] = [[list(ids), value] for ids, value in bias.items()]
        return found

    to_diff_dict = to_dict

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return `to_dict` as JSON; ``use_diff`` changes nothing."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: Name, config_file_name: str = FILE_NAME) -> None:
        """Write it into a directory, which is made where needed."""
        os.makedirs(save_directory, exist_ok=True)
        Path(save_directory, config_file_name).write_text(self.to_json_string(), encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def check_supported(self) -> None:
        """Raise ValueError where it asks for what cannot be done here."""
        asked = [
            f"{name}={getattr(self, name)!r}"
            for name, neutral in _UNSUPPORTED.items()
            if getattr(self, name, None) not in (None, neutral, [], {})
        ]
        if asked:
            raise ValueError(
                f"generate() cannot do {', '.join(asked)}; it does greedy search, sampling and "
                "beams, with the filters and penalties that docs/python.md lists"
            )


def merge(own: Any, given: Any | None, arguments: Mapping[str, Any]) -> GenerationConfig:
    """Return what counts: arguments, else a given config's values, else the model's own.

    Args:
        own: The model's config.
        given: A config of ours, of transformers, or a dict; or None.
        arguments: By name; what is None says nothing.
    """
    merged = GenerationConfig()
    for values in (_values(own), _values(given), arguments):
        for name, value in values.items():
            if value is not None:
                setattr(merged, name, value)
    return merged


def _values(config: Any) -> Mapping[str, Any]:
    if config is None:
        return {}
    return config if isinstance(config, Mapping) else vars(config)
