"""Run DeepSeek-VL over very many images and document pages.

The public names are loaded when they are first asked for, so that importing the package loads
neither torch nor ray. Type checkers find them in ``__init__.pyi``.
"""

_HOMES = {
    "AutoConfig": "api.auto",
    "AutoImageProcessor": "api.auto",
    "AutoModel": "api.auto",
    "AutoModelForImageTextToText": "api.auto",
    "AutoProcessor": "api.auto",
    "DeepseekVLConfig": "api.config",
    "DeepseekVLForConditionalGeneration": "api.models",
    "DeepseekVLHybridConfig": "api.config",
    "DeepseekVLHybridForConditionalGeneration": "api.models",
    "DeepseekVLHybridImageProcessor": "api.image_processor",
    "DeepseekVLHybridImageProcessorPil": "api.image_processor",
    "DeepseekVLHybridModel": "api.models",
    "DeepseekVLHybridPreTrainedModel": "api.models",
    "DeepseekVLHybridProcessor": "api.processor",
    "DeepseekVLImageProcessor": "api.image_processor",
    "DeepseekVLImageProcessorPil": "api.image_processor",
    "DeepseekVLModel": "api.models",
    "DeepseekVLPreTrainedModel": "api.models",
    "DeepseekVLProcessor": "api.processor",
    "Engine": "engine.engine",
    "GenerationConfig": "api.generation.config",
    "JobConfig": "job.config",
    "iter_batches": "table.reader",
    "load_job": "job.reading",
    "pipeline": "api.pipeline",
    "read_table": "table.reader",
    "register_with_transformers": "api.auto",
    "run_job": "run.run",
}
_OTHER_NAMES = {"Engine": "ModelEngine"}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        home = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        from dsvl_pipeline.extras import MODEL, missing

        if error.name not in MODEL:
            raise
        told = missing(error.name, "model", f"dsvl_pipeline.{name}")
        raise ImportError(told, name=error.name) from None
    return getattr(home, _OTHER_NAMES.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
