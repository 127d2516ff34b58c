"""What ends an answer, by a checkpoint's ``generation_config.json`` and tokenizer. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsvl_pipeline.model.json_files import get, read_optional_json, reading
from dsvl_pipeline.model.special_tokens import read_special_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOfSequence:
    """The tokens that end an answer.

    Attributes:
        eos_token_ids: Any of them does; may be empty. Those of the file that are special tokens of
            the tokenizer, and the tokenizer's own end of sentence.
        refused_eos_token_ids: Those of the file that are not: answers would end at a word.
        has_mended_eos: Whether ``eos_token_ids`` are others than the file alone would give.
    """

    eos_token_ids: tuple[int, ...]
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


def read_end_of_sequence(directory: Path) -> EndOfSequence:
    """Read what ends an answer; ``generation_config.json`` may be absent.

    An end of sequence in config.json does not count: its default is another tokenizer's.

    Raises:
        CheckpointError: A file is broken, or holds a value of a wrong kind.
    """
    with reading(directory):
        config = read_optional_json(directory / "generation_config.json")
        eos = get(config, "eos_token_id", [])
        configured = tuple(map(int, eos if isinstance(eos, list) else [eos]))
        special = read_special_ids(directory)
        own = () if special.eos is None else (special.eos,)
        refused = () if special.all is None else {*configured} - special.all
        kept = tuple(dict.fromkeys(x for x in (*configured, *own) if x not in refused))
        return EndOfSequence(
            eos_token_ids=kept,
            refused_eos_token_ids=tuple(sorted(refused)),
            has_mended_eos=bool(configured) and {*kept} != {*configured},
        )
