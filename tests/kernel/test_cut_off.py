"""Who answers is cut off from the broker for a moment, or ends, and who asked is not: the answer comes all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem, Supervisor, child, endpoint
from mbactor.errors import MbactorError, Unavailable
from mbactor.kernel import parts
from mbactor.kernel.answers import BYTES_KEPT, MOST_KEPT, Kept
from mbactor.transport import LocalBus
from tests.nats import PATIENCE, NatsServer, nats_server
from tests.proxy import proxy

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


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up because a machine is slow."""
    monkeypatch.setattr(parts, "DRAIN", PATIENCE)


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
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


def with_patience(system: ActorSystem, method: Any, given: Any) -> Any:
    with anyio.fail_after(PATIENCE):  # noqa: ASYNC100 - an ask reads the deadline when it is made
        return system.ask(method, given)


async def cut_off(of: ActorSystem) -> None:
    """Returns as soon as its connection is lost; it is made anew a moment later."""
    bus: Any = of.node.remote.bus
    bus._client._transport.abort()
    await until(lambda: bus.unready() is not None)


async def test_what_is_answered_while_the_connection_is_lost_comes_when_it_is_back(nats: NatsServer) -> None:
    async with two(nats, "lost") as (asks, serves, go_on):
        with anyio.fail_after(PATIENCE):
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


@pytest.mark.parametrize(("limit", "too_large"), [(4096, 10**6), (1024, 1024)])
async def test_what_is_answered_together_meanwhile_comes_apart_where_the_broker_carries_less_when_it_is_back(
    nats: NatsServer, limit: int, too_large: int
) -> None:
    """Below 1,098 bytes nothing goes in fragments: who is answered with more does not learn of it, and all else does."""
    with proxy(nats.port) as between:
        async with (
            ActorSystem("asks", transport=nats.url, plane="less", ack_window=PATIENCE) as asks,
            ActorSystem("serves", transport=between.url, plane="less") as serves,
        ):
            go_on, told = asyncio.Event(), asyncio.Event()
            bus = serves.node.remote.bus
            bus.when_back(told.set)
            await serves.spawn(child(Desk, args={"go_on": go_on}))
            await serves.node.remote.flush()
            with anyio.fail_after(PATIENCE):
                sizes = [500, 600, 700, 2_000, 800, 5_000]
                refused = asyncio.ensure_future(asks.ask(Desk.refuse, "x" * 2_000))
                asked = [asyncio.ensure_future(asks.ask(Desk.make, size)) for size in sizes]
                while await asks.ask(Desk.begun) < 1 + len(asked):
                    await asyncio.sleep(0.01)
            between.shut()
            await until(lambda: bus.unready() is not None)
            go_on.set()
            await until(lambda: serves.node.remote.parts.kept._bytes > sum(sizes) + 2_000)
            between.replace(b'"max_payload":65536', b'"max_payload":%d' % limit)
            between.heal()
            await told.wait()
            assert bus.max_payload == limit
            for size, answer in zip(sizes, asked, strict=True):
                if size < too_large:
                    assert len(await answer) == size
            if too_large > limit:
                with pytest.raises(MbactorError, match="x" * 2_000):
                    await refused
            for one in (refused, *asked):
                one.cancel()


async def test_a_large_answer_that_breaks_off_in_the_middle_goes_on_when_the_connection_is_back(
    nats: NatsServer,
) -> None:
    async with two(nats, "middle") as (asks, serves, go_on):
        go_on.set()
        with anyio.fail_after(PATIENCE):
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

        with anyio.fail_after(PATIENCE):
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


