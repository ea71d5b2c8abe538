"""What tests of replicas that cannot take messages have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mbactor import Actor, endpoint, event, sink

PATIENCE = 60


class Bell(Actor):
    host = "bell.example"

    @event
    async def on_rung(self, n: int) -> None: ...


class Desk(Actor):
    """Notes what it has heard, and can be kept and felled."""

    host = "desk.example"

    def __init__(self, name: str, heard: list[tuple[str, int]], go_on: asyncio.Event) -> None:
        self.name = name
        self.heard = heard
        self.go_on = go_on

    @endpoint
    async def where(self) -> str:
        return self.name

    @endpoint
    async def hold(self) -> None:
        await self.go_on.wait()

    @endpoint
    async def note(self, n: int) -> None:
        self.heard.append((self.name, n))

    @endpoint
    async def fall(self) -> None:
        raise RuntimeError("fell")

    @sink(Bell.on_rung)
    async def rung(self, n: int) -> None:
        self.heard.append((self.name, n))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)
