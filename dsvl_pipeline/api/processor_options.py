"""The options of a processor's call, and which of its parts they are for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from dsvl_pipeline.api.image_processor import ImageOptions
from dsvl_pipeline.api.text_options import TextOptions

TEXT, IMAGE = TextOptions.__annotations__.keys(), ImageOptions.__annotations__.keys()


class ProcessorOptions(TextOptions, ImageOptions, total=False):
    """What a processor takes when it is called: flat, or in a dictionary for its part.

    Attributes:
        text_kwargs: For texts.
        images_kwargs: For pictures.
        common_kwargs: For both, where the others say nothing.
    """

    text_kwargs: TextOptions
    images_kwargs: ImageOptions
    common_kwargs: dict[str, Any]


def take(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a processor out of what may hold others as well."""
    for name in ("sanitize_control_tokens", "load_audio_from_video"):
        given.pop(name, None)  # the first is always so here, the second says nothing
    return {name: given.pop(name) for name in ProcessorOptions.__annotations__ if name in given}


def deal(given: Mapping[str, Any], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Deal options out to texts and pictures, defaults filled in.

    Args:
        given: `ProcessorOptions`. Others are ignored, with a warning.
        tokenizer: The options it was loaded with are defaults, as upstream for both parts.

    Raises:
        ValueError: One is given twice.
    """
    flat = dict(given)
    nested = [dict(flat.pop(name, None) or {}) for name in ("text_kwargs", "images_kwargs")]
    loaded = getattr(tokenizer, "init_kwargs", None) or {}
    shared = {"return_tensors": "pt", **{k: loaded[k] for k in (*TEXT, *IMAGE) if k in loaded}}
    shared |= flat.pop("common_kwargs", None) or {}
    dealt = []
    for known, own in zip((TEXT, IMAGE), nested, strict=True):
        if twice := own.keys() & flat.keys() & known:
            raise ValueError(f"{min(twice)} was given twice: flat and in a dictionary")
        dealt.append({k: v for k, v in {**shared, **flat}.items() if k in known} | own)
    for name in sorted(flat.keys() - TEXT - IMAGE):
        warnings.warn(f"processors have no option {name!r}; it is ignored", stacklevel=4)
    return dealt[0], dealt[1]