@pytest.mark.parametrize("how", ["actor", "process"])
async def test_a_large_answer_leaves_before_who_gave_it_ends(nats: NatsServer, how: str) -> None:
    async with AsyncExitStack() as stack:
        asks = await stack.enter_async_context(ActorSystem("asks", transport=nats.url, plane=f"ends{how}"))
        async with ActorSystem("serves", transport=nats.url, plane=f"ends{how}") as serves:
            go_on = asyncio.Event()
            go_on.set()
            desk = await serves.spawn(Desk, go_on)
            await serves.node.remote.flush()
            leaving: Any = serves.node.remote.parts.transfers._out
            asked = [with_patience(asks, Desk.make, 3_000_000) for _ in range(4)]
            await until(lambda: any(5 < one.sent < 100 for one in leaving.values()))
            if how == "actor":
                await desk.stop()
                assert [len(one) for one in await asyncio.gather(*asked)] == [3_000_000] * 4
        assert [len(one) for one in await asyncio.gather(*asked)] == [3_000_000] * 4


class Office(Supervisor):
    """Of one desk."""


async def test_who_is_wanted_again_while_its_last_answer_leaves_has_each_message_once(nats: NatsServer) -> None:
    async with (
        ActorSystem("asks", transport=nats.url, plane="again") as asks,
        ActorSystem("serves", transport=nats.url, plane="again") as serves,
    ):
        go_on = asyncio.Event()
        go_on.set()
        desk = child(Desk, id="desk", args={"go_on": go_on})
        office = await serves.spawn(child(Office, id="office", args={"children": (desk,)}))
        assert isinstance(office, Office)
        await serves.node.remote.flush()
        [cell] = serves.node.served["desk.example"].cells
        asked = with_patience(asks, Desk.make, 10_000_000)
        leaving: Any = serves.node.remote.parts.transfers._out
        await until(lambda: any(5 < one.sent < 100 for one in leaving.values()))
        await office.terminate_child("desk")
        await office.restart_child("desk")
        await serves.node.remote.flush()
        this_one = asks.at(f"{cell.replica}.desk.example")
        assert [await this_one.ask(Desk.size, b"x") for _ in range(3)] == [1, 1, 1]
        assert await this_one.ask(Desk.begun) == 3
        assert len(await asked) == 10_000_000


async def test_a_large_ask_of_which_a_part_has_come_as_its_process_ends_is_sent_to_another(nats: NatsServer) -> None:
    async with ActorSystem("asks", transport=nats.url, plane="part2") as asks:
        async with ActorSystem("one", transport=nats.url, plane="part2") as one:
            await one.spawn(Desk, asyncio.Event())
            await one.node.remote.flush()
            asked = with_patience(asks, Desk.size, bytes(20_000_000))
            taking: Any = one.node.remote.parts.transfers
            await until(lambda: taking.held > 0 and any(entry.next > 9 for entry in taking._in._entries.values()))
            other = ActorSystem("other", transport=nats.url, plane="part2")
            await other.__aenter__()
            await other.spawn(Desk, asyncio.Event())
            await other.node.remote.flush()
        with anyio.fail_after(PATIENCE):
            assert await asked == 20_000_000
        await other.__aexit__(None, None, None)


async def test_large_tells_leave_before_their_process_ends(nats: NatsServer) -> None:
    async with ActorSystem("serves", transport=nats.url, plane="told") as serves:
        desk = await serves.spawn(Desk, asyncio.Event())
        await serves.node.remote.flush()
        async with ActorSystem("tells", transport=nats.url, plane="told") as tells:
            for _ in range(4):
                assert tells.tell(Desk.size, bytes(3_000_000))
        with anyio.fail_after(PATIENCE):
            while await desk.ask(Desk.begun) < 4:
                await asyncio.sleep(0.01)
        assert len(tells.dead_letters) == 0


def test_what_is_kept_for_that_is_bounded() -> None:
    left: list[int] = []
    kept = Kept(LocalBus())
    for number in range(MOST_KEPT + 2):
        kept.add(1, partial(left.append, number))
    kept.leave()
    assert left == [*range(2, MOST_KEPT + 2)]
    left.clear()
    for number, size in enumerate((1, BYTES_KEPT, BYTES_KEPT + 1, 1)):
        kept.add(size, partial(left.append, number))
    kept.leave()
    kept.leave()
    assert left == [3]
