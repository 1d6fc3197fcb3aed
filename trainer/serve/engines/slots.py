"""How many answers an engine computes at the same time, and how many may wait: in the order in which they came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from trainer.serve.engines.engine import Ask, EngineBusy, EngineSettings


class Slots:
    """An engine's slots, asked for in the event loop; counts of it may be read from anywhere."""

    def __init__(self, settings: EngineSettings) -> None:
        self._free = asyncio.Semaphore(settings.slots)
        self._most_waiting = settings.waiting
        self.running = self.waiting = 0

    @contextlib.asynccontextmanager
    async def one(self, ask: Ask) -> AsyncIterator[None]:
        """Where an answer has a slot, which it may have waited for. EngineBusy where too many wait."""
        if self.waiting >= self._most_waiting and self._free.locked():
            raise EngineBusy
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        ask.started()
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()
