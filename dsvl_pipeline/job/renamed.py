"""Settings that have a new name. The old name still reads."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.mistakes import place_of
from dsvl_pipeline.job.section import KeyPath

RENAMED = {("limits", "max_error_fraction"): "stop_above_error_fraction"}
"""Section and old key, and the key that is meant."""

_logger = logging.getLogger(__name__)


def replace_old_names(path: Path, values: dict[str, Any], lines: dict[KeyPath, int]) -> None:
    """Replace old names of settings by the present ones, and tell the user to do the same.

    Args:
        path: The job file, for messages.
        values: What it holds. Changed in place.
        lines: The line of each key; 0 for ``--set``. Changed in place.

    Raises:
        ConfigError: Both names are given.
    """
    for (name, old), new in RENAMED.items():
        section = values.get(name)
        if not isinstance(section, dict) or old not in section:
            continue
        place = place_of(path, lines, (name, old))
        if new in section:
            also = place_of(path, lines, (name, new))
            raise ConfigError(
                f"{place}: {name}.{old}: this is the old name of {name}.{new}, which is given too "
                f"({also}); keep {new}"
            )
        section[new] = section.pop(old)
        lines[name, new] = lines.get((name, old), 0)
        _note(f"{place}: {name}.{old} is now called {name}.{new}; please write that")


@functools.cache
def _note(text: str) -> None:
    """Write a note once, as a command may read its job file more than once."""
    _logger.warning(text)
