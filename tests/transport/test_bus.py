"""Every bus keeps the same contract."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from mbactor.errors import Unavailable
from mbactor.testing.buses import check_bus
from mbactor.transport import Bus, Envelope, LocalBus, Message
from mbactor.transport.link import Hub, Lendable, LinkBus, Port
from mbactor.transport.message import Op, messages_of, payload_of
from tests.transport.inbox import Inbox

pytestmark = pytest.mark.anyio


class Linked(LinkBus):
    """A bus lent by a hub in this process."""

    def __init__(self, bus: Lendable | None = None) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(theirs)
        self._of = bus or LocalBus()
        self._ours = ours
        self.port: Port

    async def connect(self) -> None:
        await self._of.connect()
        self.port = await Hub(self._of).attach(self._ours)
        await super().connect()

    def abandon(self) -> None:
        """Die without a word."""
        self._wire._transport.abort()

    async def close(self) -> None:
        await super().close()
        await self.port.close()
        await self._of.close()


def nested() -> Bus:
    """A bus lent by a process that has only lent it itself."""
    return Linked(Linked())


BUSES: dict[str, Callable[[], Bus]] = {"local": LocalBus, "link": Linked, "nested links": nested}


@pytest.mark.parametrize("make", BUSES.values(), ids=BUSES)
async def test_a_bus_keeps_its_contract(make: Callable[[], Bus]) -> None:
    await check_bus(make)


# --- a bus that is lent to another process ------------------------------------------------------------------------


def message(op: Op) -> bytes:
    return Message(Envelope(op, "1"), b"x").to_bytes()


@pytest.fixture
async def lent() -> AsyncIterator[tuple[LocalBus, Linked]]:
    bus = LocalBus()
    link = Linked(bus)
    await link.connect()
    yield bus, link
    await link.close()


async def test_processes_share_the_messages_of_a_queue(lent: tuple[LocalBus, Linked]) -> None:
    bus, link = lent
    here, there = Inbox(), Inbox()
    bus.subscribe("q", here, queue="w")
    link.subscribe("q", there, queue="w")
    await link.flush()
    for n in range(10):
        (bus if n % 2 else link).publish("q", str(n).encode())
    await link.flush()
    assert (len(here.got), len(await there.until(5))) == (5, 5)


async def test_who_asked_a_process_that_dies_is_told_at_once_and_later_asks_are_refused(
    lent: tuple[LocalBus, Linked],
) -> None:
    bus, link = lent
    there, answers = Inbox(), Inbox()
    link.subscribe("s.*", there, queue="s")
    bus.subscribe("reply.*", answers)
    await link.flush()
    for n, op in enumerate(("ask", "ask", "tell")):
        bus.publish("s.x", message(op), reply=f"reply.{n}")  # type: ignore[arg-type]
    await there.until(3)
    link.publish("reply.0", message("reply"))
    await link.flush()
    link.abandon()
    got = await answers.until(2)
    assert [(one.subject, one.failure) for one in got] == [("reply.0", None), ("reply.1", "lost")]
    bus.publish("s.y", message("ask"), reply="reply.3")
    assert (await answers.until(3))[2].failure == "refused"
    here = Inbox()
    subscription = bus.subscribe("s.y", here, queue="s")
    bus.publish("s.y", message("ask"), reply="reply.4")
    await here.until(1)
    subscription.unsubscribe()
    link.port.release()
    bus.publish("s.y", message("ask"), reply="reply.5")
    assert (await answers.until(4))[3].failure == "no_responders"


async def test_a_process_that_does_not_read_is_refused_requests_and_loses_none_it_was_given() -> None:
    bus, (ours, theirs) = LocalBus(), socket.socketpair()
    await bus.connect()
    port = await Hub(bus).attach(ours)
    theirs.setblocking(True)
    for frame in ((1, 1, "s", None), (4, 2)):
        encoded = msgspec.msgpack.encode(frame)
        theirs.sendall(struct.pack(">I", len(encoded)) + encoded)
    pong = await asyncio.to_thread(_frames, theirs, 1)
    assert pong == [[5, 2, None]]
    answers = Inbox()
    bus.subscribe("reply.*", answers)
    data, sent = message("ask") + bytes(1 << 20), 0
    async with asyncio.timeout(60):
        while not answers.got:
            bus.publish("s", data, reply=f"reply.{sent}")
            sent += 1
            await bus.flush()
            await asyncio.sleep(0)
    refused = {one.subject for one in answers.got if one.failure == "refused"}
    assert 64 < sent < 200
    assert refused == {f"reply.{sent - 1}"}
    got = await asyncio.to_thread(_frames, theirs, sent - 1)
    assert [frame[3] for frame in got] == [f"reply.{n}" for n in range(sent - 1)]
    await port.close()
    theirs.close()
    await bus.close()


async def test_a_process_whose_bus_is_not_read_for_is_told_and_may_ask_again_once_it_is() -> None:
    ours, theirs = socket.socketpair()
    link = LinkBus(theirs)
    await link.connect()
    data, sent = message("ask") + bytes(1 << 20), 0
    while not link._wire.full and sent < 200:
        link.publish("s", data, reply=f"reply.{sent}")
        sent += 1
    assert 64 < sent < 200
    link.publish("s", b"tell")
    with pytest.raises(Unavailable, match="does not read"):
        link.publish("s", data, reply="reply.too-many")
    ours.setblocking(True)
    got = await asyncio.to_thread(_frames, ours, sent + 1)
    assert [frame[2] for frame in got] == [*(f"reply.{n}" for n in range(sent)), None]
    async with asyncio.timeout(60):
        while link._wire.full:
            await asyncio.sleep(0.001)
    link.publish("s", data, reply="reply.again")
    assert (await asyncio.to_thread(_frames, ours, 1))[0][2] == "reply.again"
    ours.close()
    await link.close()


OLD = 3.0
"""Seconds for which a message was on the way."""


def _budgets(data: bytes) -> list[float | None]:
    return [one.envelope.budget for one in messages_of(data)]


def _asks() -> bytes:
    return payload_of([Message(Envelope("ask", id, budget), b"x").part() for id, budget in (("1", 9.0), ("2", None))])


@pytest.mark.parametrize("towards", ["bus", "process"])
async def test_what_was_long_on_the_way_has_so_much_less_time_to_be_answered(towards: str) -> None:
    bus, (ours, theirs), inbox = LocalBus(), socket.socketpair(), Inbox()
    await bus.connect()
    then, data = time.monotonic() - OLD, _asks()
    # What has not left yet at all is not old: it goes on as it is, as does what nobody waits for, or cannot be read.
    sent = [(data, "reply.1", then), (data, "reply.2", time.monotonic() + 3600), (data, None, then)]
    sent.append((b"\xff", "reply.3", then))
    if towards == "bus":
        port = await Hub(bus).attach(ours)
        bus.subscribe("s", inbox)
        frames: list[tuple[Any, ...]] = [(0, "s", reply, given, at) for given, reply, at in sent]
        raw, end = theirs, port.close
    else:
        link = LinkBus(theirs)
        await link.connect()
        number = link.subscribe("s", inbox).number
        frames = [(3, number, "s", reply, None, given, at) for given, reply, at in sent]
        raw, end = ours, link.close
    for frame in frames:
        encoded = msgspec.msgpack.encode(frame)
        raw.sendall(struct.pack(">I", len(encoded)) + encoded)
    old, *others = [one.data for one in await inbox.until(4)]
    left, unbounded = _budgets(old)
    assert left is not None
    assert 9.0 - (time.monotonic() - then) <= left <= 9.0 - OLD
    assert unbounded is None
    assert others == [data, data, b"\xff"]
    raw.close()
    await end()
    await bus.close()


async def test_a_message_says_when_it_went_on_its_way() -> None:
    bus, (ours, theirs) = LocalBus(), socket.socketpair()
    port = await Hub(bus).attach(ours)
    encoded = msgspec.msgpack.encode((1, 1, "s", None))
    theirs.sendall(struct.pack(">I", len(encoded)) + encoded)
    async with asyncio.timeout(60):
        while not bus.receivers("s"):
            await asyncio.sleep(0.001)
    before = time.monotonic()
    bus.publish("s", message("ask"), reply="reply.1")
    theirs.setblocking(True)
    [delivered] = await asyncio.to_thread(_frames, theirs, 1)
    assert before <= delivered[6] <= time.monotonic()
    await port.close()
    theirs.close()
    await bus.close()

    ours, theirs = socket.socketpair()
    link = LinkBus(theirs)
    await link.connect()
    before = time.monotonic()
    link.publish("s", message("ask"), reply="reply.1")
    [published] = await asyncio.to_thread(_frames, ours, 1)
    assert before <= published[4] <= time.monotonic()
    ours.close()
    await link.close()


def _frames(sock: socket.socket, count: int) -> list[list[Any]]:
    found = []
    with sock.makefile("rb") as stream:
        for _ in range(count):
            (length,) = struct.unpack(">I", stream.read(4))
            found.append(msgspec.msgpack.decode(stream.read(length)))
    return found


async def test_a_link_whose_hub_is_gone_says_so(lent: tuple[LocalBus, Linked]) -> None:
    _, link = lent
    await link.port.close()
    await link.flush()
    with pytest.raises(Unavailable):
        link.publish("s", b"")


class Far(LocalBus):
    """A bus of a user's own, of which the way to the others may be lost."""

    lost = False

    async def flush(self) -> None:
        if self.lost:
            raise Unavailable("the way is lost")
        await super().flush()


@pytest.mark.parametrize("lend", [Linked, lambda bus: Linked(Linked(bus))], ids=["link", "nested links"])
async def test_that_a_bus_could_not_be_flushed_is_told_to_who_it_is_lent_to(lend: Callable[[Lendable], Linked]) -> None:
    bus = Far()
    link = lend(bus)
    await link.connect()
    await link.flush()
    bus.lost = True
    with pytest.raises(Unavailable, match="the way is lost"):
        await link.flush()
    bus.lost = False
    await link.flush()
    await link.close()


async def test_of_a_queue_each_has_its_turn_also_where_each_message_has_a_subject_of_its_own() -> None:
    bus, first, second = LocalBus(), Inbox(), Inbox()
    await bus.connect()
    ends = [bus.subscribe("orders.*", one, queue="q") for one in (first, second)]
    for n in range(20):
        bus.publish(f"orders.{n}", b"")
    await bus.flush()
    assert (len(first.got), len(second.got), len(bus._turns)) == (10, 10, 1)
    for one in ends:
        one.unsubscribe()
    assert not bus._turns
    await bus.close()
