"""Asks that one replica refuses are answered by another, and nothing that was taken is asked twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mbactor import Actor, ActorSystem, endpoint
from mbactor.errors import MailboxFull
from mbactor.kernel.cell import Cell
from mbactor.mailbox import Mailbox
from mbactor.supervisor import child
from mbactor.transport import repeats
from mbactor.transport.ask import Ask
from tests.nats import NatsServer, nats_server
from tests.proxy import proxy

pytestmark = pytest.mark.anyio


holding: list[Actor] = []


class Desk(Actor):
    host = "desk.example"
    mailbox = Mailbox(capacity=300)

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[int] = []

    @endpoint(concurrency=2)
    async def where(self) -> tuple[str, str]:
        return self.name, self.ref.cell.replica

    @endpoint
    async def note(self, n: int) -> str:
        self.seen.append(n)
        await asyncio.sleep(0.001)
        return self.name

    @endpoint
    async def hold(self) -> None:
        holding.append(self)
        await asyncio.Event().wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def systems(server: NatsServer) -> AsyncIterator[tuple[ActorSystem, ActorSystem, ActorSystem]]:
    async with (
        ActorSystem("asks", server.url, "desks") as asks,
        ActorSystem("one", server.url, "desks") as one,
        ActorSystem("two", server.url, "desks") as two,
    ):
        for system in (one, two):
            await system.spawn(child(Desk, args={"name": system.name}, shutdown="100ms"))
            await system.node.remote.flush()
        yield asks, one, two


async def both_known(asks: ActorSystem) -> dict[str, str]:
    """The replicas by name, once each has answered."""
    known: dict[str, str] = {}
    while len(known) < 2:
        name, replica = await asks.ask(Desk.where)
        known[name] = replica
    return known


async def test_what_a_full_replica_refuses_another_answers_and_an_ask_by_ref_is_told(
    systems: tuple[ActorSystem, ActorSystem, ActorSystem],
) -> None:
    asks, _, _ = systems
    known = await both_known(asks)

    def ask_one() -> asyncio.Future[None]:
        return asks.node.remote.ask("desk.example", known["one"], Desk.hold, (), {})

    held = [ask_one()]
    while not holding:
        await asyncio.sleep(0.001)
    held += [ask_one() for _ in range(300)]
    with pytest.raises(MailboxFull):
        await ask_one()
    answers = [await asks.ask(Desk.note, n) for n in range(30)]
    assert set(answers) == {"two"}
    for one in held:
        one.cancel()


async def test_who_is_refused_by_a_process_that_ends_is_answered_by_another_and_nothing_runs_twice(
    systems: tuple[ActorSystem, ActorSystem, ActorSystem],
) -> None:
    asks, _, two = systems
    await both_known(asks)
    answers: list[str] = []

    async def ask(n: int) -> None:
        answers.append(await asks.ask(Desk.note, n))

    async with asyncio.TaskGroup() as group:
        for n in range(200):
            group.create_task(ask(n))
            await asyncio.sleep(0.0005)
            if n == 50:
                group.create_task(two.stop())
    assert len(answers) == 200


async def test_where_several_processes_end_at_once_another_answers_all_that_waited_there(server: NatsServer) -> None:
    """Of those that are known most are ending, so it is not sent to one of them."""
    async with AsyncExitStack() as stack:
        start = stack.enter_async_context
        asks = await start(ActorSystem("asks", server.url, "several"))
        leaving = [await start(ActorSystem(f"n{n}", server.url, "several")) for n in range(4)]
        cells = [await held(system) for system in leaving]
        known: set[str] = set()
        while len(known) < len(cells):
            known.add((await asks.ask(Desk.where))[1])
        asked = [asyncio.ensure_future(asks.ask(Desk.note, n)) for n in range(200)]
        while sum(cell.statistics().depth for cell in cells) < len(asked):
            await asyncio.sleep(0.001)
        last = await start(ActorSystem("last", server.url, "several"))
        await last.spawn(Desk, "last")
        await last.node.remote.flush()
        await asyncio.gather(*(system.stop() for system in leaving))
        assert {*await asyncio.gather(*asked)} == {"last"}


async def test_an_ask_that_waits_in_one_process_after_the_other_as_they_end_is_answered_in_the_end(
    server: NatsServer,
) -> None:
    async with ActorSystem("asks", server.url, "line") as asks, asyncio.timeout(60):
        asked, before = None, None
        for n in range(6):
            system = ActorSystem(f"n{n}", server.url, "line")
            await system.start()
            cell = await held(system)
            asked = asked or asyncio.ensure_future(asks.ask(Desk.note, n))
            if before is not None:
                await before.stop()
            while not cell.statistics().depth:
                await asyncio.sleep(0.001)
            before = system
        async with ActorSystem("last", server.url, "line") as last:
            await last.spawn(Desk, "last")
            await last.node.remote.flush()
            assert before
            await before.stop()
            assert asked
            assert await asked == "last"


async def held(system: ActorSystem) -> Cell:
    """A replica that does nothing but wait."""
    ref: Any = await system.spawn(child(Desk, args={"name": system.name}, shutdown=0))
    ref.tell(Desk.hold)
    while ref.cell.statistics().depth:
        await asyncio.sleep(0.001)
    await system.node.remote.flush()
    return ref.cell  # type: ignore[no-any-return]


async def test_who_comes_a_moment_after_the_ask_answers_it(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "PAUSE", 0.5)
    async with (
        ActorSystem("asks", server.url, "later") as asks,
        ActorSystem("late", server.url, "later") as late,
        asyncio.timeout(60),
    ):
        asked = asyncio.ensure_future(asks.ask(Desk.where))
        waiting = asks.node.remote._requester._waiting
        while not any(isinstance(one, Ask) and one.resting for one in waiting.everyone()):
            await asyncio.sleep(0.001)
        await late.spawn(Desk, "late")
        await late.node.remote.flush()
        assert (await asked)[0] == "late"


async def test_who_ends_has_told_all_whose_asks_it_had_before_it_cannot_be_found_any_more(server: NatsServer) -> None:
    """Whoever looked after it between the two would take it for dead, and what it had for lost."""
    with proxy(server.port) as between:
        async with (
            ActorSystem("asks", server.url, "told") as asks,
            ActorSystem("ends", between.url, "told") as ends,
            asyncio.timeout(60),
        ):
            cell = await held(ends)
            asked = [asyncio.ensure_future(asks.ask(Desk.note, n)) for n in range(100)]
            while cell.statistics().depth < len(asked):
                await asyncio.sleep(0.001)
            bus: Any = ends.node.remote.bus
            subscriptions = bus._client.dispatch.subscriptions
            [own] = [sid for sid, one in subscriptions.items() if f".{cell.replica}." in one._subject]
            between.heard = bytearray()
            await ends.stop()
            await asyncio.gather(*asked, return_exceptions=True)
            assert between.heard.count(b"its process ends") == len(asked)
            assert between.heard.index(b"UNSUB %d\r\n" % own) > between.heard.rindex(b"its process ends")
