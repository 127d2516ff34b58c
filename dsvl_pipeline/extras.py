"""What is installed only with an extra of this package."""

from __future__ import annotations

from importlib.util import find_spec

from dsvl_pipeline.errors import ConfigError

MODEL = ("torch", "safetensors")
"""llguidance is needed for schemas only; whoever asks for one is told that it is missing."""


def missing_for_model() -> list[str]:
    """Return the packages that an engine with a model needs and this environment lacks."""
    return [name for name in MODEL if not _is_there(name)]


def check_model() -> None:
    """Check that this machine has the packages an engine needs, before one starts.

    Raises:
        ConfigError: A package is missing.
    """
    if missing := missing_for_model():
        raise ConfigError(MISSING.format(", ".join(missing)))


MISSING = (
    "the model runs on this machine, but its packages ({}) are not installed here; install "
    "'dsvl-pipeline[model]' (in a source tree: make env)"
)


def missing(package: str, extra: str, what: str) -> str:
    """Return a sentence for who needs a package that comes with an extra, and is not installed."""
    return f"{what} needs {package}, which is not installed; pip install 'dsvl-pipeline[{extra}]'"


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # something hides it, or it was half removed
        return False
