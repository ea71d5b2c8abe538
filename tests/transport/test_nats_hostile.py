"""What others put on the broker harms nobody but themselves: bytes that are none of ours, answers in another's name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem, child, endpoint
from mbactor.errors import (
    ActorCrashed,
    ActorRestarting,
    BadRequest,
    BudgetSpent,
    Forbidden,
    MailboxFull,
    MbactorError,
    Unavailable,
    to_wire,
)
from mbactor.transport import Address, Delivery, Envelope, Message, Requester, messages_of, payload_of
from mbactor.transport.message import JSON
from mbactor.transport.nats import NatsBus
from mbactor.transport.outbox import MOST
from tests.loops import run
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox
from tests.transport.test_nats import connected

FAR = Address("far.example", "/work")
ASKED = "p.safe.443.*.far_example._.post.work"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@dataclass
class Odd:
    """Can be sent, and not be made where it arrives."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise KeyError(self.number)


class Echo(Actor):
    host = "echo.example"

    @endpoint(queue="every")
    async def give(self) -> Odd:
        odd = Odd(1)
        odd.number = -1
        return odd

    @endpoint
    async def take(self, odd: Odd) -> None: ...

    @endpoint
    async def echo(self, text: str) -> str:
        return text


async def raw(server: NatsServer, *commands: bytes) -> None:
    """Send them as they are, as no library would; returns when the server has taken them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + b"".join(commands) + b"PING\r\n")
    while (line := await reader.readline()) != b"PONG\r\n":
        assert line.startswith(b"INFO"), line
    writer.close()


def pub(subject: bytes, reply: bytes, message: Message) -> bytes:
    data = message.to_bytes()
    return b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(data), data)


def echo(id: str) -> Message:
    return Message(Envelope("ask", id, 5.0, content_type=JSON), b'{"text": "hi"}')


def test_subjects_that_are_no_text_are_not_heard_and_the_connection_stays(server: NatsServer) -> None:
    async def work() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with ActorSystem(transport=server.url) as system:
            await system.spawn(child(Echo, id="echo"))
            bus = await connected(server.url)
            inbox = Inbox()
            bus.subscribe("mbactor.reply._.*.raw.good.*", inbox)
            await bus.flush()
            await system.node.remote.flush()
            cuts: list[None] = []
            system.node.remote.bus.when_cut(lambda: cuts.append(None))
            to = b"mbactor.safe.443.%s.echo_example._.post.echo"
            back = b"mbactor.reply._.echo_example.raw.%s.1"
            await raw(
                server,
                pub(to % b"\xff\xfe", back % b"good", echo("1")),
                pub(to % b"raw", b"a.\xff", echo("2")),
                pub(to % b"raw", back % b"bad\x01", echo("3")),  # text, and no subject for all that
                pub(to % b"raw", back % b"bad\xc2\xa0", echo("4")),
                pub(to % b"raw", back % b"good", echo("5")),
            )
            [answer] = messages_of((await inbox.until(1))[0].data)
            assert (answer.envelope.op, answer.envelope.id) == ("reply", "5")
            await bus.close()
        assert (problems, cuts) == ([], [])

    run(work())


class Asker:
    """Asks a host that a bus of the test's own answers for."""

    def __init__(self, bus: NatsBus, requester: Requester, asked: Inbox) -> None:
        self.bus = bus
        self.requester = requester
        self.asked = asked

    def ask(self, seconds: float = 20.0, address: Address = FAR) -> asyncio.Future[bytes]:
        deadline = asyncio.get_running_loop().time() + seconds
        message = Message(Envelope("ask", self.requester.new_id(), seconds), b"")
        return self.requester.request("ada.example", address, message, deadline, lambda answer: answer.body)


