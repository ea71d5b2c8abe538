"""Asks in fragments that were not taken are sent again like any other, also where all of them had left already."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mbactor import ActorCrashed, Backoff, Mailbox, MbactorError, Unavailable, child
from mbactor.errors import NodeLeaving
from mbactor.transport import Envelope, LocalBus, Message, large, repeats
from mbactor.transport.message import messages_of
from mbactor.transport.nats import NatsBus
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox
from tests.transport.large_parts import PLANE, Store, system
from tests.transport.test_large import LIMIT, Asker, nothing_is_left, two, until, virtually

SIZE = 300_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that carries little at once."""
    with nats_server(tmp_path_factory.mktemp("nats"), "max_payload: 65536") as running:
        yield running


@pytest.mark.parametrize("room", [large.KEPT, 2 * SIZE + 100, 0])
def test_what_waits_in_a_process_that_ends_is_asked_of_another_as_far_as_it_is_kept(
    small: NatsServer, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(large, "KEPT", room)

    async def work() -> None:
        async with system("asks", small.url) as asks, system("one", small.url) as one:
            await one.spawn(child(Store, shutdown="50ms"))
            await one.node.remote.flush()
            held = asyncio.ensure_future(asks.ask(Store.hold))
            [cell] = one.node.served["store.example"].cells
            await until(lambda: cell.current is not None and any(gate.workers for gate in cell.gates))
            waiting = [asyncio.ensure_future(asks.ask(Store.size, bytes(SIZE))) for _ in range(4)]
            await until(lambda: cell.statistics().depth == 4)
            async with system("two", small.url) as two:
                await two.spawn(Store)
                await two.node.remote.flush()
                await one.stop()
                answers = await asyncio.gather(*waiting, return_exceptions=True)
                kept = min(4, room // SIZE)
                assert answers.count(SIZE) == kept
                told = [answer for answer in answers if answer != SIZE]
                assert all(isinstance(error, NodeLeaving) and error.taken == "no" for error in told)
                assert await asks.ask(Store.count) == kept
                await nothing_is_left(asks, two)
                requester = asks.node.remote._requester
                assert (requester._large._kept, requester._large._room) == ({}, room)
            with pytest.raises(MbactorError):
                await held

    asyncio.run(work())


@pytest.mark.parametrize(("room", "size"), [(large.KEPT, SIZE), (large.KEPT, 20 * SIZE), (0, SIZE)])
def test_one_whose_last_fragments_find_nobody_is_with_nobody(
    small: NatsServer, monkeypatch: pytest.MonkeyPatch, room: int, size: int
) -> None:
    """It is sent again at once, and what the broker still has to say of so many fragments is not taken to be of that."""
    monkeypatch.setattr(large, "KEPT", room)
    monkeypatch.setattr(repeats, "STEP", 0.0)

    async def work() -> None:
        bus, first = NatsBus(small.url), Inbox()
        await bus.connect()
        taker = bus.subscribe(f"{PLANE}.safe.443.*.store_example._.post.size", first)
        await bus.flush()
        async with system("asks", small.url) as asks, system("serves", small.url) as serves:
            asked = asyncio.ensure_future(asks.ask(Store.size, bytes(size)))
            [delivery] = await first.until(1)
            taker.unsubscribe()
            await bus.flush()
            await serves.spawn(Store)
            await serves.node.remote.flush()
            [begun] = messages_of(delivery.data)
            _, of = begun.envelope.fragment
            ack = Envelope("ack", begun.envelope.id, fragment=(of, of), replica="id-gone")
            bus.publish(delivery.reply or "", Message(ack, b"").to_bytes())
            if room:
                assert await asked == size
            else:
                with pytest.raises(Unavailable, match="gone before all of its fragments had come") as caught:
                    await asked
                assert caught.value.taken == "no"
            assert await asks.ask(Store.count) == (1 if room else 0)
        await bus.close()

    asyncio.run(work())


def test_who_ends_while_the_last_fragments_are_on_their_way_has_not_taken_it_and_says_so() -> None:
    """They come while it drains; the bus has delivered them, so it tells nobody."""

    async def work() -> None:
        async with two() as (_, serves, bus):
            asker, chunk = Asker(bus), bytes(2_000)
            [cell] = serves.node.served["store.example"].cells
            for id in ("all", "some"):
                asker.say(id, 1, 3, chunk, None)
            await until(lambda: all(asker.answers(id) for id in ("all", "some")))
            serves.node.remote.parts.close()
            for number in (2, 3):
                asker.say("all", number, 3, chunk, cell.replica)
            asker.say("some", 2, 3, chunk, cell.replica)  # the last one finds nobody, by which that is known
            asker.say("unknown", 3, 3, chunk, cell.replica)
            error = await asker.error("all")
            assert isinstance(error, NodeLeaving)
            assert error.taken == "no"
            said = [answer.envelope.op for id in ("some", "unknown") for answer in asker.answers(id)]
            assert "error" not in said

    virtually(work())


def test_a_system_that_is_started_once_more_takes_what_comes_in_fragments(small: NatsServer) -> None:
    async def work() -> None:
        async with system("asks", small.url) as asks:
            serves = system("serves", small.url)
            for _ in range(2):
                async with serves:
                    await serves.spawn(Store)
                    await serves.node.remote.flush()
                    assert await asks.ask(Store.size, bytes(SIZE)) == SIZE

    asyncio.run(work())


@pytest.mark.parametrize("size", [1, SIZE])
def test_what_is_refused_by_an_actor_that_will_be_back_is_sent_to_it_again(size: int) -> None:
    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks, system("serves", bus) as serves:
            await serves.spawn(child(Store, backoff=Backoff("1500ms", "1500ms", jitter=0)))
            with pytest.raises(ActorCrashed):
                await asks.ask(Store.fall)
            assert await asks.ask(Store.size, bytes(size)) == size
            assert await asks.ask(Store.count) == 1

    virtually(work())


def test_what_finds_a_full_mailbox_is_sent_to_another_that_is_known(small: NatsServer) -> None:
    async def work() -> None:
        async with (
            system("asks", small.url) as asks,
            system("one", small.url) as one,
            system("two", small.url) as two,
        ):
            for each in (one, two):
                await each.spawn(child(Store, mailbox=Mailbox(capacity=1), shutdown="50ms"))
                await each.node.remote.flush()
            requester = asks.node.remote._requester
            async with asyncio.timeout(60):
                while requester._replicas.count("store.example") < 2:
                    await asks.ask(Store.count)
            [cell] = one.node.served["store.example"].cells
            for depth in (0, 1):
                cell.ref.tell(Store.hold)
                await until(lambda depth=depth: cell.statistics().depth == depth)  # type: ignore[misc]
            for _ in range(12):
                assert await asks.ask(Store.size, bytes(SIZE)) == SIZE

    asyncio.run(work())
