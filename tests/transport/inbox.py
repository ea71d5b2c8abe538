"""A subscriber that keeps what it gets."""

from __future__ import annotations

import asyncio

from mbactor.transport import Delivery


class Inbox:
    """What came, and a condition to wait for."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.got.append(delivery)

    async def until(self, count: int) -> list[Delivery]:
        async with asyncio.timeout(60):
            while len(self.got) < count:
                await asyncio.sleep(0.001)
        return self.got
