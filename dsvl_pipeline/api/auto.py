"""The ``Auto`` classes, for the two architectures that are run here."""

from __future__ import annotations

import os
from typing import Any

from dsvl_pipeline.api.config import DeepseekVLConfig, DeepseekVLHybridConfig
from dsvl_pipeline.api.locating import FILE_OPTIONS, Name, load_config_dict, locate
from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.model.json_files import read_optional_json, reading

_CONFIGS = {one.model_type: one for one in (DeepseekVLConfig, DeepseekVLHybridConfig)}


def _is_hybrid(name: Name | DeepseekVLConfig | DeepseekVLHybridConfig, options: Any) -> bool:
    """Tell the architecture of a checkpoint, or of a config.

    Raises:
        CheckpointError: It is another one than the two.
    """
    if isinstance(name, str | os.PathLike):
        where = {key: options[key] for key in FILE_OPTIONS & options.keys()}
        model_type = load_config_dict(name, **where).get("model_type")
    else:
        model_type = getattr(name, "model_type", None)
    if model_type not in _CONFIGS:
        raise CheckpointError(
            f"{name} has model_type={model_type!r}; the Auto classes take {', '.join(_CONFIGS)}"
        )
    return bool(model_type == DeepseekVLHybridConfig.model_type)


def _is_of_hybrid(name: Name, options: Any) -> bool:
    """Tell the architecture that a processor is for, which may lie without a config.json."""
    where = {key: options[key] for key in FILE_OPTIONS & options.keys()}
    directory = locate(name, needs="processor", **where)
    if (directory / "config.json").is_file():
        return _is_hybrid(name, options)
    for file in ("processor_config.json", "preprocessor_config.json"):
        with reading(directory):
            written = read_optional_json(directory / file)
        kind = written.get("processor_class") or written.get("image_processor_type")
        if kind:
            return "Hybrid" in str(kind)
    raise CheckpointError(
        f"{directory} says nowhere which processor it is of: it has neither a config.json nor a "
        "processor_config.json with a processor_class"
    )


class _Auto:
    """Chooses a class; is none itself."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Refuse: the class hangs on the checkpoint."""
        raise OSError(f"{type(self).__name__} is made by {type(self).__name__}.from_pretrained")


class AutoConfig(_Auto):
    """Reads a checkpoint's config."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Name, **options: Any) -> Any:
        """Return the config, as `DeepseekVLConfig.from_pretrained` does."""
        is_hybrid = _is_hybrid(pretrained_model_name_or_path, options)
        kind = DeepseekVLHybridConfig if is_hybrid else DeepseekVLConfig
        return kind.from_pretrained(pretrained_model_name_or_path, **options)

    @staticmethod
    def for_model(model_type: str, **values: Any) -> Any:
        """Make a config of its type's name.

        Raises:
            ValueError: There is no such type.
        """
        if model_type not in _CONFIGS:
            raise ValueError(f"model_type is {model_type!r}; there are {', '.join(_CONFIGS)}")
        return _CONFIGS[model_type](**values)


class AutoProcessor(_Auto):
    """Reads a checkpoint's processor."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Name, **options: Any) -> Any:
        """Return the processor, as `DeepseekVLProcessor.from_pretrained` does."""
        from dsvl_pipeline.api import processor

        is_hybrid = _is_of_hybrid(pretrained_model_name_or_path, options)
        single, hybrid = processor.DeepseekVLProcessor, processor.DeepseekVLHybridProcessor
        return (hybrid if is_hybrid else single).from_pretrained(
            pretrained_model_name_or_path, **options
        )


class AutoImageProcessor(_Auto):
    """Reads a checkpoint's image processor."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Name, **options: Any) -> Any:
        """Return it, as `DeepseekVLImageProcessor.from_pretrained` does."""
        from dsvl_pipeline.api import image_processor as images

        is_hybrid = _is_of_hybrid(pretrained_model_name_or_path, options)
        single, hybrid = images.DeepseekVLImageProcessor, images.DeepseekVLHybridImageProcessor
        options.pop("use_fast", None)
        return (hybrid if is_hybrid else single).from_pretrained(
            pretrained_model_name_or_path, **options
        )


class AutoModelForImageTextToText(_Auto):
    """Loads a checkpoint's model, with its head."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Name, **options: Any) -> Any:
        """Return the model, as `DeepseekVLForConditionalGeneration.from_pretrained` does."""
        config = options.get("config")
        found = pretrained_model_name_or_path if config is None else config
        kind = _model_class(_is_hybrid(found, options))
        return kind.from_pretrained(pretrained_model_name_or_path, **options)

    @staticmethod
    def from_config(config: Any, **options: Any) -> Any:
        """Return a model of a config, with random weights."""
        return _model_class(_is_hybrid(config, options))._from_config(config, **options)


class AutoModel(_Auto):
    """Loads a checkpoint's model without its head."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Name, **options: Any) -> Any:
        """Return the model, as `DeepseekVLModel.from_pretrained` does."""
        config = options.get("config")
        found = pretrained_model_name_or_path if config is None else config
        kind = _model_class(_is_hybrid(found, options)).model_class
        return kind.from_pretrained(pretrained_model_name_or_path, **options)

    @staticmethod
    def from_config(config: Any, **options: Any) -> Any:
        """Return a model of a config, with random weights."""
        kind = _model_class(_is_hybrid(config, options)).model_class
        return kind._from_config(config, **options)


def _model_class(is_hybrid: bool) -> Any:
    from dsvl_pipeline.api import models

    return (
        models.DeepseekVLHybridForConditionalGeneration
        if is_hybrid
        else models.DeepseekVLForConditionalGeneration
    )


def register_with_transformers() -> None:
    """Let the ``Auto`` classes of transformers give this project's classes for its checkpoints.

    It holds for this process: `AutoConfig`, `AutoModel`, `AutoModelForImageTextToText`,
    `AutoProcessor` and `AutoImageProcessor`. Their own classes can still be imported by name.

    Raises:
        ImportError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "register_with_transformers needs transformers, which is not installed; "
            "pip install transformers"
        ) from error
    from dsvl_pipeline.api import image_processor as images
    from dsvl_pipeline.api import processor

    registries: Any = transformers.models.auto
    for is_hybrid, config in enumerate((DeepseekVLConfig, DeepseekVLHybridConfig)):
        head, hybrid = _model_class(bool(is_hybrid)), "Hybrid" * is_hybrid
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        transformers.AutoModel.register(config, head.model_class, exist_ok=True)
        transformers.AutoModelForImageTextToText.register(config, head, exist_ok=True)
        own = getattr(processor, f"DeepseekVL{hybrid}Processor")
        transformers.AutoProcessor.register(config, own, exist_ok=True)
        pictures = getattr(images, f"DeepseekVL{hybrid}ImageProcessor")
        # not `AutoImageProcessor.register`, which takes its own kind only
        backends = {"pil": pictures, "torchvision": pictures}
        mapping = registries.image_processing_auto.IMAGE_PROCESSOR_MAPPING
        mapping.register(config, backends, exist_ok=True)
        # A checkpoint's files name classes, and those of transformers would be found first.
        names = registries.processing_auto.PROCESSOR_MAPPING_NAMES
        names.pop(config.model_type, None)
        names = registries.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES
        names.pop(config.model_type, None)
