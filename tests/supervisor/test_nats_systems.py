"""Systems on one NATS server find each other, and say at once when they do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mbactor import Actor, ActorSystem, MbactorError, endpoint
from mbactor.errors import InvalidSpec, NoSuchActor, NotAcknowledged, Unavailable
from mbactor.kernel.exit import Exit
from mbactor.supervisor import child
from mbactor.supervisor.spec import SupervisorSpec
from mbactor.transport import Envelope, Message, subjects
from mbactor.transport.message import messages_of
from mbactor.transport.nats import NatsBus
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox

pytestmark = pytest.mark.anyio


hanging: list[Actor] = []
"""Those with a call in hand that will not end."""


ending, ended = asyncio.Event(), asyncio.Event()
"""Of a `Leaver`: it begins to end, and it may."""


class Till(Actor):
    host = "till.example"

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.told: list[int] = []

    @endpoint
    async def add(self, a: int, b: int) -> int:
        if a < 0:
            raise MbactorError("no negative amounts", status=422, amount=a)
        return a + b

    @endpoint
    async def who(self) -> str:
        return self.name

    @endpoint
    async def note(self, n: int) -> None:
        self.told.append(n)

    @endpoint
    async def noted(self) -> list[int]:
        return self.told

    @endpoint
    async def text(self, size: int) -> str:
        return "x" * size

    @endpoint(concurrency=2)
    async def hang(self) -> None:
        hanging.append(self)
        await asyncio.Event().wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path) as running:
        yield running


@pytest.fixture
async def pair(server: NatsServer) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
    async with (
        ActorSystem("asks", server.url, "plane", watchdog=None) as asks,
        ActorSystem("serves", server.url, "plane", watchdog=None) as serves,
    ):
        yield asks, serves


async def seen(serves: ActorSystem) -> None:
    """Until the broker knows what was spawned."""
    await serves.node.remote.flush()


async def test_asks_tells_and_errors_cross(pair: tuple[ActorSystem, ActorSystem]) -> None:
    asks, serves = pair
    await serves.spawn(Till)
    await seen(serves)
    assert await asks.ask(Till.add, 2, b=3) == 5
    with pytest.raises(MbactorError, match="no negative amounts") as caught:
        await asks.ask(Till.add, -1, 0)
    assert (caught.value.status, caught.value.amount) == (422, -1)
    for n in range(100):
        asks.tell(Till.note, n)
    assert await asks.ask(Till.noted) == list(range(100))
    answer = await asks.request("POST", "https://till.example/add", {"a": 1, "b": 1})
    assert answer.json() == 2


async def test_nobody_there_is_known_at_once_and_a_tell_becomes_a_dead_letter(
    pair: tuple[ActorSystem, ActorSystem],
) -> None:
    asks, _ = pair
    began = time.monotonic()
    with pytest.raises(NoSuchActor):
        await asks.ask(Till.who)
    assert time.monotonic() - began < 10, "half of the time budget"
    asks.tell(Till.note, 1)
    async with asyncio.timeout(60):
        while not len(asks.dead_letters):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("coalesce", [True, False])
async def test_what_leaves_in_a_turn_travels_together_unless_that_is_switched_off(
    server: NatsServer, *, coalesce: bool
) -> None:
    settings: dict[str, Any] = {"watchdog": None, "coalesce": coalesce}
    async with (
        ActorSystem("asks", server.url, "plane", **settings) as asks,
        ActorSystem("serves", server.url, "plane", **settings) as serves,
    ):
        await serves.spawn(Till)
        tap, asked, answered = NatsBus(server.url), Inbox(), Inbox()
        await tap.connect()
        tap.subscribe("plane.safe.443.*.till_example.>", asked)
        tap.subscribe("plane.reply._.till_example.>", answered)
        await tap.flush()
        assert await asyncio.gather(*[asks.ask(Till.add, n, b=0) for n in range(40)]) == list(range(40))
        for n in range(40):
            asks.tell(Till.note, n)
        assert await asks.ask(Till.noted) == list(range(40))
        await tap.flush()
        for seen, count in ((asked, 81), (answered, 41)):
            sizes = [len(messages_of(one.data)) for one in seen.got]
            assert (sum(sizes), max(sizes) > 1) == (count, coalesce), sizes
        await tap.close()


async def test_replicas_of_several_systems_share_the_work_and_planes_are_apart(server: NatsServer) -> None:
    async with (
        ActorSystem("asks", server.url, "plane") as asks,
        ActorSystem("one", server.url, "plane") as one,
        ActorSystem("two", server.url, "plane") as two,
        ActorSystem("three", server.url, "other") as three,
    ):
        for system in (one, two, three):
            await system.spawn(Till, system.name)
            await seen(system)
        answers = [await asks.ask(Till.who) for _ in range(60)]
        assert set(answers) == {"one", "two"}


async def test_an_answer_above_the_brokers_limit_comes_whole(
    pair: tuple[ActorSystem, ActorSystem],
) -> None:
    asks, serves = pair
    await serves.spawn(Till)
    await seen(serves)
    assert len(await asks.ask(Till.text, 1_000_000)) == 1_000_000
    assert len(await asks.ask(Till.text, 1_100_000)) == 1_100_000
    assert await asks.ask(Till.add, 1, 1) == 2


async def test_the_broker_goes_and_comes_back(pair: tuple[ActorSystem, ActorSystem], server: NatsServer) -> None:
    asks, serves = pair
    await serves.spawn(Till)
    await seen(serves)
    hanging.clear()
    asked = asyncio.ensure_future(asks.ask(Till.hang))
    async with asyncio.timeout(60):
        while not hanging:
            await asyncio.sleep(0.01)
    server.kill()
    with pytest.raises(NotAcknowledged) as caught:
        await asyncio.wait_for(asked, 60)
    assert (caught.value.status, caught.value.taken) == (504, "unknown")
    with pytest.raises(Unavailable, match="is lost; it is tried again"):
        await asks.ask(Till.who)
    server.start()
    async with asyncio.timeout(60):
        while True:
            try:
                await asks.ask(Till.add, 1, 1)
                break
            except (Unavailable, NoSuchActor):
                await asyncio.sleep(0.01)


async def test_who_is_up_can_be_asked_at_once(server: NatsServer) -> None:
    async with ActorSystem("asks", server.url) as asks:
        for _ in range(5):
            async with ActorSystem("serves", server.url, tree=SupervisorSpec(children=(child(Till),))):
                assert await asks.ask(Till.add, 1, 1) == 2
            with pytest.raises(NoSuchActor):
                await asks.ask(Till.add, 1, 1)


class Leaver(Till):
    """Takes its time to end."""

    async def on_stop(self, exit: Exit) -> None:
        ending.set()
        await ended.wait()


async def test_a_system_that_stops_gets_nothing_more_while_it_does(server: NatsServer) -> None:
    ending.clear()
    ended.clear()
    async with ActorSystem("stays", server.url, "plane", coalesce=False) as stays:
        leaves = ActorSystem("leaves", server.url, "plane")
        await leaves.start()
        for system, cls in ((leaves, Leaver), (stays, Till)):
            await system.spawn(cls, system.name)
            await seen(system)
        stopping = asyncio.ensure_future(leaves.stop())
        await asyncio.wait_for(ending.wait(), 60)
        bus, inbox = NatsBus(server.url), Inbox()
        await bus.connect()
        bus.subscribe("plane.reply.>", inbox)
        for n in range(40):  # by hand: what was refused would be asked again
            subject = subjects.request_subject("plane", "raw", Till.who.feature.address("till.example"))
            reply = subjects.reply_subject("plane", "till.example", "raw", "n", str(n))
            bus.publish(subject, Message(Envelope("ask", str(n)), b"").to_bytes(), reply=reply)
        answers = [message for one in await inbox.until(40) for message in messages_of(one.data)]
        assert {message.envelope.op for message in answers} == {"reply"}
        ended.set()
        await stopping
        await bus.close()


async def test_a_system_without_its_broker_does_not_start(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    system = ActorSystem(transport=server.url)
    with pytest.raises(Unavailable, match="nobody listens at"):
        await system.start()
    server.start()
    try:
        async with system:
            assert isinstance(system.node.remote.bus, NatsBus)
        async with system:  # and again
            await system.spawn(Till)
    finally:
        server.kill()


@pytest.mark.parametrize("transport", ["nats://", "embeded", "http://h", "nats://h:x"])
def test_a_wrong_transport_is_refused(transport: str) -> None:
    with pytest.raises(InvalidSpec, match="transport: .* given"):
        ActorSystem(transport=transport)
