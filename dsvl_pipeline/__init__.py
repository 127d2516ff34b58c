"""Run DeepSeek-VL over very many images and document pages.

The public names are loaded when they are first asked for, so that importing the package loads
neither torch nor ray. Type checkers find them in ``__init__.pyi``.
"""

_HOMES = {
    "DeepseekVLConfig": "api.config",
    "DeepseekVLForConditionalGeneration": "api.models",
    "DeepseekVLHybridConfig": "api.config",
    "DeepseekVLHybridForConditionalGeneration": "api.models",
    "DeepseekVLHybridImageProcessor": "api.processors",
    "DeepseekVLHybridModel": "api.models",
    "DeepseekVLHybridProcessor": "api.processors",
    "DeepseekVLImageProcessor": "api.processors",
    "DeepseekVLModel": "api.models",
    "DeepseekVLProcessor": "api.processors",
    "Engine": "engine.engine",
    "JobConfig": "job.config",
    "iter_batches": "table.reader",
    "load_job": "job.reading",
    "read_table": "table.reader",
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
