"""A checkpoint's ``generation_config.json``. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.json_files import get, read_optional_json, reading
from dsvl_pipeline.model.special_tokens import read_special_ids

# Of generation_config.json: what changes answers, with the value that does not. None where only
# absence does nothing.
_NEUTRAL: Mapping[str, object] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
    "token_healing": False,
    "top_h": None,
    "max_time": None,
    "stop_strings": None,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "watermarking_config": None,
    "dola_layers": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """The checkpoint's defaults for ``generate``; transformers' own where it has none.

    Attributes:
        eos_token_ids: Any of them ends a completion; may be empty. Those of the file that are
            special tokens of the tokenizer, and the tokenizer's own end of sentence.
        refused_eos_token_ids: Those of the file that are not: answers would end at a word.
        has_mended_eos: Whether ``eos_token_ids`` are others than the file alone would give.
        pad_token_id: None where none is set; ``generate`` then pads with the first of the above.
        unsupported: Settings that would change answers and that nothing here does, as
            ``name=value``. They stop ``generate`` alone: a job has its own settings.
    """

    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    max_new_tokens: int | None
    max_length: int
    unsupported: tuple[str, ...] = ()
    refused_eos_token_ids: tuple[int, ...] = ()
    has_mended_eos: bool = False

    @property
    def warning(self) -> str | None:
        """What is suspicious of the checkpoint's end of sequence, and what came of it."""
        if not self.refused_eos_token_ids:
            return None
        refused = ", ".join(map(str, self.refused_eos_token_ids))
        used = ", ".join(map(str, self.eos_token_ids)) or "none: they end at max_new_tokens"
        return (
            f"generation_config.json ends answers at {refused}, no special token of the tokenizer; "
            f"left out; ids that end answers: {used}"
        )

    def check_supported(self) -> None:
        """Raise CheckpointError where ``generate`` could not do what the checkpoint asks for."""
        if self.unsupported:
            raise CheckpointError(
                f"generation_config.json has {', '.join(self.unsupported)}, which cannot be done "
                "here; take it out of the file"
            )


def read_generation_config(directory: Path) -> GenerationDefaults:
    """Read a checkpoint's ``generation_config.json``, which may be absent.

    An end of sequence in config.json does not count: its default is another tokenizer's.

    Raises:
        CheckpointError: It is broken, or holds a value of a wrong kind.
    """
    with reading(directory):
        config = read_optional_json(directory / "generation_config.json")
        eos = get(config, "eos_token_id", [])
        configured = tuple(map(int, eos if isinstance(eos, list) else [eos]))
        special = read_special_ids(directory)
        own = () if special.eos is None else (special.eos,)
        refused = () if special.all is None else {*configured} - special.all
        kept = tuple(dict.fromkeys(x for x in (*configured, *own) if x not in refused))
        return GenerationDefaults(
            eos_token_ids=kept,
            refused_eos_token_ids=tuple(sorted(refused)),
            has_mended_eos=bool(configured) and {*kept} != {*configured},
            pad_token_id=get(config, "pad_token_id", None),
            do_sample=get(config, "do_sample", False),
            temperature=float(get(config, "temperature", 1.0)),
            top_k=get(config, "top_k", 50),
            top_p=float(get(config, "top_p", 1.0)),
            min_p=float(get(config, "min_p", 0.0)),
            repetition_penalty=float(get(config, "repetition_penalty", 1.0)),
            max_new_tokens=get(config, "max_new_tokens", None),
            max_length=get(config, "max_length", 20),
            unsupported=tuple(
                f"{name}={config[name]!r}"
                for name, neutral in _NEUTRAL.items()
                if config.get(name) not in (None, neutral, [], {})
            ),
        )
