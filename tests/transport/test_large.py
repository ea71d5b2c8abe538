"""Bodies above what the bus carries, both ways: whole or an error that says why, at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mbactor import ActorSystem
from mbactor.errors import (
    BadRequest,
    BudgetSpent,
    InvalidSpec,
    MbactorError,
    MessageTooLarge,
    NoSuchActor,
    NotAcknowledged,
    Unavailable,
)
from mbactor.testing.loop import VirtualTimeLoop
from mbactor.transport import Address, Bus, Envelope, LocalBus, Message, Requester, large, subjects
from mbactor.transport.ask import error_in
from mbactor.transport.codec import encode
from mbactor.transport.fragments import CHUNK
from mbactor.transport.message import messages_of
from mbactor.transport.nats import NatsBus
from mbactor.transport.reassembly import SWEEP, Bounds
from mbactor.transport.transfers import BURST, FULL
from tests.nats import NatsServer, nats_server
from tests.process import ROOT, pause
from tests.proxy import Proxy, proxy
from tests.transport.inbox import Inbox
from tests.transport.large_parts import PLANE, Listener, Reader, Source, Store, system

LIMIT = 16 * 1024
"""Of the bus within the process, so that little is much."""
ADDRESS = Address("store.example", "/echo")


def virtually(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(work)


@asynccontextmanager
async def two(max_body: int = 2**30, theirs: int = 2**30) -> AsyncIterator[tuple[ActorSystem, ActorSystem, LocalBus]]:
    """Who asks and who serves, on one bus in this process."""
    bus = LocalBus(LIMIT)
    async with system("asks", bus, max_body) as asks, system("serves", bus, theirs) as serves:
        await serves.spawn(Store)
        yield asks, serves, bus


def transfers(of: ActorSystem) -> Any:
    return of.node.remote.parts.transfers


def waiting(of: ActorSystem) -> list[Any]:
    requester: Any = of.node.remote._requester
    return [one for one in requester._waiting.everyone() if not one.done()]


async def until(condition: Callable[[], bool], pause: float = 0.001) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(pause)


async def nothing_is_left(*systems: ActorSystem) -> None:
    await until(lambda: all(len(transfers(one)) == transfers(one).held == 0 for one in systems), 0.05)


# --- in one process -------------------------------------------------------------------------------------------------


def test_bodies_of_any_size_go_both_ways_beside_each_other() -> None:
    async def work() -> None:
        async with two() as (asks, serves, _):
            around = [LIMIT - n for n in range(0, 200, 10)]
            bodies = [os.urandom(size) for size in (*around, 0, 1, LIMIT + 1, 3 * LIMIT, 100_000, 1_000_000, 3_000_001)]
            answers = await asyncio.gather(*(asks.ask(Store.echo, body) for body in bodies))
            assert answers == bodies
            assert len(await asks.ask(Store.make, 500_000)) == 500_000
            assert await asks.ask(Store.size, bytes(500_000)) == 500_000
            answer = await asks.request("POST", "https://store.example/size", {"data": "A" * 400_000})
            assert answer.json() == 300_000
            await nothing_is_left(asks, serves)

    virtually(work())


def test_two_that_ask_under_the_same_name_and_the_same_numbers_have_each_what_is_theirs() -> None:
    """As replicas of one service do, of which each counts its requests from 1 on."""

    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as one, system("asks", bus) as two, system("serves", bus) as serves:
            await serves.spawn(Store)
            assert one.node.remote._requester.new_id() == two.node.remote._requester.new_id()
            for size in (100_000, 500_000):
                bodies = [os.urandom(size), os.urandom(size)]
                asked = [each.ask(Store.echo, body) for each, body in zip((one, two), bodies, strict=True)]
                assert await asyncio.gather(*asked) == bodies
            await nothing_is_left(one, two, serves)

    virtually(work())


def test_tells_go_too_and_one_that_is_too_large_is_a_dead_letter_at_once() -> None:
    async def work() -> None:
        async with two(theirs=100_000) as (asks, serves, _):
            for size in (90_000, 1, 200_000, 30_000):
                asks.tell(Store.keep, bytes(size))
            await until(lambda: len(asks.dead_letters) == 1)
            began = asyncio.get_running_loop().time()
            [letter] = asks.dead_letters
            assert "at most 100000 (its setting max_body)" in letter.reason
            await nothing_is_left(asks, serves)
            assert sorted(await asks.ask(Store.kept)) == [1, 30_000, 90_000]
            await until(lambda: not waiting(asks), 0.05)
            assert asyncio.get_running_loop().time() - began < 5, "what was sent is not kept for longer"

    virtually(work())


def test_what_is_too_large_is_refused_with_the_limit_in_both_directions() -> None:
    async def work() -> None:
        async with two(max_body=300_000, theirs=100_000) as (asks, serves, _):
            for call, limit, taken in (
                (asks.ask(Store.size, bytes(300_001)), 300_000, "no"),  # the asker does not send it
                (asks.ask(Store.size, bytes(100_001)), 100_000, "no"),  # the taker does not take it
                (asks.ask(Store.make, 100_001), 100_000, "yes"),  # the taker does not answer it, and has done it
                (asks.ask(Store.refuse, 100_001), 100_000, "yes"),
            ):
                with pytest.raises(MessageTooLarge) as caught:
                    await call
                assert (caught.value.status, caught.value.limit, caught.value.taken) == (413, limit, taken)
            assert await asks.ask(Store.size, bytes(90_000)) == 90_000
        async with two(max_body=100_000) as (asks, serves, _):
            with pytest.raises(MessageTooLarge) as caught:
                await asks.ask(Store.make, 200_000)  # the asker does not take it
            assert (caught.value.limit, caught.value.taken) == (100_000, "yes")
            began = asyncio.get_running_loop().time()
            await nothing_is_left(asks, serves)
            assert asyncio.get_running_loop().time() - began < 1, "who answers is told that it is not wanted"

    virtually(work())


def test_a_bound_below_what_travels_in_one_message_holds_too() -> None:
    async def work() -> None:
        async with two(max_body=5_000) as (asks, serves, _):
            reader = await serves.spawn(Reader)
            assert await asks.ask(Store.size, bytes(4_900)) == 4_900
            assert len(await asks.ask(Store.make, 6_000)) == 6_000  # which is for its taker to bound
            with pytest.raises(MessageTooLarge, match="at most 5000") as caught:
                await asks.ask(Store.size, bytes(5_001))
            assert caught.value.taken == "no"
            with pytest.raises(MessageTooLarge, match="at most 5000"):
                await anext(asks.ask_all(Store.each, bytes(5_001)))
            with pytest.raises(MessageTooLarge, match="at most 5000"):
                asks.tell(Store.keep, bytes(5_001))
            with pytest.raises(MessageTooLarge, match="at most 5000"):
                asks.publish(Source.on_news, bytes(5_001))
            assert asks.publish(Source.on_news, bytes(4_900))
            await nothing_is_left(asks, serves)
            assert await asks.ask(Store.kept) == []
            assert [len(one) for one in await reader.ask(Reader.have_read)] == [4_900]
        async with two(theirs=5_000) as (asks, serves, _):
            assert len(await asks.ask(Store.make, 4_900)) == 4_900
            with pytest.raises(MessageTooLarge, match="at most 5000") as caught:
                await asks.ask(Store.make, 5_001)
            assert caught.value.taken == "yes"
            [reply] = [reply async for reply in asks.ask_all(Store.make_each, 5_001)]
            assert isinstance(reply.error, MessageTooLarge)
            with pytest.raises(MbactorError, match="x" * 6_000):  # an error is told, whatever its traceback
                await asks.ask(Store.refuse, 6_000)

    virtually(work())


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "1MB"])
def test_a_wrong_bound_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidSpec, match="max_body: .* given, a number of bytes above 0 expected"):
        ActorSystem(max_body=wrong)


def test_who_gives_up_ends_the_transfer_and_the_actor_sees_nothing_of_it() -> None:
    async def work() -> None:
        async with two() as (asks, serves, _):
            asked = asyncio.ensure_future(asks.ask(Store.echo, bytes(30_000_000)))
            await until(lambda: transfers(serves).held > 0, 0)
            asked.cancel()
            await nothing_is_left(asks, serves)
            answer = asyncio.ensure_future(asks.ask(Store.make, 30_000_000))
            await until(lambda: transfers(asks).held > 0, 0)
            answer.cancel()
            await nothing_is_left(asks, serves)
            assert asks.node.remote.late == 1
            assert await asks.ask(Store.count) == 0

    virtually(work())


class Taker:
    """A program of somebody else that takes requests by the documented rules, as far as it wants."""

    def __init__(self, bus: Bus, replica: str = "id-raw", pulls: int = 1) -> None:
        self.bus = bus
        self.replica = replica
        self.reply = ""
        self.pulls = pulls
        self.got: list[Message] = []
        self._own = bus.subscribe(subjects.instance_pattern(PLANE, ADDRESS.host, replica), self.take)
        pattern = f"{PLANE}.*.*.*.store_example._.>"
        self._queue = bus.subscribe(pattern, self.take, queue=ADDRESS.host)

    def take(self, delivery: Any) -> None:
        for message in messages_of(delivery.data):
            self.got.append(message)
            number, of = message.envelope.fragment
            if number == 1 < of:
                self.reply = delivery.reply
                self.pull(message.envelope.id, self.pulls, of)

    def pull(self, id: str, number: int, of: int) -> None:
        """Ask for the fragments up to this number."""
        ack = Envelope("ack", id, fragment=(number, of), replica=self.replica)
        self.bus.publish(self.reply, Message(ack, b"").to_bytes())

    def numbers(self) -> list[int]:
        return [m.envelope.fragment[0] for m in self.got if m.envelope.op == "ask"]

    def dies(self) -> None:
        self._own.unsubscribe()
        self._queue.unsubscribe()


def test_a_taker_gets_what_it_asked_for_and_one_that_asks_for_no_more_ends_by_budget() -> None:
    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks:
            taker = Taker(bus, pulls=3)
            with pytest.raises(BudgetSpent, match="had not been sent all of it") as caught, anyio.fail_after(3):
                await asks.ask(Store.echo, bytes(200_000))
            assert caught.value.taken == "no"
            await nothing_is_left(asks)
            await until(lambda: taker.numbers() == [1, 2, 3, 0])

    virtually(work())


def test_a_taker_that_falls_silent_or_goes_has_taken_nothing_and_it_is_sent_again() -> None:
    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks:
            silent = Taker(bus, pulls=3)
            asked = asyncio.ensure_future(asks.ask(Store.size, bytes(200_000)))
            await until(lambda: len(silent.numbers()) == 3)
            silent.dies()
            async with system("serves", bus) as serves:
                await serves.spawn(Store)
                assert await asked == 200_000
                assert await asks.ask(Store.count) == 1
            await nothing_is_left(asks)

    virtually(work())


def test_who_says_that_it_is_there_is_waited_for_although_it_asks_for_no_more_yet() -> None:
    """As one does whose turn it is not."""

    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks:
            taker = Taker(bus, pulls=2)
            asks.tell(Store.keep, bytes(100_000))
            await until(lambda: taker.numbers() == [] and len(taker.got) == 2)
            id, of = taker.got[0].envelope.id, taker.got[0].envelope.fragment[1]
            for _ in range(30):
                await asyncio.sleep(2)
                taker.pull(id, 2, of)
            taker.pull(id, 2**62, of)  # it gets what there is
            await until(lambda: len(taker.got) == of)
            await nothing_is_left(asks)
            assert [len(asks.dead_letters), len(taker.got)] == [0, of]

    virtually(work())


@pytest.mark.parametrize("room", [100_000, 200_000])
def test_who_has_all_of_a_request_gets_no_more_of_it_and_it_is_kept_for_who_waits_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(large, "KEPT", room)

    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks:
            taker = Taker(bus, pulls=2**31)
            asked = asyncio.ensure_future(asks.ask(Store.size, bytes(100_000)))
            await until(lambda: len(taker.got) == 7)
            [waiter] = waiting(asks)
            assert (waiter.message is None) is (room == 100_000), "the body is a little more than its argument"
            taker.pull(waiter.id, 7, 7)
            await bus.flush()
            asked.cancel()
            asks.ask_all(Store.each, bytes(100_000))
            await until(lambda: len(taker.got) == 14)
            taker.pull(taker.got[-1].envelope.id, 7, 7)
            await bus.flush()
            await nothing_is_left(asks)
            assert taker.numbers() == [1, 2, 3, 4, 5, 6, 7] * 2

    virtually(work())


def test_one_that_asks_for_more_and_does_not_say_who_it_is_gets_nothing_and_nor_does_another() -> None:
    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks:
            taker = Taker(bus, replica="", pulls=3)
            with pytest.raises(BudgetSpent):
                await asks.ask(Store.size, bytes(100_000))
            await nothing_is_left(asks)
            assert {*taker.numbers()} == {1}, "it is sent again, and never more than the first of it"

    virtually(work())


def test_of_those_that_broke_off_some_are_remembered() -> None:
    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks:
            taker = Taker(bus, pulls=1)
            for _ in range(1500):
                asks.tell(Store.keep, bytes(LIMIT))
            await until(lambda: len(taker.got) == 1500)
            await bus.flush()
            transfers(asks).clear()  # as the bus has it done when it is cut
            remembered: Any = asks.node.remote._requester
            assert len(remembered._large._broken) == 1024
            for message in (taker.got[0], taker.got[-1]):
                taker.pull(message.envelope.id, 2, 2)
            await until(lambda: len(taker.got) > 1500)
            await bus.flush()
            assert [m.envelope.id for m in taker.got[1500:]] == [taker.got[1499].envelope.id]

    virtually(work())


def test_what_leaves_at_once_is_bounded_and_no_time_is_lost_between() -> None:
    async def work() -> None:
        bus, loop = LocalBus(LIMIT), asyncio.get_running_loop()
        async with system("asks", bus) as asks:
            taker = Taker(bus, pulls=2**31)
            asks.tell(Store.keep, bytes(20 * BURST))
            began, before, most = loop.time(), 0, 0
            while not taker.got or len(taker.got) < taker.got[0].envelope.fragment[1]:
                await asyncio.sleep(0)
                most, before = max(most, len(taker.got) - before), len(taker.got)
            assert most <= BURST // LIMIT + 2
            assert loop.time() == began

    virtually(work())


def test_a_taker_under_a_name_that_nobody_can_have_harms_nobody_else() -> None:
    async def work() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        bus, name = LocalBus(LIMIT), "x" * 2000
        async with system("asks", bus) as asks:
            taker = Taker(bus, name, pulls=3)
            asked, answered = asks.ask(Store.size, bytes(100_000)), asks.ask(Store.make, 1)
            asks.tell(Store.keep, bytes(100_000))
            await until(lambda: len(taker.got) == 3)
            [id] = [message.envelope.id for message in taker.got if message.envelope.fragment == (1, 1)]
            part = Message(Envelope("reply", id, fragment=(1, 9), replica=name), bytes(2_000))
            bus.publish(taker.reply, part.to_bytes())
            with pytest.raises(Unavailable, match="1 of 9 fragments came, and then no more"):
                await answered
            with pytest.raises(BudgetSpent):
                await asked
            await nothing_is_left(asks)
            given_up = asyncio.ensure_future(asks.ask(Store.size, bytes(100_000)))
            taker.pulls = 0
            await until(lambda: len(taker.got) == 4)
            given_up.cancel()
            transfers(asks).clear()  # as the bus has it done when it is cut
            taker.pull(taker.got[-1].envelope.id, 2, 7)
            await bus.flush()
            assert (len(asks.dead_letters), problems) == (1, [])

    virtually(work())


def test_what_is_cut_off_in_the_middle_is_sent_again_to_who_has_a_part_of_it() -> None:
    """It was certainly not taken, so the requester repeats it: under its id, and the taker may not have been cut off."""

    async def work() -> None:
        async with two() as (asks, serves, _):
            asked = asyncio.ensure_future(asks.ask(Store.size, bytes(3_000_000)))
            await until(lambda: sent_of(asks) > 10, 0)
            transfers(asks).clear()  # as the bus has it done when it is cut
            assert len(transfers(serves)) == 1
            assert await asked == 3_000_000
            assert await asks.ask(Store.count) == 1
            await nothing_is_left(asks, serves)

    virtually(work())


def test_what_was_given_up_before_its_taker_asked_for_more_makes_room_there_as_soon_as_it_does() -> None:
    async def work() -> None:
        async with two() as (asks, serves, _):
            for _ in range(12):
                asks.tell(Store.keep, bytes(3_000_000))
            await until(lambda: len(transfers(serves)) == 12, 0)
            transfers(asks).clear()  # as the bus has it done when it is cut
            began = asyncio.get_running_loop().time()
            assert await asks.ask(Store.size, bytes(1_000_000)) == 1_000_000
            await nothing_is_left(asks, serves)
            assert asyncio.get_running_loop().time() - began < 5
            assert len(asks.dead_letters) == 12
            assert await asks.ask(Store.kept) == []

    virtually(work())


def test_who_dies_in_the_middle_of_much_does_not_keep_others_waiting() -> None:
    async def work() -> None:
        async with two() as (asks, serves, bus):
            dead = Asker(bus)
            for number in range(40):
                dead.say(f"d{number}", 1, 400, bytes(10_000), None)
            await until(lambda: len(transfers(serves)) == 40, 0)
            began = asyncio.get_running_loop().time()
            asked = [asks.ask(Store.size, bytes(3_000_000)) for _ in range(8)]
            assert await asyncio.gather(*asked) == [3_000_000] * 8
            assert asyncio.get_running_loop().time() - began < 5
            assert isinstance(await dead.error("d39"), Unavailable)
            await nothing_is_left(asks, serves)
            assert asyncio.get_running_loop().time() - began < 20

    virtually(work())


class Asker:
    """A program of somebody else that asks in fragments, and lies."""

    def __init__(self, bus: LocalBus) -> None:
        self.bus = bus
        self.inbox = Inbox()
        bus.subscribe(subjects.inbox_pattern(PLANE, "id-liar"), self.inbox)

    def say(self, id: str, number: int, of: int, body: bytes, replica: str | None, path: str = ADDRESS.path) -> None:
        address = Address(ADDRESS.host, path, replica=replica)
        subject = subjects.request_subject(PLANE, "liar.example", address)
        reply = subjects.reply_subject(PLANE, ADDRESS.host, "liar.example", "id-liar", id)
        message = Message(Envelope("ask", id, fragment=(number, of)), body)
        self.bus.publish(subject, message.to_bytes(), reply=reply)

    def answers(self, id: str) -> list[Message]:
        found = [message for one in self.inbox.got if one.data for message in messages_of(one.data)]
        return [message for message in found if message.envelope.id == id]

    async def error(self, id: str) -> MbactorError:
        await until(lambda: any(answer.envelope.op == "error" for answer in self.answers(id)), 0.05)
        [error] = [error_in(answer) for answer in self.answers(id) if answer.envelope.op == "error"]
        return error


def test_lies_are_answered_once_and_their_room_is_given_back() -> None:
    async def work() -> None:
        async with two(theirs=1_000_000) as (asks, serves, bus):
            liar, chunk = Asker(bus), bytes(2_000)
            transfers(serves)._in.bounds = Bounds(body=1_000_000, all=2_000_000, sender=1_000_000)
            [replica] = [cell.replica for cell in serves.node.served[ADDRESS.host].cells]
            liar.say("second-first", 2, 9, chunk, replica)
            assert "and the first is not here" in str(await liar.error("second-first"))
            for id, number, of, body in (
                ("other-n", 2, 8, chunk),
                ("other-length", 2, 9, bytes(1_999)),
                ("too-far", 10, 9, chunk),
            ):
                liar.say(id, 1, 9, chunk, None)
                liar.say(id, number, of, body, replica)
                error = await liar.error(id)
                assert isinstance(error, BadRequest)
                liar.say(id, 3, 9, chunk, replica)
            liar.say("small", 1, 1_000_000, b"x", None)
            assert isinstance(await liar.error("small"), BadRequest)
            liar.say("huge", 1, 1_000_000, chunk, None)
            assert isinstance(await liar.error("huge"), MessageTooLarge)
            liar.say("never-finished", 1, 400, chunk, None)
            await until(lambda: transfers(serves).held > 0)
            liar.say("no-room", 1, 400, chunk, None)
            assert (await liar.error("no-room")).status == 503
            assert await asks.ask(Store.size, bytes(400_000)) == 400_000, "one that lies takes the room of others"
            assert "1 of 400 fragments came, and then no more" in str(await liar.error("never-finished"))
            await nothing_is_left(serves)
            assert await asks.ask(Store.count) == 1

    virtually(work())


def test_a_fragment_without_a_reply_subject_of_its_source_is_a_dead_letter() -> None:
    async def work() -> None:
        async with two() as (_, serves, bus):
            subject = subjects.request_subject(PLANE, "liar.example", ADDRESS)
            theirs = subjects.reply_subject(PLANE, ADDRESS.host, "other.example", "id-other", "1")
            data = Message(Envelope("ask", "1", fragment=(1, 9)), bytes(2_000)).to_bytes()
            bus.publish(subject, data, reply=theirs)
            bus.publish(subject, data)
            await until(lambda: len(serves.dead_letters) == 2)
            assert len(transfers(serves)) == 0

    virtually(work())


def test_an_answer_is_given_to_who_asked_as_far_as_that_asks_and_given_up_when_it_does_not() -> None:
    async def work() -> None:
        async with two() as (_, serves, bus):
            asker = Asker(bus)
            [replica] = [cell.replica for cell in serves.node.served[ADDRESS.host].cells]
            asker.say("7", 1, 1, encode({"size": 100_000})[0], None, path="/make")
            await until(lambda: len(asker.answers("7")) == 1)
            first = asker.answers("7")[0].envelope
            assert (first.op, first.fragment[0], first.replica) == ("reply", 1, replica)

            def pull(source: str, number: int) -> None:
                subject = subjects.request_subject(PLANE, source, Address(ADDRESS.host, "/make", replica=replica))
                ack = Envelope("ack", "7", fragment=(number, first.fragment[1]), replica="id-liar")
                bus.publish(subject, Message(ack, b"").to_bytes())

            pull("other.example", 3)
            await bus.flush()
            assert len(asker.answers("7")) == 1
            pull("liar.example", 3)
            await until(lambda: len(asker.answers("7")) == 3)
            await nothing_is_left(serves)
            assert len(asker.answers("7")) == 3

    virtually(work())


@pytest.mark.parametrize("begun", [False, True])
def test_who_ends_does_not_wait_for_who_has_not_begun_to_take_its_answer_for_long(*, begun: bool) -> None:
    """It waits for one that has, which may stand still for a moment."""

    async def work() -> None:
        async with two() as (_, serves, bus):
            asker, loop = Asker(bus), asyncio.get_running_loop()
            [cell] = serves.node.served[ADDRESS.host].cells
            body, content_type = encode({"size": 500_000})
            asked = Message(Envelope("ask", "1", 20.0, content_type=content_type), body)
            reply = subjects.reply_subject(PLANE, ADDRESS.host, "liar.example", "id-liar", "1")
            address = Address(ADDRESS.host, "/make")
            bus.publish(subjects.request_subject(PLANE, "liar.example", address), asked.to_bytes(), reply=reply)
            await until(lambda: len(asker.answers("1")) == 1, 0.01)
            if begun:
                [first] = asker.answers("1")
                ack = Envelope("ack", "1", fragment=(3, first.envelope.fragment[1]), replica="id-liar")
                own = subjects.request_subject(
                    PLANE, "liar.example", Address(ADDRESS.host, "/make", replica=cell.replica)
                )
                bus.publish(own, Message(ack, b"").to_bytes())
                await until(lambda: len(asker.answers("1")) == 3, 0.01)
            await asyncio.sleep(2.5 * SWEEP)
            began = loop.time()
            await serves.stop()
            assert (loop.time() - began > 1) is begun

    virtually(work())


def test_a_request_to_all_goes_in_full_to_each_that_takes_it() -> None:
    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("asks", bus) as asks, system("one", bus) as one, system("two", bus) as other:
            for serves in (one, other):
                await serves.spawn(Store)
            sizes = [reply.result() async for reply in asks.ask_all(Store.each, bytes(300_000))]
            assert sizes == [300_000, 300_000]
            made = [len(reply.result()) async for reply in asks.ask_all(Store.make_each, 300_000)]
            assert made == [300_000, 300_000]
            await nothing_is_left(asks, one, other)

    virtually(work())


def test_an_event_goes_in_full_to_one_of_each_queue_and_to_every_replica_where_that_is_declared() -> None:
    async def work() -> None:
        bus = LocalBus(LIMIT)
        async with system("tells", bus) as tells, system("one", bus) as one, system("two", bus) as two:
            readers = [await each.spawn(Reader) for each in (one, two)]
            listeners = [await each.spawn(Listener) for each in (one, two)]
            news = [os.urandom(size) for size in (1, LIMIT - 50, LIMIT, 300_000, 1_000_000)]
            began = asyncio.get_running_loop().time()
            assert all(tells.publish(Source.on_news, one) for one in news)
            await nothing_is_left(tells, one, two)
            await until(lambda: not waiting(tells), 0.05)
            assert asyncio.get_running_loop().time() - began < 15, "what was sent is not kept for longer"
            for listener in listeners:
                assert sorted(await listener.ask(Listener.have_read)) == sorted(news)
            read = [await reader.ask(Reader.have_read) for reader in readers]
            assert sorted(read[0] + read[1]) == sorted(news)
            assert not tells.dead_letters

    virtually(work())


def test_an_event_is_given_up_where_nobody_sinks_it_and_told_where_a_sink_cannot_take_it() -> None:
    async def work() -> None:
        async with two(theirs=100_000) as (tells, serves, _):
            assert tells.publish(Source.on_news, bytes(200_000))
            await until(lambda: len(transfers(tells)) == 0)
            assert not tells.dead_letters
            reader = await serves.spawn(Reader)
            assert tells.publish(Source.on_news, bytes(200_000))
            await until(lambda: len(tells.dead_letters) == 1)
            [letter] = tells.dead_letters
            assert (letter.method, letter.arguments) == ("on_news", {"data": bytes(200_000)})
            assert "at most 100000 (its setting max_body)" in letter.reason
            assert tells.publish(Source.on_news, bytes(90_000))
            await nothing_is_left(tells, serves)
            assert await reader.ask(Reader.have_read) == [bytes(90_000)]

    virtually(work())


def test_events_on_their_way_are_kept_within_a_bound_and_for_seconds() -> None:
    """What one receiver would have room for, however many there are."""

    async def work() -> None:
        async with two() as (tells, _, bus):
            transfers(tells)._in.bounds = Bounds(sender=1_000_000)
            seen = Inbox()
            bus.subscribe(subjects.endpoint_pattern(PLANE, Address("source.example", "/on-news", port=417)), seen)
            assert [tells.publish(Source.on_news, bytes(300_000)) for _ in range(4)] == [True, True, True, False]
            [letter] = tells.dead_letters
            assert "900033 bytes are leaving, and 1000000 may; send again after a pause" in letter.reason
            with pytest.raises(MessageTooLarge):
                tells.publish(Source.on_news, bytes(2**30 + 1))
            began = asyncio.get_running_loop().time()
            await nothing_is_left(tells)
            assert asyncio.get_running_loop().time() - began < 15
            assert tells.publish(Source.on_news, bytes(300_000))
            assert len(await seen.until(4)) == 4

    virtually(work())


# --- over NATS, and in processes of their own -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that carries little at once."""
    with nats_server(tmp_path_factory.mktemp("nats"), "max_payload: 65536") as running:
        yield running


