"""What a processor reads of a checkpoint beside its own files. Never weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsvl_pipeline.api.config import require_model_type
from dsvl_pipeline.model import original
from dsvl_pipeline.model.config import MODEL_TYPES, model_config_of
from dsvl_pipeline.model.json_files import get, read_optional_json, reading

_NUM_IMAGE_TOKENS = 576  # upstream's default


def check_family(directory: Path, *, is_hybrid: bool, class_name: str) -> None:
    """Refuse a checkpoint of the other architecture; without a config.json nothing tells.

    Raises:
        CheckpointError: With the name of the class that takes it.
    """
    config = read_optional_json(directory / "config.json")
    if not config:
        return
    model_type = config.get("model_type")
    if model_type == original.MODEL_TYPE:
        model_type = MODEL_TYPES[original.is_hybrid_config(config)]
    require_model_type(model_type, MODEL_TYPES[is_hybrid], directory, class_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the model's side says of prompts.

    Attributes:
        num_image_tokens: How many tokens a picture takes.
        max_prompt_tokens: Longest prompt that leaves room for a new token; None where nothing
            tells.
        image_token_id: The id that vision features replace; None where nothing tells.
    """

    num_image_tokens: int
    max_prompt_tokens: int | None
    image_token_id: int | None


def read_limits(directory: Path) -> Limits:
    """Read the limits of prompts from ``config.json`` and ``processor_config.json``.

    Raises:
        CheckpointError: One of them is broken.
    """
    config = read_optional_json(directory / "config.json")
    said = read_optional_json(directory / "processor_config.json").get("num_image_tokens")
    if config.get("model_type") not in MODEL_TYPES:
        # The original dialect leaves the towers' sizes to the weights.
        with reading(directory):
            text = config.get("language_config") or {}
            positions = get(text, "max_position_embeddings", 2048) if config else None
            return Limits(
                num_image_tokens=_NUM_IMAGE_TOKENS if said is None else int(said),
                max_prompt_tokens=None if positions is None else positions - 1,
                image_token_id=None,
            )
    model = model_config_of(config, str(directory))
    return Limits(
        num_image_tokens=model.num_image_tokens,
        max_prompt_tokens=model.text.max_positions - 1,
        image_token_id=model.image_token_id,
    )
