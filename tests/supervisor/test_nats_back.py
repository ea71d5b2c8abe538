"""All were cut off from the broker, and come back one after the other: who is not back yet is not said to be nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mbactor import Actor, ActorSystem, NoSuchActor, Unavailable, endpoint
from mbactor.transport import nats_client, requester
from tests.nats import NatsServer, nats_cluster, nats_server
from tests.proxy import Proxy

pytestmark = pytest.mark.anyio


class Desk(Actor):
    host = "desk.example"

    @endpoint
    async def double(self, n: int) -> int:
        return 2 * n


class Other(Actor):
    host = "other.example"

    @endpoint
    async def never(self) -> None: ...


class Cut(NamedTuple):
    """A system that asks and one that is asked; the connection of each can be cut."""

    asks: ActorSystem
    asked: ActorSystem
    to_asks: Proxy
    to_asked: Proxy

    async def asker_is_back(self) -> None:
        """Both were cut off, and the asker is back."""
        back, bus = asyncio.Event(), self.asks.node.remote.bus
        bus.when_back(back.set)
        self.to_asked.shut()
        self.to_asks.shut()
        while bus.unready() is None:
            await asyncio.sleep(0.001)
        self.to_asks.heal()
        await back.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def cut(server: NatsServer) -> AsyncIterator[Cut]:
    to_asks, to_asked = Proxy(server.port), Proxy(server.port)
    try:
        async with (
            ActorSystem("asks", to_asks.url, "back") as asks,
            ActorSystem("asked", to_asked.url, "back") as asked,
        ):
            await asked.spawn(Desk)
            await asked.node.remote.flush()
            assert await asks.ask(Desk.double, 2) == 4
            yield Cut(asks, asked, to_asks, to_asked)
    finally:
        to_asks.close()
        to_asked.close()


async def test_an_ask_waits_for_who_is_not_back_yet(cut: Cut) -> None:
    await cut.asker_is_back()
    asking = [asyncio.ensure_future(cut.asks.ask(Desk.double, n)) for n in range(40)]
    cut.asks.tell(Desk.double, 1)
    with pytest.raises(NoSuchActor):  # that one nobody has ever served
        await cut.asks.ask(Other.never)
    while not (letters := list(cut.asks.dead_letters)):
        await asyncio.sleep(0.001)
    assert "is not back yet" in letters[0].reason
    assert not any(one.done() for one in asking)
    cut.to_asked.heal()
    assert await asyncio.gather(*asking) == [2 * n for n in range(40)]


async def test_who_does_not_come_back_is_said_to_be_away_and_then_to_be_nobody(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cut.asker_is_back()
    with pytest.raises(Unavailable, match="whoever served it has lost the broker and is not back yet") as away:
        await cut.asks.ask(Desk.double, 1)
    assert (away.value.status, away.value.taken) == (503, "no")
    monkeypatch.setattr(requester, "RETURN", 0.0)
    with pytest.raises(NoSuchActor):
        await cut.asks.ask(Desk.double, 1)
    cut.to_asked.heal()


async def test_an_ask_waits_for_who_was_at_a_server_of_the_cluster_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the asker was at another one: that tells it that one of them is gone."""
    with nats_cluster(tmp_path) as (first, second, _):
        lost, chosen = asyncio.Event(), nats_client._next_server

        def keep_away(servers: list[Any], info: dict[str, Any]) -> tuple[Any, float]:
            server, pause = chosen(servers, info)
            return (server, pause) if lost.is_set() else (next(s for s in servers if s.uri.port == second.port), 0.01)

        async with ActorSystem("asks", first.url, "back") as asks:
            monkeypatch.setattr(nats_client, "_next_server", keep_away)
            async with ActorSystem("asked", second.url, "back") as asked:
                await asked.spawn(Desk)
                await known(asks)
                gone = asyncio.Event()
                asks.node.remote.bus.when_back(gone.set)
                await asyncio.to_thread(second.kill)
                await gone.wait()
                asking = [asyncio.ensure_future(asks.ask(Desk.double, n)) for n in range(40)]
                with pytest.raises(NoSuchActor):
                    await asks.ask(Other.never)
                assert not any(one.done() for one in asking)
                lost.set()
                assert await asyncio.gather(*asking) == [2 * n for n in range(40)]


async def known(asks: ActorSystem) -> None:
    """An answer has come: what is subscribed at one server is not known at once at the others."""
    while True:
        try:
            await asks.ask(Desk.double, 2)
        except NoSuchActor:
            await asyncio.sleep(0.01)
        else:
            return
