"""Messages of one turn travel together, within bounds, in order, and what befalls a payload befalls each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import MbactorError, MessageTooLarge, NoSuchActor, NotAcknowledged, Unavailable
from mbactor.transport import Address, Delivery, Envelope, LocalBus, Message, Requester, messages_of, nats_client
from mbactor.transport.message import OVERHEAD
from mbactor.transport.nats import NatsBus
from mbactor.transport.outbox import AT_ONCE, BYTES, MOST, SOON, Outbox, Together
from tests.loops import run
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox

turns = st.lists(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from([1, 500, BYTES // 3, BYTES]))),
    max_size=4,
)


@given(turns, st.booleans())
def test_all_arrive_once_each_host_in_order_and_no_payload_is_large(
    asked: list[list[tuple[str, str, int]]], gather: bool
) -> None:
    async def work() -> None:
        bus = LocalBus()
        await bus.connect()
        got: list[tuple[str, str]] = []
        together: list[list[str]] = []

        def receive(delivery: Delivery) -> None:
            messages = messages_of(delivery.data)
            assert len(messages) <= MOST
            assert len(messages) == 1 or len(delivery.data) <= BYTES + OVERHEAD
            assert delivery.reply == f"r.{messages[0].envelope.id}"
            got.extend((delivery.subject, message.envelope.id) for message in messages)

        bus.subscribe(">", receive)
        outbox = Outbox(bus, gather=gather, sent=together.append, unsent=lambda *_: pytest.fail("unsent"))
        put: list[tuple[str, str]] = []
        for turn in asked:
            for host, path, size in turn:
                id, subject = str(len(put)), f"{host}.{path}"
                put.append((subject, id))
                outbox.put(host, subject, subject, "r.", id, Message(Envelope("ask", id), bytes(size)).part())
            await asyncio.sleep(0)
        outbox.flush()
        await bus.flush()
        for host in "ab":
            assert [one for one in got if one[0][0] == host] == [one for one in put if one[0][0] == host]
        assert gather or not together
        await bus.close()

    run(work())


def test_what_cannot_leave_is_told_of_each_and_what_is_too_large_at_once() -> None:
    async def work() -> None:
        bus = LocalBus()
        await bus.connect()
        told: list[tuple[list[str], MbactorError]] = []
        outbox = Outbox(bus, gather=True, sent=print, unsent=lambda batch, error: told.append((batch.ids, error)))
        part = Message(Envelope("ask", "1"), b"").part()
        bus.max_payload = OVERHEAD + len(part) - 1
        with pytest.raises(MessageTooLarge):
            outbox.put("a", "a.x", "a.x", None, "0", part)
        bus.max_payload += 1
        for id in "123":
            outbox.put("a", "a.x", "a.x", None, id, part)
        await bus.close()
        await asyncio.sleep(0)
        assert [id for ids, _ in told for id in ids] == ["1", "2", "3"]
        assert {type(error) for _, error in told} == {Unavailable}

    run(work())


def test_a_payload_is_no_larger_than_the_bus_takes_and_many_leave_before_the_end_of_the_turn() -> None:
    async def work() -> None:
        bus = LocalBus()
        await bus.connect()
        ids = [f"{number:03}" for number in range(2 * SOON)]
        got: list[str] = []
        sizes: set[int] = set()

        def receive(delivery: Delivery) -> None:
            got.extend(one.envelope.id for one in messages_of(delivery.data))
            sizes.add(len(delivery.data))

        bus.subscribe("a.x", receive)
        left: list[str] = []
        outbox = Outbox(bus, gather=True, sent=left.extend, unsent=lambda *_: pytest.fail("unsent"))
        parts = [Message(Envelope("ask", id), b"").part() for id in ids]
        bus.max_payload = OVERHEAD + 2 * len(parts[0])
        for id, part in zip(ids, parts, strict=True):
            outbox.put("a", "a.x", "a.x", None, id, part)
        assert left == ids[:SOON]
        outbox.flush()
        await bus.flush()
        assert (got, sizes) == (ids, {bus.max_payload})
        await bus.close()

    run(work())


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


def test_who_comes_alone_does_not_wait_for_the_end_of_the_turn(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        bus = NatsBus(server.url)
        await bus.connect()
        payloads: list[list[str]] = []
        bus.subscribe("a.x", lambda one: payloads.append([message.envelope.id for message in messages_of(one.data)]))
        told: list[str] = []
        outbox = Outbox(bus, gather=True, sent=lambda _: None, unsent=lambda batch, _: told.extend(batch.ids))

        async def turn(*ids: str) -> list[list[str]]:
            for id in ids:
                outbox.put("a", "a.x", "a.x", None, id, Message(Envelope("ask", id), b"").part())
            payloads.clear()
            await asyncio.sleep(0)
            await bus.flush()
            return list(payloads)

        assert await turn("1", "2", "3") == [["1", "2", "3"]]
        assert await turn("4") == [["4"]]
        assert await turn("5", "6", "7") == [["5"], ["6", "7"]]  # one came before, and more might have come now
        assert await turn("8", "9") == [["8", "9"]]
        with pytest.raises(MessageTooLarge):
            outbox.put("a", "a.x", "a.x", None, "10", bytes(bus.max_payload))
        assert await turn("10") == [["10"]]
        with monkeypatch.context() as patch:
            patch.setattr(nats_client, "FULL", 0)  # as if the server did not read
            outbox.put("a", "a.x", "a.x", "r.", "11", b"")
            assert told == []  # its sender does not know of it yet
            await asyncio.sleep(0)
            assert told == ["11"]
        await bus.close()
        outbox.put("a", "a.x", "a.x", None, "12", b"")
        assert told == ["11"]
        await asyncio.sleep(0)
        assert told == ["11", "12"]

    run(work())


def test_that_nobody_is_there_is_told_to_each_ask_of_a_payload(server: NatsServer) -> None:
    async def work() -> None:
        bus = NatsBus(server.url)
        await bus.connect()
        requester = Requester(bus, "p", "node")
        await requester.open()
        deadline = asyncio.get_running_loop().time() + 20
        address = Address("nobody.example", "/x")

        def ask() -> asyncio.Future[Message]:
            message = Message(Envelope("ask", requester.new_id()), b"")
            return requester.request("me", address, message, deadline, lambda one: one)

        asks = [ask() for _ in range(MOST + 10)]
        asks[0].cancel()
        outcomes = await asyncio.gather(*asks, return_exceptions=True)
        assert {type(one) for one in outcomes[1:]} == {NoSuchActor}
        requester.close()
        await bus.close()

    run(work())


def test_that_nobody_is_there_to_call_an_ask_off_is_not_told_to_those_it_travelled_with(server: NatsServer) -> None:
    async def work() -> None:
        bus = NatsBus(server.url)
        await bus.connect()
        requester = Requester(bus, "p", "node")
        await requester.open()
        address, deadline = Address("far.example", "/x"), asyncio.get_running_loop().time() + 20
        taken = Inbox()
        taker = bus.subscribe("p.safe.443.*.far_example._.post.x", taken)
        lost: list[MbactorError] = []
        called_off, other = [
            requester.request(
                "me", address, Message(Envelope("ask", requester.new_id()), b""), deadline, lambda one: one
            )
            for _ in range(2)
        ]
        requester.send("me", address, Message(Envelope("tell", requester.new_id()), b""), lost.append)
        [payload] = await taken.until(1)
        assert len(messages_of(payload.data)) == 3
        taker.unsubscribe()
        await bus.flush()
        called_off.cancel()
        requester.call_off(called_off)
        await bus.flush()
        nobody = requester.request(
            "me", address, Message(Envelope("ask", requester.new_id()), b""), deadline, lambda one: one
        )
        with pytest.raises(NoSuchActor):
            await nobody  # so what the server had to say of the other is here as well
        with pytest.raises(NotAcknowledged) as caught:
            await other
        assert (caught.value.taken, lost) == ("unknown", [])
        requester.close()
        await bus.close()

    run(work())


@pytest.mark.parametrize("locality", ["", "eu-west"])
def test_what_had_not_left_when_the_connection_was_lost_was_taken_by_nobody_and_its_sender_is_told(
    server: NatsServer, locality: str
) -> None:
    async def work() -> None:
        bus = NatsBus(server.url)
        await bus.connect()
        address, loop = Address("far.example", "/x"), asyncio.get_running_loop()
        asks: list[asyncio.Future[Message]] = []
        lost: list[MbactorError] = []

        def ask() -> asyncio.Future[Message]:
            message = Message(Envelope("ask", requester.new_id()), b"")
            return requester.request("me", address, message, loop.time() + 20, lambda one: one)

        def answer(request: Delivery) -> None:
            [message] = messages_of(request.data)
            told = Message(Envelope("reply", message.envelope.id, locality=locality), b"")
            bus.publish(request.reply or "", told.to_bytes())

        def in_the_turn_of_the_loss() -> None:
            asks.extend([ask(), ask()])
            requester.send("me", address, Message(Envelope("tell", requester.new_id()), b""), lost.append)

        bus.when_cut(in_the_turn_of_the_loss)  # before the requester hears of it
        requester = Requester(bus, "p", "node", locality=locality)
        await requester.open()
        bus.subscribe("p.safe.443.*.far_example._.post.x", answer)
        await ask()  # from now on it knows how near that is
        cut = asyncio.Event()
        bus.when_cut(cut.set)
        server.kill()
        await cut.wait()
        told = await asyncio.gather(*asks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
        assert [(type(one), getattr(one, "taken", None)) for one in (*told, *lost)] == [(Unavailable, "no")] * 3
        requester.close()
        await bus.close()

    run(work())


@pytest.mark.parametrize("coalesce", [True, False])
@pytest.mark.parametrize("size", [1, 2_000_000])
def test_what_is_told_while_the_connection_is_lost_is_refused_alike_whatever_its_size(
    server: NatsServer, size: int, coalesce: bool
) -> None:
    async def work() -> None:
        bus, cut = NatsBus(server.url), asyncio.Event()
        await bus.connect()
        bus.when_cut(cut.set)
        requester = Requester(bus, "p", "node", coalesce=coalesce)
        await requester.open()
        server.kill()
        await cut.wait()
        lost: list[MbactorError] = []
        message = Message(Envelope("tell", requester.new_id()), bytes(size))
        requester.send("me", Address("far.example", "/x"), message, lost.append)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [(type(one), one.taken) for one in lost] == [(Unavailable, "no")]
        requester.close()
        await bus.close()

    run(work())


def test_what_left_in_one_payload_is_told_of_once_and_not_remembered_for_ever() -> None:
    together = Together()
    together.left(["1", "2", "3"])
    assert together.take("2") == ["2"], "only the first has the reply subject of the payload"
    assert together.take("1") == ["1", "2", "3"]
    assert together.take("1") == ["1"]
    together.left(["4", "5"])
    together.age()
    assert together.take("4") == ["4", "5"]
    together.left(["6", "7"])
    together.age()
    together.age()
    assert together.take("6") == ["6"]
    for number in range(3 * AT_ONCE):
        together.left([f"first {number}", "another"])
    assert sum(len(together.take(f"first {number}")) > 1 for number in range(3 * AT_ONCE)) <= 2 * AT_ONCE