def asking(server: NatsServer, work: Callable[[Asker], Any], window: float = 1.0, locality: str = "") -> None:
    async def all() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        bus, asking = await connected(server.url), await connected(server.url)
        asked = Inbox()
        bus.subscribe(ASKED, asked, queue="far")
        await bus.flush()
        requester = Requester(asking, "p", "node", window, locality=locality)
        await requester.open()
        try:
            await work(Asker(bus, requester, asked))
        finally:  # or it takes its share of what the next test sends
            requester.close()
            await asking.close()
            await bus.close()
        assert problems == []

    run(all())


def said(op: Any, id: str, body: bytes = b"", replica: str = "id-far") -> Message:
    return Message(Envelope(op, id, content_type=JSON, replica=replica), body)


def error(id: str, told: Any) -> Message:
    return said("error", id, json.dumps(told).encode())


def test_an_error_that_is_none_is_told_its_asker_and_harms_no_other_in_the_payload(server: NatsServer) -> None:
    bad = [
        {"type": [1]},
        {"type": 5, "statusCode": "x", "fields": 5},
        {"error": {}, "taken": ["no"]},
        {"type": "mbactor.errors:MbactorError", "fields": [1]},
    ]

    async def work(asker: Asker) -> None:
        asks = [asker.ask() for _ in range(len(bad) + 2)]
        [request] = await asker.asked.until(1)
        ids = [message.envelope.id for message in messages_of(request.data)]
        seconds = {"type": "mbactor.errors:ActorRestarting", "taken": "no", "fields": {"seconds": "soon"}}
        told = [error(id, told).part() for id, told in zip(ids, [*bad, seconds], strict=False)]
        asker.bus.publish(request.reply or "", payload_of([*told, said("reply", ids[-1], b"good").part()]))
        for ask in asks[: len(bad)]:
            with pytest.raises(MbactorError, match="an error was answered that cannot be read: Expected") as spoilt:
                await ask
            assert spoilt.value.status == 500
        assert await asks[-1] == b"good"
        again = (await asker.asked.until(2))[1]  # seconds that are no number are not believed
        asker.bus.publish(again.reply or "", said("reply", ids[-2], b"later").to_bytes())
        assert await asks[-2] == b"later"

    asking(server, work)


def test_who_acknowledges_under_a_name_that_nobody_can_have_keeps_no_deadline_from_its_end(server: NatsServer) -> None:
    async def work(asker: Asker) -> None:
        asks = [asker.ask(seconds) for seconds in (0.4, 0.5)]
        [request] = await asker.asked.until(1)
        for message in messages_of(request.data):
            ack = said("ack", message.envelope.id, replica="x" * 2000)
            asker.bus.publish(request.reply or "", ack.to_bytes())
        with anyio.fail_after(60):
            for ask in asks:
                with pytest.raises(BudgetSpent) as spent:
                    await ask
                assert spent.value.taken == "yes"

    asking(server, work, window=0.1)


def test_nobody_answers_for_another_host(server: NatsServer) -> None:
    """The broker lets who answers publish to replies under its own name only, and knows nothing of the ids within."""

    async def work(asker: Asker) -> None:
        ask = asker.ask()
        [request] = await asker.asked.until(1)
        [message] = messages_of(request.data)
        id, reply = message.envelope.id, request.reply or ""
        forged = reply.replace("far_example", "eve_example")
        for op in ("reply", "ack"):
            asker.bus.publish(forged, said(op, id, b"forged").to_bytes())
        asker.bus.publish(forged, error(id, to_wire(ActorCrashed("forged"))).to_bytes())
        asker.bus.publish(forged, b"no message")
        nobody = b"NATS/1.0 503\r\n\r\n"
        await asker.bus.flush()
        await raw(server, b"HPUB %s %d %d\r\n%s\r\n" % (forged.encode(), len(nobody), len(nobody), nobody))
        asker.bus.publish(reply, said("reply", id, b"true").to_bytes())
        assert await ask == b"true"

    asking(server, work)


