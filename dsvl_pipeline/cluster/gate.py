"""Who may use an engine together, and who must be alone with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Gate:
    """Lets in any number of guests together, or one alone, who comes first."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._num_together = self._num_alone = 0
        self._is_taken = False

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Wait until nobody is alone inside or wants to be."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._num_alone)
            self._num_together += 1
        try:
            yield
        finally:
            async with self._changed:
                self._num_together -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nobody is inside; nobody comes in meanwhile."""
        self._num_alone += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not (self._num_together or self._is_taken))
                self._is_taken = True
            try:
                yield
            finally:
                self._is_taken = False
        finally:
            self._num_alone -= 1
            async with self._changed:
                self._changed.notify_all()
