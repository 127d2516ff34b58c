"""Retries with backoff: a store that is away for some minutes must not end a run of days."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from dsvl_pipeline.errors import ConfigError, NotFoundError, StorageError
from dsvl_pipeline.store.uris import is_local

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0

_logger = logging.getLogger(__name__)

T = TypeVar("T")


def with_retries(
    do: Callable[[], T], *, uri: str, timeout_s: float, stop: threading.Event | None = None
) -> T:
    """Try something on a store until it works, the store says no, or the time is up.

    Each attempt has the client's own quick retries; between two of them the wait doubles. A local
    disk that is full, or a clear answer, is raised at once.

    Args:
        do: Safe to repeat after a `StorageError`.
        uri: Where the store is.
        timeout_s: No attempt begins later than this after the first.
        stop: Ends the waiting when it is set.

    Raises:
        StorageError: The last attempt's.
    """
    deadline_s = time.monotonic() + timeout_s
    delay_s = FIRST_DELAY_S
    while True:
        try:
            return do()
        except StorageError as error:
            is_clear = isinstance(error, ConfigError | NotFoundError) or is_local(uri)
            if is_clear or time.monotonic() + delay_s > deadline_s or (stop and stop.is_set()):
                raise
            wait_s = delay_s * random.uniform(0.5, 1.0)
            _logger.warning("trying again in %.0f s: %s", wait_s, error)
        if stop is None:
            time.sleep(wait_s)
        else:
            stop.wait(wait_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)