def test_what_is_told_of_one_that_was_sent_again_is_not_told_of_those_it_travelled_with(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbactor.transport.repeats.PAUSE", 0.0)

    async def work(asker: Asker) -> None:
        first = [asker.ask(), asker.ask()]
        [request] = await asker.asked.until(1)
        for id in "12":
            asker.bus.publish(request.reply or "", said("reply", id, replica="id-gone").to_bytes())
        await asyncio.gather(*first)
        full, taken = asker.ask(), asker.ask()
        request = (await asker.asked.until(2))[1]
        ids = [message.envelope.id for message in messages_of(request.data)]
        refused = error(ids[0], to_wire(MailboxFull("far", 1)))
        asker.bus.publish(request.reply or "", refused.to_bytes())
        # It is sent to the other replica that is known, which is not there any more, and then to any.
        again: Delivery = (await asker.asked.until(3))[2]
        for _ in range(6):  # until whatever else was told would have been asked and sent again, too
            await asker.requester._bus.flush()
        assert [message.envelope.id for message in messages_of(again.data)] == ids[:1]
        for id in ids:
            asker.bus.publish(again.reply or "", said("reply", id, id.encode(), replica="").to_bytes())
        assert [await full, await taken] == [id.encode() for id in ids]
        assert len(asker.asked.got) == 3
        # Nobody else is known any more to send it to.
        full = asker.ask()
        request = (await asker.asked.until(4))[3]
        [message] = messages_of(request.data)
        refused = error(message.envelope.id, to_wire(MailboxFull("far", 1)))
        asker.bus.publish(request.reply or "", refused.to_bytes())
        with pytest.raises(MailboxFull):
            await full
        assert len(asker.asked.got) == 4

    asking(server, work)


def test_a_type_that_cannot_be_made_is_told_its_asker_on_either_side(server: NatsServer) -> None:
    async def work() -> None:
        async with ActorSystem(transport=server.url) as echoes, ActorSystem(transport=server.url) as system:
            await echoes.spawn(Echo)
            await echoes.node.remote.flush()
            odd = Odd(1)
            odd.number = -1
            with pytest.raises(BadRequest, match="no value can be made of the body: KeyError"):
                await system.ask(Echo.take, odd)
            with pytest.raises(MbactorError, match="no value can be made of the body: KeyError"):
                await system.ask(Echo.give)
            [reply] = [reply async for reply in system.ask_all(Echo.give)]
            assert "no value can be made of the body: KeyError" in str(reply.error)
            assert await system.ask(Echo.echo, "hi") == "hi"

    run(work())


def test_that_the_other_replica_is_gone_does_not_mean_that_nobody_is_there(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no time is left to wait until a new subscription is known."""
    monkeypatch.setattr("mbactor.transport.repeats.PAUSE", 3600.0)

    async def work(asker: Asker) -> None:
        first = asker.ask()
        [request] = await asker.asked.until(1)
        asker.bus.publish(request.reply or "", said("reply", "1", replica="id-gone").to_bytes())
        await first
        ask = asker.ask(120.0)
        request = (await asker.asked.until(2))[1]
        asker.bus.publish(request.reply or "", error("2", to_wire(MailboxFull("far", 1))).to_bytes())
        request = (await asker.asked.until(3))[2]
        asker.bus.publish(request.reply or "", said("reply", "2").to_bytes())
        await ask

    asking(server, work)


def test_what_one_replica_cannot_take_is_sent_to_another_that_is_known_and_to_nobody_else(server: NatsServer) -> None:
    async def work(asker: Asker) -> None:
        others = Inbox()
        asker.bus.subscribe("p.*.*.*.far_example.id-other.>", others)
        await asker.bus.flush()
        first = asker.ask()
        [request] = await asker.asked.until(1)
        asker.bus.publish(request.reply or "", said("reply", "1", replica="id-other").to_bytes())
        await first
        for n in range(10):
            ask = asker.ask()
            request = (await asker.asked.until(n + 2))[-1]
            [message] = messages_of(request.data)
            refused = error(message.envelope.id, to_wire(MailboxFull("far", 1)))
            asker.bus.publish(request.reply or "", refused.to_bytes())
            again = (await others.until(n + 1))[-1]
            answer = said("reply", message.envelope.id, b"other", replica="id-other")
            asker.bus.publish(again.reply or "", answer.to_bytes())
            assert await ask == b"other"

    asking(server, work)


def test_one_that_says_for_how_long_it_is_away_is_not_asked_before(server: NatsServer) -> None:
    async def work(asker: Asker) -> None:
        ask, loop = asker.ask(), asyncio.get_running_loop()
        [request] = await asker.asked.until(1)
        began = loop.time()
        asker.bus.publish(request.reply or "", error("1", to_wire(ActorRestarting("far", 1.0))).to_bytes())
        again = (await asker.asked.until(2))[1]
        assert loop.time() - began >= 1.0
        asker.bus.publish(again.reply or "", said("reply", "1", b"back").to_bytes())
        assert await ask == b"back"

    asking(server, work)


def test_one_that_rests_until_it_is_sent_again_is_with_nobody_whatever_is_said_meanwhile(server: NatsServer) -> None:
    """Its window is not over, what its connection had on its way is not lost with that, and another answer is none."""

    async def work(asker: Asker) -> None:
        bus, back = asker.requester._bus, asyncio.Event()
        assert isinstance(bus, NatsBus)
        bus.when_back(back.set)
        ask = asker.ask()
        [request] = await asker.asked.until(1)
        reply = request.reply or ""
        asker.bus.publish(reply, error("1", to_wire(ActorRestarting("far", 2.0))).to_bytes())
        asker.bus.publish(reply, error("1", to_wire(ActorCrashed("twice"))).to_bytes())
        await asker.bus.flush()
        await bus.flush()
        bus._client._transport.abort()  # type: ignore[union-attr]
        await back.wait()
        again = (await asker.asked.until(2))[1]
        asker.bus.publish(again.reply or "", said("reply", "1", b"back").to_bytes())
        assert await ask == b"back"

        ask = asker.ask()
        request = (await asker.asked.until(3))[2]
        asker.bus.publish(request.reply or "", said("ack", "2").to_bytes())
        asker.bus.publish(request.reply or "", error("2", to_wire(ActorRestarting("far", 5.0))).to_bytes())
        await asker.bus.flush()
        await bus.flush()
        asker.requester.close()
        with pytest.raises(MbactorError, match="the system was stopped") as stopped:
            await ask
        assert stopped.value.taken == "no"

    asking(server, work, window=0.2)


def large(asker: Asker) -> asyncio.Future[bytes]:
    deadline = asyncio.get_running_loop().time() + 20
    message = Message(Envelope("ask", asker.requester.new_id(), 20.0), bytes(3_000_000))
    return asker.requester.request("ada.example", FAR, message, deadline, lambda answer: answer.body)


def first_of(request: Delivery) -> Envelope:
    [message] = messages_of(request.data)
    assert message.envelope.fragment[0] == 1
    return message.envelope


def pulls(request: Delivery, number: int) -> Message:
    first = first_of(request)
    return Message(Envelope("ack", first.id, fragment=(number, first.fragment[1]), replica="id-far"), b"")


def test_each_fragment_that_finds_nobody_is_of_the_same_request_which_is_sent_again_once_for_all(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbactor.transport.repeats.STEP", 0.01)

    async def work(asker: Asker) -> None:
        ask = large(asker)
        for times in range(1, 5):
            request = (await asker.asked.until(times))[-1]
            asker.bus.publish(request.reply or "", pulls(request, 6).to_bytes())  # and it is not there
        with pytest.raises(Unavailable, match="whoever took the message is gone") as caught:
            await ask
        assert caught.value.taken == "no"
        await asker.bus.flush()
        assert len(asker.asked.got) == 4

    asking(server, work)


def test_one_that_says_in_the_middle_that_it_is_away_gets_all_of_it_anew_when_it_is_back(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbactor.transport.repeats.STEP", 0.01)

    async def work(asker: Asker) -> None:
        rest = Inbox()
        asker.bus.subscribe("p.*.*.*.far_example.id-far.>", rest)
        await asker.bus.flush()
        ask = large(asker)
        [request] = await asker.asked.until(1)
        asker.bus.publish(request.reply or "", pulls(request, 4).to_bytes())
        await rest.until(3)
        away = error(first_of(request).id, to_wire(ActorRestarting("far", 0.0)))
        asker.bus.publish(request.reply or "", away.to_bytes())
        request = (await asker.asked.until(2))[1]
        of = first_of(request).fragment[1]
        asker.bus.publish(request.reply or "", pulls(request, of).to_bytes())
        numbers = [messages_of(one.data)[0].envelope.fragment[0] for one in await rest.until(3 + of - 1)]
        assert numbers == [2, 3, 4, *range(2, of + 1)]
        asker.bus.publish(request.reply or "", said("reply", first_of(request).id, b"all").to_bytes())
        assert await ask == b"all"

    asking(server, work)


def test_an_answer_of_which_the_first_part_is_here_may_take_longer_than_the_window(server: NatsServer) -> None:
    async def work(asker: Asker) -> None:
        ask, probed = asker.ask(), Inbox()
        asker.bus.subscribe("p.*.*.*.far_example.id-far.>", probed)
        [request] = await asker.asked.until(1)

        def part(number: int) -> bytes:
            return Message(Envelope("reply", "1", fragment=(number, 2), replica="id-far"), bytes(2_000)).to_bytes()

        asker.bus.publish(request.reply or "", part(1))
        await probed.until(8)  # twice a window
        asker.bus.publish(request.reply or "", part(2))
        assert await ask == bytes(4_000)

    asking(server, work, window=0.2)


def test_who_may_not_send_the_rest_of_a_request_is_told_so_and_not_that_its_taker_is_gone(tmp_path: Path) -> None:
    may = 'publish: ["p.reply.>", "p.safe.443.ada_example.far_example._.>"]'
    users = f"authorization {{ users: [{{user: a, password: b}}, {{user: c, password: d, permissions: {{{may}}}}}] }}"

    async def work(server: NatsServer) -> None:
        bus = await connected(server.url.replace("//", "//a:b@"))
        mine = await connected(server.url.replace("//", "//c:d@"))
        asked = Inbox()
        bus.subscribe(ASKED, asked, queue="far")
        await bus.flush()
        requester = Requester(mine, "p", "node")
        await requester.open()
        ask = large(Asker(bus, requester, asked))
        [request] = await asked.until(1)
        bus.publish(request.reply or "", pulls(request, 6).to_bytes())
        with pytest.raises(Forbidden, match="the broker does not let this node ask it"):
            await ask
        requester.close()
        await mine.close()
        await bus.close()

    with nats_server(tmp_path, users) as server:
        run(work(server))


def test_however_many_wait_there_is_one_inbox_and_one_timer_and_no_two_have_a_reply_subject_in_common(
    server: NatsServer,
) -> None:
    async def work(asker: Asker) -> None:
        loop: Any = asyncio.get_running_loop()
        client: Any = asker.requester._bus
        client = client._client

        def timers() -> int:
            return sum(not one.cancelled() for one in loop._scheduled)

        asks = [asker.ask()]
        timers_before, subscriptions = timers(), len(client.subscribed())
        for n in range(999):
            asks.append(asker.ask(20.0 + (n * 7) % 100 / 10))
            if n % 10 == 0:
                await asyncio.sleep(0)
        assert (timers() - timers_before, len(client.subscribed()) - subscriptions) == (0, 0)
        async with asyncio.timeout(60):
            while sum(len(messages_of(one.data)) for one in asker.asked.got) < len(asks):
                await asyncio.sleep(0.001)
        replies = {one.reply for one in asker.asked.got}
        assert len(replies) == len(asker.asked.got) > 10
        ids = {message.envelope.id for one in asker.asked.got for message in messages_of(one.data)}
        assert len(ids) == len(asks)
        for one in asks:
            one.cancel()

    asking(server, work)


def test_what_travelled_together_is_remembered_for_two_windows_and_not_longer(server: NatsServer) -> None:
    async def work(asker: Asker) -> None:
        asks = [asker.ask() for _ in range(5)]
        [request] = await asker.asked.until(1)
        together: Any = asker.requester._together
        assert together._young
        for message in messages_of(request.data):
            asker.bus.publish(request.reply or "", said("ack", message.envelope.id, replica="").to_bytes())
        async with asyncio.timeout(60):
            while together._young or together._old:
                await asyncio.sleep(0.001)
        for one in asks:
            one.cancel()

    asking(server, work, window=0.1)


def test_the_more_replicas_are_known_the_fewer_messages_travel_together(server: NatsServer) -> None:
    async def work(asker: Asker) -> None:
        for known, most in ((0, MOST), (1, MOST), (4, MOST // 4), (16, 8)):
            for n in range(known):
                ask = asker.ask()
                request = (await asker.asked.until(len(asker.asked.got) + 1))[-1]
                [message] = messages_of(request.data)
                answer = said("reply", message.envelope.id, replica=f"id-{n}")
                asker.bus.publish(request.reply or "", answer.to_bytes())
                await ask
            before, asks = len(asker.asked.got), [asker.ask() for _ in range(MOST + 1)]
            payloads: list[int] = []
            async with asyncio.timeout(60):
                while sum(payloads) < len(asks):
                    await asyncio.sleep(0.001)
                    payloads = [len(messages_of(one.data)) for one in asker.asked.got[before:]]
            assert max(payloads) == most, (known, payloads)
            for one in asks:
                one.cancel()

    asking(server, work)


def test_an_ask_that_is_called_off_is_cancelled_where_it_may_be_and_where_it_turns_out_to_be(
    server: NatsServer,
) -> None:
    async def work(asker: Asker) -> None:
        far, eve = Inbox(), Inbox()
        asker.bus.subscribe("p.*.*.*.far_example.id-far.>", far)
        asker.bus.subscribe("p.*.*.*.far_example.id-eve.>", eve)
        await asker.bus.flush()

        def cancelled(inbox: Inbox) -> list[str]:
            found = [message.envelope for one in inbox.got for message in messages_of(one.data)]
            return [one.id for one in found if one.op == "cancel"]

        ask = asker.ask()
        [request] = await asker.asked.until(1)
        ask.cancel()
        asker.requester.call_off(ask)
        await asker.asked.until(2)
        reply = request.reply or ""
        asker.bus.publish(reply.replace("far_example", "eve_example"), said("ack", "1", replica="id-eve").to_bytes())
        for _ in range(2):  # it is told once where it is
            asker.bus.publish(reply, said("ack", "1").to_bytes())
        await far.until(1)
        held = asker.ask()
        request = (await asker.asked.until(3))[2]
        id = messages_of(request.data)[0].envelope.id
        asker.bus.publish(request.reply or "", said("ack", id).to_bytes())
        async with asyncio.timeout(60):
            while not (waiter := asker.requester._waiting.find(id)) or waiter.taken != "yes":
                await asyncio.sleep(0.001)
        held.cancel()
        asker.requester.call_off(held)
        await far.until(2)
        assert [cancelled(inbox) for inbox in (asker.asked, far, eve)] == [["1"], ["1", id], []]
        assert asker.requester.late == 0, "an acknowledgement is no answer"

    asking(server, work)


def test_what_the_nearest_does_not_take_goes_to_any_and_where_nobody_is_there_the_next_does_so_at_once(
    server: NatsServer,
) -> None:
    async def work(asker: Asker) -> None:
        loop, near = asyncio.get_running_loop(), Inbox()
        place = asker.bus.subscribe("p.safe.443.*.far_example.loc-eu-west-b.post.work", near)
        await asker.bus.flush()

        def answered(request: Delivery, op: Any = "reply") -> str:
            id = messages_of(request.data)[0].envelope.id
            answer = Message(Envelope(op, id, content_type=JSON, locality="eu-west-b"), b"")
            asker.bus.publish(request.reply or "", answer.to_bytes())
            return id

        first = asker.ask()
        answered((await asker.asked.until(1))[0])
        await first
        ask = asker.ask()
        request = (await near.until(1))[0]
        id = messages_of(request.data)[0].envelope.id
        asker.bus.publish(request.reply or "", error(id, to_wire(ActorRestarting("far", 0.0))).to_bytes())
        assert answered((await asker.asked.until(2))[1]) == id
        await ask

        place.unsubscribe()
        await asker.bus.flush()
        lost: list[MbactorError] = []
        told = Message(Envelope("tell", asker.requester.new_id()), b"")
        asker.requester.send("ada.example", FAR, told, lost.append)
        await asker.asked.until(3)
        nearest = asker.requester._nearest
        assert nearest is not None
        assert nearest(FAR, loop.time()) is FAR
        assert (len(near.got), lost) == (1, [])

    asking(server, work, locality="eu-west-b-1")


def test_what_the_nearest_had_a_part_of_when_it_died_is_sent_again_to_any_once_and_what_was_told_is_lost(
    server: NatsServer,
) -> None:
    """Each fragment that was on its way to it finds nobody, which says nothing of the others."""

    async def work(asker: Asker) -> None:
        bus, near = asker.requester._bus, Inbox()
        asker.bus.subscribe("p.safe.443.*.far_example.loc-eu-west-b.post.work", near)
        await asker.bus.flush()

        async def finds_the_nearest() -> None:
            count, ask = len(asker.asked.got), asker.ask()
            request = (await asker.asked.until(count + 1))[-1]
            id = messages_of(request.data)[0].envelope.id
            found = Message(Envelope("reply", id, content_type=JSON, locality="eu-west-b"), b"")
            asker.bus.publish(request.reply or "", found.to_bytes())
            await ask

        await finds_the_nearest()
        ask = large(asker)
        [request] = await near.until(1)
        asker.bus.publish(request.reply or "", pulls(request, 9).to_bytes())  # and it is not there
        request = (await asker.asked.until(2))[1]
        waiter = asker.requester._waiting.find(first_of(request).id)
        assert waiter is not None
        assert waiter.taken == "unknown"
        for _ in range(3):
            asker.requester._probe_holders()
            for _ in range(3):
                await bus.flush()
        asker.bus.publish(request.reply or "", said("reply", waiter.id, b"far").to_bytes())
        assert await ask == b"far"
        assert len(asker.asked.got) == 2

        await finds_the_nearest()
        lost: list[MbactorError] = []
        told = Message(Envelope("tell", asker.requester.new_id()), bytes(3_000_000))
        asker.requester.send("ada.example", FAR, told, lost.append)
        request = (await near.until(2))[1]
        asker.bus.publish(request.reply or "", pulls(request, 9).to_bytes())
        async with asyncio.timeout(60):
            while not lost:
                await asyncio.sleep(0.001)
        for _ in range(6):
            await bus.flush()
        assert [(type(one), one.taken) for one in lost] == [(Unavailable, "no")]
        assert (len(asker.asked.got), len(near.got)) == (3, 2)

    asking(server, work, locality="eu-west-b-1")
