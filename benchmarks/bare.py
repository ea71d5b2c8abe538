"""The floors: bare tasks, deques and futures that do the same work as the actors, and nothing else.

They have no bounds, no budgets, no failures and no arguments by name: what they cost is the least that this event loop
asks for a message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any


class Bare:
    """A task, a deque and a parked future: awaits `method` for each message, in order."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Any, ...]] = deque()
        self._parked: asyncio.Future[None] | None = None
        self._server = self._loop.create_task(self._serve(method))

    def tell(self, *message: Any) -> None:
        self._queue.append(message)
        if self._parked is not None:
            self._parked.set_result(None)
            self._parked = None

    async def _serve(self, method: Callable[..., Awaitable[Any]]) -> None:
        while True:
            while self._queue:
                await method(*self._queue.popleft())
            parked = self._parked = self._loop.create_future()
            await parked

    async def close(self) -> None:
        self._server.cancel()
        await asyncio.wait([self._server])


class Pair:
    """A task and a future for each question: the least that an answer can cost."""

    def __init__(self, method: Callable[[int], Awaitable[int]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[asyncio.Future[int], int]] = deque()
        self._parked: asyncio.Future[None] | None = None
        self._server = self._loop.create_task(self._serve(method))

    def ask(self, value: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        self._queue.append((future, value))
        if self._parked is not None:
            self._parked.set_result(None)
            self._parked = None
        return future

    async def _serve(self, method: Callable[[int], Awaitable[int]]) -> None:
        while True:
            while self._queue:
                future, value = self._queue.popleft()
                future.set_result(await method(value))
            parked = self._parked = self._loop.create_future()
            await parked

    async def close(self) -> None:
        self._server.cancel()
        await asyncio.wait([self._server])
