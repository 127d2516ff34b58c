"""A readers-writer lock for coroutines: many batches share an engine, or one has it alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class SharedLock:
    """A lock that any number of holders share, or one has alone; who waits alone comes first."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._num_sharing = self._num_exclusive = 0
        self._is_exclusive = False

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold the lock with others; wait while somebody has it alone, or waits to."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._num_exclusive)
            self._num_sharing += 1
        try:
            yield
        finally:
            async with self._changed:
                self._num_sharing -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock alone; wait until nobody has it, and keep others waiting."""
        self._num_exclusive += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not (self._num_sharing or self._is_exclusive))
                self._is_exclusive = True
            try:
                yield
            finally:
                self._is_exclusive = False
        finally:
            self._num_exclusive -= 1
            async with self._changed:
                self._changed.notify_all()
