"""What comes of a request to all where those that have it die, refuse it, or say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mbactor.errors import ActorCrashed, BudgetSpent, MbactorError, NotAcknowledged, Unavailable
from mbactor.transport import Address, Delivery, Envelope, LocalBus, Message, Requester
from mbactor.transport.ask import TICKS
from mbactor.transport.message import Op, messages_of
from mbactor.transport.multicast import Multicast
from mbactor.transport.nats import NatsBus
from mbactor.transport.subjects import answered_by
from tests.nats import nats_server
from tests.transport.test_bus import Linked

pytestmark = pytest.mark.anyio
ALL = Address("shop.example", "/all")
SUBJECT = "plane.safe.443.asker.shop_example._.post.all"


class Asker:
    """Asks all over a bus, and keeps what it is told."""

    def __init__(self, bus: Any, window: float = 60.0) -> None:
        self.requester = Requester(bus, "plane", "id-1", window)
        self.multicast = Multicast(self.requester, bus, "plane")
        self.heard: list[str] = []
        self.lost: list[tuple[str, MbactorError]] = []
        self.ended: asyncio.Future[MbactorError | None] = asyncio.get_running_loop().create_future()

    async def open(self) -> Asker:
        await self.requester.open()
        return self

    def ask(self, budget: float = 60.0, body: bytes = b"", *, of_event: bool = False) -> None:
        message = Message(Envelope("ask", self.requester.new_id(), budget, multi=True), body)
        deadline = asyncio.get_running_loop().time() + budget
        self.multicast.send(
            "asker",
            ALL,
            message,
            deadline,
            lambda answer: self.heard.append(answer.envelope.replica),
            lambda replica, _, error: self.lost.append((replica, error)),
            self.ended.set_result,
            of_event=of_event,
        )


class Replier:
    """Acknowledges, and answers when it is told to."""

    def __init__(
        self, bus: Any, replica: str, *, acks: bool = True, publish: Callable[..., None] | None = None
    ) -> None:
        self.replica, self.acks = replica, acks
        self.publish = publish or bus.publish
        self.asked: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        bus.subscribe(SUBJECT, self, queue=replica)

    def __call__(self, delivery: Delivery) -> None:
        [message] = messages_of(delivery.data)
        self.asked.set_result((delivery.reply or "", message.envelope.id))
        if self.acks:
            self.say("ack")

    def say(self, op: Op) -> None:
        reply, id = self.asked.result()
        self.publish(reply, Message(Envelope(op, id, replica=self.replica, queue=self.replica), b"").to_bytes())


@pytest.fixture
async def both() -> AsyncIterator[tuple[LocalBus, Linked]]:
    bus = LocalBus()
    link = Linked(bus)
    await link.connect()
    yield bus, link
    await link.close()


async def test_one_whose_process_dies_with_it_is_named_and_the_others_are_waited_for(
    both: tuple[LocalBus, Linked],
) -> None:
    bus, link = both
    asker, here, there = await Asker(bus).open(), Replier(bus, "here"), Replier(link, "there")
    await link.flush()
    asker.ask()
    await there.asked
    await link.flush()
    link.abandon()
    await asyncio.sleep(0)
    assert not asker.ended.done(), "the other one has not answered"
    await here.asked
    here.say("reply")
    assert await asyncio.wait_for(asker.ended, 60) is None
    assert asker.heard == ["here"]
    [(replica, error)] = asker.lost
    assert (replica, type(error)) == ("there", ActorCrashed)
    assert error.taken == "unknown"


async def test_one_that_dies_without_a_word_is_told_of_and_nobody_knows_which(both: tuple[LocalBus, Linked]) -> None:
    bus, link = both
    asker, there = await Asker(bus, window=0.2).open(), Replier(link, "there", acks=False)
    await link.flush()
    asker.ask()
    await there.asked
    link.abandon()
    assert await asyncio.wait_for(asker.ended, 60) is None
    [(replica, error)] = asker.lost
    assert (replica, type(error)) == ("", ActorCrashed)


async def test_over_a_broker_one_that_dies_is_noticed_within_the_window_and_not_at_the_end(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        ours, theirs = NatsBus(server.url), NatsBus(server.url)
        await ours.connect()
        await theirs.connect()
        asker = await Asker(ours, window=0.4).open()
        alive, dead = Replier(theirs, "alive"), Replier(theirs, "dead")
        theirs.subscribe("plane.*.*.*.shop_example.alive.>", lambda _: None)
        await theirs.flush()
        asker.ask(budget=60)
        async with asyncio.timeout(60):
            await asyncio.gather(alive.asked, dead.asked)
            while not asker.lost:
                await asyncio.sleep(0.005)
        assert [(replica, type(error)) for replica, error in asker.lost] == [("dead", ActorCrashed)]
        assert not asker.ended.done()
        alive.say("reply")
        assert await asyncio.wait_for(asker.ended, 60) is None
        assert asker.heard == ["alive"]
        await ours.close()
        await theirs.close()


async def test_where_the_connection_is_lost_there_may_have_been_more() -> None:
    bus = LocalBus()
    await bus.connect()
    asker, quiet = await Asker(bus).open(), Replier(bus, "quiet")
    asker.ask()
    await quiet.asked
    await bus.flush()
    asker.requester._cut()
    assert isinstance(await asker.ended, NotAcknowledged)
    assert [(replica, type(error)) for replica, error in asker.lost] == [("quiet", NotAcknowledged)]
    await bus.close()
    with pytest.raises(Unavailable):
        asker.ask()
    assert not asker.multicast._responders._running, "nothing of a request that was not sent is left behind"


async def test_who_says_nothing_is_not_waited_for_and_who_comes_late_is_asked_for_the_next_time() -> None:
    bus = LocalBus()
    await bus.connect()
    bus.receivers = lambda subject: None  # type: ignore[method-assign]  # as a broker
    asker, mute = await Asker(bus, window=0.1).open(), Replier(bus, "mute", acks=False)
    asker.ask(budget=0.05)
    assert await asyncio.wait_for(asker.ended, 60) is None
    assert (asker.heard, asker.lost) == ([], [])
    asker.ended, mute.asked = (asyncio.get_running_loop().create_future() for _ in range(2))
    mute.acks = True
    asker.ask(budget=0.3)
    assert await asyncio.wait_for(asker.ended, 60) is None
    [(replica, error)] = asker.lost
    assert (replica, type(error)) == ("mute", BudgetSpent)
    await bus.close()


async def test_who_answers_after_the_end_is_waited_for_the_next_time() -> None:
    bus = LocalBus()
    await bus.connect()
    bus.receivers = lambda subject: None  # type: ignore[method-assign]  # as a broker
    asker = await Asker(bus, window=0.1).open()
    known, late = Replier(bus, "known"), Replier(bus, "late", acks=False)

    async def asked(ticks: int) -> None:
        asker.multicast.patience = ticks
        asker.heard.clear()
        asker.ended, known.asked, late.asked = (asyncio.get_running_loop().create_future() for _ in range(3))
        asker.ask()
        await asyncio.wait_for(asyncio.gather(known.asked, late.asked), 60)
        known.say("reply")
        await bus.flush()

    await asked(TICKS)
    assert await asyncio.wait_for(asker.ended, 60) is None
    await asked(10**6)
    assert await asyncio.wait_for(asker.ended, 60) is None, "those that are known have answered"
    late.say("reply")
    await bus.flush()
    assert (asker.heard, asker.requester.late) == (["known"], 1)
    await asked(10**6)
    assert not asker.ended.done(), "there may be others than those that are known"
    late.say("reply")
    await bus.flush()
    assert asker.heard == ["known", "late"]
    asker.requester.close()
    await bus.close()


@pytest.mark.parametrize(("of_event", "heard"), [(False, ["plain", "for eve"]), (True, ["plain", "eve"])])
async def test_whoever_sinks_an_event_answers_for_itself_and_else_the_host_that_was_asked(
    *, of_event: bool, heard: list[str]
) -> None:
    bus = LocalBus()
    await bus.connect()
    bus.receivers = lambda subject: None  # type: ignore[method-assign]  # as a broker
    asker, shop = await Asker(bus).open(), Replier(bus, "shop", acks=False)
    asker.ask(of_event=of_event)
    reply, id = await asyncio.wait_for(shop.asked, 60)
    for replica, by, host in (
        ("plain", "shop.example", ""),
        ("eve", "eve.example", "eve.example"),
        ("eve for it", "eve.example", "shop.example"),
        ("for eve", "shop.example", "eve.example"),
    ):
        answer = Message(Envelope("reply", id, replica=replica, queue=replica, host=host), b"")
        bus.publish(answered_by(by, reply), answer.to_bytes())
    await bus.flush()
    assert asker.heard == heard
    asker.requester.close()
    await bus.close()


async def test_that_one_of_many_goes_before_it_has_all_of_a_request_does_not_mean_that_nobody_is_there() -> None:
    bus = LocalBus(8_192)
    await bus.connect()
    bus.receivers = lambda subject: None  # type: ignore[method-assign]  # as a broker
    asker, parts = await Asker(bus).open(), list[Delivery]()
    bus.subscribe("plane.*.*.*.shop_example.alive.>", parts.append)
    alive, gone = Replier(bus, "alive", acks=False), Replier(bus, "gone", acks=False)
    asker.ask(body=bytes(20_000))
    for one in (gone, alive):
        reply, id = await asyncio.wait_for(one.asked, 60)
        pull = Envelope("ack", id, replica=one.replica, queue=one.replica, fragment=(3, 3))
        bus.publish(reply, Message(pull, b"").to_bytes())
    async with asyncio.timeout(60):
        while len(parts) < 2:
            await asyncio.sleep(0.001)
    await bus.flush()
    assert not asker.ended.done()
    alive.say("reply")
    await bus.flush()
    assert asker.heard == ["alive"]
    asker.requester.close()
    await bus.close()
