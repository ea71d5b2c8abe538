"""An ask that its asker has called off, over a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mbactor import Actor, child, endpoint
from mbactor.kernel.client import Response
from mbactor.transport import Address, Envelope, Message, subjects
from tests.kernel.conftest import Start

pytestmark = pytest.mark.anyio


class Desk(Actor):
    host = "desk.example"

    def __init__(self, done: list[str]) -> None:
        self.done = done

    @endpoint
    async def hold(self, name: str) -> None:
        self.done.append(f"{name} begins")
        try:
            await asyncio.Event().wait()
        finally:
            self.done.append(f"{name} ends")

    @endpoint(concurrency=2)
    async def so_far(self) -> list[str]:
        return self.done


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


async def test_it_ends_where_it_runs_never_begins_where_it_waits_and_nobody_else_can_call_it_off(start: Start) -> None:
    asks, other, done = await start(), await start(), list[str]()
    serves = await start(child(Desk, args={"done": done}))
    [cell] = serves.node.served["desk.example"].cells

    def ask(name: str) -> asyncio.Future[Response]:
        with anyio.fail_after(600):  # noqa: ASYNC100 - so that it does not end by its budget
            return asks.node.request("POST", "https://desk.example/hold", {"name": name}, call_off=True)

    first = ask("first")
    await until(lambda: done == ["first begins"])
    [waiter] = asks.node.remote._requester._waiting.everyone()
    address, remote = Address("desk.example", "/hold"), other.node.remote
    remote.bus.publish(
        subjects.request_subject(other.node.plane, other.name, address),
        Message(Envelope("cancel", waiter.id), b"").to_bytes(),
        reply=subjects.reply_subject(other.node.plane, address.host, other.name, other.node.id, waiter.id),
    )
    assert await other.ask(Desk.so_far) == ["first begins"]

    second, third = ask("second"), ask("third")
    await until(lambda: cell.statistics().depth == 2)
    second.cancel()
    first.cancel()
    await until(lambda: "third begins" in done)
    assert done == ["first begins", "first ends", "third begins"]
    answers: Any = serves.node.remote._answers
    third.cancel()
    await until(lambda: done[-1] == "third ends" and not answers._open)
