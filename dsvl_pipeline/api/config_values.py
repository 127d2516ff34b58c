"""The values of a config: how they are made, changed, compared and written down.

Source of the behaviour: ``PreTrainedConfig``, transformers 5.23.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

# Settings of generate: ignored in an old config.json, refused where a script sets them.
GENERATION_KEYS = {
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
    *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "epsilon_cutoff"),
    *("eta_cutoff", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "bad_words_ids"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens", "num_assistant_tokens", "target_lookbehind"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind"),
}
_NOT_SAVED = {"_attn_implementation_internal", "_experts_implementation_internal", "_commit_hash"}


@dataclass(init=False, eq=False, repr=False, kw_only=True)
class ConfigValues:
    """Values that all configs have. Unknown ones are kept as attributes.

    Attributes:
        dtype: Of the weights; text such as ``bfloat16`` becomes torch's.
    """

    model_type: ClassVar[str] = ""
    base_config_key: ClassVar[str] = ""
    sub_configs: ClassVar[dict[str, type[ConfigValues]]] = {}
    attribute_map: ClassVar[dict[str, str]] = {}
    base_model_tp_plan: ClassVar[None] = None  # no tensor parallelism
    keys_to_ignore_at_inference: ClassVar[list[str]] = []

    transformers_version: str | None = None
    architectures: list[str] | None = None
    output_hidden_states: bool = False
    return_dict: bool = True
    dtype: torch.dtype | None = None
    chunk_size_feed_forward: int = 0
    is_encoder_decoder: bool = False
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None

    def __init__(self, **values: Any) -> None:
        for field in fields(self):
            setattr(self, field.name, values.pop(field.name, field.default))
        self._make_sections()
        self._require_model_type(values.pop("model_type", None))
        self._set_dtype(values.pop("torch_dtype", None))
        self._set_labels(values.pop("num_labels", None))
        self._complete(values)
        self._name_or_path = str(values.pop("name_or_path", ""))
        self._attn_implementation = values.pop("attn_implementation", None)
        self._output_attentions: bool = values.pop("output_attentions", False)
        self._require_eager(self._output_attentions)
        for name, value in values.items():
            if name not in GENERATION_KEYS | _NOT_SAVED | {"use_cache"}:
                setattr(self, name, value)

    def _complete(self, values: dict[str, Any]) -> None:
        """Derive what follows from other values, and take older names out of ``values``."""

    def _make_sections(self) -> None:
        for key, kind in self.sub_configs.items():
            found = getattr(self, key)
            if isinstance(found, ConfigValues):
                continue
            if hasattr(found, "to_dict"):  # transformers' own
                found = {**found.to_dict(), "transformers_version": None}
            if found is not None and not isinstance(found, Mapping):
                raise TypeError(
                    f"{key} is a {type(found).__name__}; it must be a dict, a config or None"
                )
            setattr(self, key, kind(**(found or {})))

    def __init_subclass__(cls) -> None:
        """Let the signature name all values: some programs choose by it what to give."""
        super().__init_subclass__()

        def __init__(self: ConfigValues, **values: Any) -> None:  # noqa: N807
            ConfigValues.__init__(self, **values)

        found = {}
        for kind in reversed(cls.__mro__):
            found.update(inspect.get_annotations(kind))
        names = [name for name, hint in found.items() if not hint.startswith("ClassVar")]
        parameters = [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(cls, name))
                for name in names
            ),
            inspect.Parameter("values", inspect.Parameter.VAR_KEYWORD),
        ]
        __init__.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]

    def _require_model_type(self, found: str | None) -> None:
        if found not in (None, "", self.model_type):
            raise ValueError(
                f"{type(self).__name__} takes the model_type {self.model_type!r}, not {found!r}"
            )

    def _set_dtype(self, older: torch.dtype | str | None) -> None:
        dtype = self.dtype if self.dtype is not None else older
        if isinstance(dtype, str):
            import torch

            found = getattr(torch, dtype.removeprefix("torch."), None)
            if not isinstance(found, torch.dtype):
                raise ValueError(f"dtype is {dtype!r}; it must be one of torch's, as 'bfloat16'")
            dtype = found
        self.dtype = dtype

    def _set_labels(self, num_labels: int | None) -> None:
        if self.id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
        else:
            self.id2label = {int(key): label for key, label in self.id2label.items()}

    @property
    def num_labels(self) -> int:
        return len(self.id2label or ())

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if self.id2label is None or len(self.id2label) != number:
            self.id2label = {index: f"LABEL_{index}" for index in range(number)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def name_or_path(self) -> str:
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, name: str | os.PathLike[str]) -> None:
        self._name_or_path = str(name)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The older name of ``dtype``."""
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype

    @property
    def use_return_dict(self) -> bool:
        """The older name of ``return_dict``."""
        return self.return_dict

    @property
    def _attn_implementation(self) -> str | None:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, chosen: str | dict[str, str | None] | None) -> None:
        """Set it in all sections; a dict names it by section, with ``""`` for the whole."""
        before = getattr(self, "_attn_implementation_internal", None)
        own = chosen.get("", before) if isinstance(chosen, dict) else chosen
        self._attn_implementation_internal: str | None = own
        for key in self.sub_configs:
            section = getattr(self, key)
            if isinstance(section, ConfigValues):
                before = section._attn_implementation
                own = chosen.get(key, before) if isinstance(chosen, dict) else chosen
                section._attn_implementation = own

    @property
    def output_attentions(self) -> bool:
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, wanted: bool) -> None:
        """Set it; where no attention is chosen yet this chooses the one that can give them."""
        if wanted and self._attn_implementation is None:
            self._attn_implementation = "eager"
        self._require_eager(wanted)
        self._output_attentions = wanted

    def _require_eager(self, is_wanted: bool) -> None:
        if is_wanted and self._attn_implementation not in (None, "eager"):
            raise ValueError(
                f"output_attentions needs attn_implementation 'eager', but it is "
                f"{self._attn_implementation!r}"
            )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """Return the language model's section, or the config itself where that is not asked for."""
        is_of_encoder = decoder != encoder and not decoder
        has_section = "text_config" in self.sub_configs and not is_of_encoder
        return vars(self)["text_config"] if has_section else self

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def update(self, values: Mapping[str, Any]) -> None:
        """Set attributes."""
        for name, value in values.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return all values and the model type; sections as dicts, ``dtype`` as text."""
        found: dict[str, Any] = {"model_type": self.model_type}
        for name, value in vars(self).items():
            if isinstance(value, ConfigValues):
                found[name] = value.to_dict()
                found[name].pop("transformers_version", None)
            elif name not in _NOT_SAVED:
                found[name] = _plain(value)
        found["output_attentions"] = found.pop("_output_attentions")
        if found["dtype"] is not None:
            found["dtype"] = str(found["dtype"]).removeprefix("torch.")
        if found["transformers_version"] is None:
            del found["transformers_version"]
        return found

    def to_diff_dict(self) -> dict[str, Any]:
        """Return `to_dict` without those common values that have their defaults."""
        common = ConfigValues().to_dict()
        found = {}
        for name, value in self.to_dict().items():
            section = getattr(self, name, None)
            if isinstance(section, ConfigValues):
                found[name] = section.to_diff_dict()
                found[name].pop("transformers_version", None)
            elif name == "model_type" or name not in common or value != common[name]:
                found[name] = value
        found.pop("_name_or_path", None)
        return found

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return it as JSON with sorted keys, by default without common values at their defaults.

        Raises:
            TypeError: A value is not of JSON.
        """
        found = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(found, indent=2, sort_keys=True) + "\n"


def _plain(value: Any) -> Any:
    """Copy a value, with lists for tuples."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return copy.deepcopy(value)