@contextmanager
def process(*args: str) -> Iterator[subprocess.Popen[str]]:
    """One of `large_parts.py`, once it says that it is ready."""
    command = [sys.executable, "-m", "tests.transport.large_parts", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        try:
            assert running.stdout
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def test_what_a_broker_does_not_take_waits_where_it_is_and_leaves_when_it_does(tmp_path: Path) -> None:
    async def work(server: NatsServer) -> None:
        bus = NatsBus(server.url)
        await bus.connect()
        async with system("asks", server.url) as asks:
            taker = Taker(bus, pulls=2**31)
            await bus.flush()
            asks.tell(Store.keep, bytes(50_000_000))
            await until(lambda: sent_of(asks) > 3, 0)
            server.pause()
            waits = asks.node.remote.bus.waiting
            await until(lambda: waits() >= FULL, 0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert waits() < FULL + BURST + CHUNK
            assert isinstance(transfers(asks)._pumps, asyncio.TimerHandle), "no turn is spent on it meanwhile"
            server.resume()
            await until(lambda: len(taker.got) == taker.got[0].envelope.fragment[1])
            await nothing_is_left(asks)
        await bus.close()

    with nats_server(tmp_path) as server:
        asyncio.run(work(server))


def test_bodies_cross_a_broker_that_carries_less(small: NatsServer) -> None:
    async def work() -> None:
        async with system("asks", small.url) as asks, system("serves", small.url) as serves:
            await serves.spawn(Store)
            await serves.node.remote.flush()
            bodies = [os.urandom(size) for size in (65_000, 65_536, 300_000, 3_000_000, 10_000_000)]
            small_ones = [asks.ask(Store.size, b"x") for _ in range(100)]
            large_ones = [asks.ask(Store.echo, body) for body in bodies]
            asks.tell(Store.keep, bytes(500_000))
            assert await asyncio.gather(*small_ones) == [1] * 100
            assert await asyncio.gather(*large_ones) == bodies
            await nothing_is_left(asks, serves)
            assert await asks.ask(Store.kept) == [500_000]

    asyncio.run(work())


@pytest.mark.parametrize("body", [5_000, 20_000, 60_000])
def test_bodies_cross_a_broker_that_has_come_to_carry_less(tmp_path: Path, body: int) -> None:
    """What left in one message before has to go in fragments, also what would have travelled with others."""

    async def work(server: NatsServer) -> None:
        async with system("asks", server.url) as asks, system("serves", server.url) as serves:
            await serves.spawn(Store)
            await serves.node.remote.flush()
            asked = bytes(body)
            assert await asks.ask(Store.echo, asked) == asked
            server.kill()
            server.write("max_payload: 4096")
            server.start()
            buses = [asks.node.remote.bus, serves.node.remote.bus]
            await until(lambda: all(bus.unready() is None and bus.max_payload == 4096 for bus in buses))
            await serves.node.remote.flush()
            asks.tell(Store.keep, asked)
            some = [asks.ask(Store.echo, asked) for _ in range(20)]
            few = [asks.ask(Store.echo, b"x" * 500) for _ in range(50)]
            assert await asyncio.gather(*some) == [asked] * 20
            assert await asyncio.gather(*few) == [b"x" * 500] * 50
            assert (await asks.ask(Store.kept), len(asks.dead_letters)) == ([body], 0)
            await nothing_is_left(asks, serves)

    with nats_server(tmp_path) as server:
        asyncio.run(work(server))


def test_a_limit_that_the_server_changes_holds_for_what_leaves_from_then_on(tmp_path: Path) -> None:
    async def work(server: NatsServer, between: Proxy) -> None:
        async with system("asks", between.url) as asks, system("serves", server.url) as serves:
            bus, seen, asked = asks.node.remote.bus, Inbox(), bytes(60_000)

            async def limit(size: int) -> None:
                await asks.node.remote.flush()
                between.say(b'INFO {"max_payload":%d}\r\n' % size)
                await until(lambda: bus.max_payload == size)
                seen.got.clear()

            taker = Taker(serves.node.remote.bus)
            await serves.node.remote.flush()
            begun = asyncio.ensure_future(asks.ask(Store.echo, bytes(2_000_000)))
            await until(lambda: sent_of(asks) == 1 and len(transfers(asks)) == 1 and len(taker.got) == 1)
            await limit(4096)
            taker.pull(taker.got[0].envelope.id, 2, taker.got[0].envelope.fragment[1])
            with pytest.raises(MessageTooLarge) as caught:
                await begun  # it is cut to larger pieces already
            assert caught.value.taken == "no"
            await nothing_is_left(asks)
            taker.dies()
            await serves.spawn(Store)
            serves.node.remote.bus.subscribe(f"{PLANE}.safe.>", seen)
            await serves.node.remote.flush()
            assert await asyncio.gather(*(asks.ask(Store.size, asked) for _ in range(20))) == [60_000] * 20
            few = [asks.ask(Store.size, b"x" * 500) for _ in range(50)]
            assert await asyncio.gather(*few) == [500] * 50
            assert max(len(one.data) for one in seen.got) <= 4096
            await limit(1024 * 1024)
            assert await asks.ask(Store.size, asked) == 60_000
            assert [len(one.data) > 60_000 for one in seen.got] == [True]

    with nats_server(tmp_path) as server, proxy(server.port) as between:
        asyncio.run(work(server, between))


def test_an_event_crosses_a_broker_that_carries_less(small: NatsServer) -> None:
    async def work() -> None:
        async with (
            system("tells", small.url) as tells,
            system("one", small.url) as one,
            system("two", small.url) as two,
        ):
            listeners = [await each.spawn(Listener) for each in (one, two)]
            for each in (one, two):
                await each.node.remote.flush()
            news = [os.urandom(size) for size in (65_000, 65_536, 3_000_000)]
            for some in news:
                assert tells.publish(Source.on_news, some)
            async with asyncio.timeout(60):
                for listener in listeners:
                    while len(read := await listener.ask(Listener.have_read)) < len(news):
                        await asyncio.sleep(0.01)
                    assert sorted(read) == sorted(news)

    asyncio.run(work())


@pytest.mark.parametrize(("settings", "size"), [("max_payload: 65536", 30_000_000), ("", 100_000_000)])
def test_100_mb_there_and_back_need_no_more_than_three_times_that(tmp_path: Path, settings: str, size: int) -> None:
    with nats_server(tmp_path, settings) as server, process("serve", server.url):
        command = [sys.executable, "-m", "tests.transport.large_parts", "ask", server.url, str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
        word, asker, taker = done.stdout.split()
    assert word == "peak"
    assert float(asker) < 2.6  # it keeps nothing of the request any more when the answer comes
    assert float(taker) < 3


def test_a_taker_that_is_killed_has_not_taken_it_and_one_that_stands_still_takes_it_later(small: NatsServer) -> None:
    async def work(taker: subprocess.Popen[str]) -> None:
        async with system("asks", small.url) as asks:
            asked = asyncio.ensure_future(asks.ask(Store.size, bytes(20_000_000)))
            await until(lambda: sent_of(asks) > 20, 0)
            pause(taker.pid)
            sent = sent_of(asks)
            await until(lambda: sent_of(asks) == asked_of(asks), 0)
            assert 0 < sent_of(asks) <= sent + 40, "more is on its way than was asked for"
            os.kill(taker.pid, signal.SIGCONT)
            assert await asked == 20_000_000
            asked = asyncio.ensure_future(asks.ask(Store.size, bytes(20_000_000)))
            await until(lambda: sent_of(asks) > 20, 0)
            taker.kill()
            began = time.monotonic()
            with pytest.raises((Unavailable, NoSuchActor)) as caught:  # sent again, it finds nobody
                await asked
            assert caught.value.taken == "no"
            assert time.monotonic() - began < 15
            await nothing_is_left(asks)

    with process("serve", small.url) as taker:
        asyncio.run(work(taker))


def test_that_a_taker_is_gone_is_no_death_for_what_it_had_not_taken(small: NatsServer) -> None:
    """A fragment finds nobody, and so does the look after who has acknowledged the first, which was on its way by then."""

    async def work() -> None:
        bus, loop = NatsBus(small.url), asyncio.get_running_loop()
        await bus.connect()
        requester: Any = Requester(bus, "p", "node")
        await requester.open()
        first = Inbox()
        taker = bus.subscribe("p.safe.443.*.far_example._.post.x", first)
        message = Message(Envelope("ask", requester.new_id()), bytes(3 * bus.max_payload))
        asked = requester.request("me", Address("far.example", "/x"), message, loop.time() + 60, lambda one: one)
        [delivery] = await first.until(1)
        taker.unsubscribe()
        await bus.flush()
        [begun] = messages_of(delivery.data)
        publish = bus.publish

        def publish_and_look(subject: str, data: bytes, *, reply: str | None = None) -> None:
            publish(subject, data, reply=reply)
            if ".r1." in subject and not looked:
                looked.append(subject)
                loop.call_soon(requester._probe_holders)  # before it is read what the server says of the fragment

        looked: list[str] = []
        ack = Envelope("ack", begun.envelope.id, fragment=(2, begun.envelope.fragment[1]), replica="r1")
        publish(delivery.reply or "", Message(ack, b"").to_bytes())
        bus.publish = publish_and_look  # type: ignore[method-assign]
        with pytest.raises((Unavailable, NoSuchActor)) as caught:
            await asked
        assert looked
        assert caught.value.taken == "no"
        requester.close()
        await bus.close()

    asyncio.run(work())


def sent_of(asks: ActorSystem) -> int:
    """Fragments that have left of the one request."""
    return sum(transfer.sent for transfer in transfers(asks)._out.values())


def asked_of(asks: ActorSystem) -> int:
    """Fragments of it that its receiver has asked for."""
    return sum(transfer.pulled for transfer in transfers(asks)._out.values())


def test_a_broker_that_dies_in_the_middle_ends_it_at_once(tmp_path: Path) -> None:
    async def work(server: NatsServer) -> None:
        async with system("asks", server.url) as asks, system("serves", server.url) as serves:
            await serves.spawn(Store)
            await serves.node.remote.flush()
            asked = asyncio.ensure_future(asks.ask(Store.size, bytes(50_000_000)))
            await until(lambda: sent_of(asks) > 10, 0)
            server.kill()
            with pytest.raises((Unavailable, NotAcknowledged)):
                await asyncio.wait_for(asked, 60)
            await nothing_is_left(asks, serves)

    with nats_server(tmp_path) as server:
        asyncio.run(work(server))
