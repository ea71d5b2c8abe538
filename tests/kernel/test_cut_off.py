"""Who answers is cut off from the broker for a moment, and who asked is not: the answer comes when that is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem, endpoint
from mbactor.errors import MbactorError, Unavailable
from mbactor.kernel.answers import BYTES_KEPT, MOST_KEPT, Kept
from mbactor.transport import LocalBus
from tests.nats import NatsServer, nats_server

pytestmark = pytest.mark.anyio


class Desk(Actor):
    host = "desk.example"
    concurrency = 8

    def __init__(self, go_on: asyncio.Event) -> None:
        self.go_on = go_on
        self.at_work = 0

    @endpoint
    async def make(self, size: int) -> bytes:
        self.at_work += 1
        await self.go_on.wait()
        return bytes(size)

    @endpoint
    async def refuse(self, why: str) -> None:
        self.at_work += 1
        await self.go_on.wait()
        raise MbactorError(why, status=409)

    @endpoint
    async def begun(self) -> int:
        return self.at_work

    @endpoint
    async def size(self, data: bytes) -> int:
        self.at_work += 1
        return len(data)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats"), "max_payload: 65536") as running:
        yield running


@asynccontextmanager
async def two(nats: NatsServer, plane: str) -> AsyncIterator[tuple[ActorSystem, ActorSystem, asyncio.Event]]:
    async with (
        ActorSystem("asks", transport=nats.url, plane=plane) as asks,
        ActorSystem("serves", transport=nats.url, plane=plane) as serves,
    ):
        go_on = asyncio.Event()
        await serves.spawn(Desk, go_on)
        await serves.node.remote.flush()
        yield asks, serves, go_on


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def cut_off(of: ActorSystem) -> None:
    """Returns as soon as its connection is lost; it is made anew a moment later."""
    bus: Any = of.node.remote.bus
    bus._client._transport.abort()
    await until(lambda: bus.unready() is not None)


async def test_what_is_answered_while_the_connection_is_lost_comes_when_it_is_back(nats: NatsServer) -> None:
    async with two(nats, "lost") as (asks, serves, go_on):
        with anyio.fail_after(60):
            asked = [asks.ask(Desk.make, size) for size in (10, 70_000, 300_000)]
            refused = asks.ask(Desk.refuse, "closed")
            while await asks.ask(Desk.begun) < 4:
                await asyncio.sleep(0.01)
            waiting: Any = asks.node.remote._requester._waiting
            await until(lambda: all(one.holder for one in waiting.everyone() if not one.done()))
            await cut_off(serves)
            go_on.set()
            assert [len(one) for one in await asyncio.gather(*asked)] == [10, 70_000, 300_000]
            with pytest.raises(MbactorError, match="closed"):
                await refused


async def test_a_large_answer_that_breaks_off_in_the_middle_goes_on_when_the_connection_is_back(
    nats: NatsServer,
) -> None:
    async with two(nats, "middle") as (asks, serves, go_on):
        go_on.set()
        with anyio.fail_after(60):
            asked = asks.ask(Desk.make, 10_000_000)
            leaving: Any = serves.node.remote.parts.transfers._out
            await until(lambda: any(20 < one.sent < 100 for one in leaving.values()))
            await cut_off(serves)
            assert len(await asked) == 10_000_000
            assert await asks.ask(Desk.begun) == 1


async def test_a_large_ask_of_which_a_part_is_lost_with_the_connection_of_its_taker_has_not_been_taken(
    nats: NatsServer,
) -> None:
    async with two(nats, "part") as (asks, serves, _):
        taking: Any = serves.node.remote.parts.transfers
        take, lost = taking.receive, asyncio.Event()

        def receive_but_the_last(key: str, sender: str, process: str, message: Any, *more: Any) -> None:
            number, of = message.envelope.fragment
            if number == of:
                lost.set()
            else:
                take(key, sender, process, message, *more)

        with anyio.fail_after(60):
            taking.receive = receive_but_the_last
            asked = asks.ask(Desk.size, bytes(300_000))
            await lost.wait()
            await cut_off(serves)
            with pytest.raises(Unavailable, match="fragments had come when the taker was cut off") as caught:
                await asked
            assert caught.value.taken == "no"
            taking.receive = take
            assert await asks.ask(Desk.size, bytes(300_000)) == 300_000
            assert await asks.ask(Desk.begun) == 1


class Returning(LocalBus):
    """Says that it is back when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.back: list[Callable[[], None]] = []

    def when_back(self, tell: Callable[[], None]) -> None:
        self.back.append(tell)


def test_what_is_kept_for_that_is_bounded() -> None:
    bus = Returning()
    left: list[int] = []
    kept = Kept(bus)
    for number in range(MOST_KEPT + 2):
        kept.add(1, partial(left.append, number))
    [back] = bus.back
    back()
    assert left == [*range(2, MOST_KEPT + 2)]
    left.clear()
    for number, size in enumerate((1, BYTES_KEPT, BYTES_KEPT + 1, 1)):
        kept.add(size, partial(left.append, number))
    back()
    back()
    assert left == [3]
