"""What goes along with an ask from process to process: path, depth, headers, token, baggage, and the time that is left."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem, endpoint, observe
from mbactor.errors import BudgetSpent, CallTooDeep, Deadlock
from mbactor.kernel.context import current
from mbactor.testing import Recorder
from mbactor.transport import Address, Envelope, Message, messages_of, subjects
from mbactor.transport.headers import passed_on, with_passed
from mbactor.transport.message import JSON
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox

pytestmark = pytest.mark.anyio
PLANE = "envelopes"


class Left(Actor):
    host = "left.example"

    @endpoint
    async def round(self) -> str:
        return await self.ask(Right.back)

    @endpoint(concurrency=100)
    async def down(self, depth: int) -> int:
        return await self.ask(Right.down, depth + 1)

    @endpoint
    async def seen(self) -> dict[str, Any]:
        return await self.ask(Right.seen)

    @endpoint
    async def left_over(self) -> float:
        return await self.ask(Right.left_over)


class Right(Actor):
    host = "right.example"

    @endpoint
    async def back(self) -> str:
        return await self.ask(Left.round)

    @endpoint(concurrency=100)
    async def down(self, depth: int) -> int:
        return await self.ask(Left.down, depth + 1)

    @endpoint
    async def seen(self) -> dict[str, Any]:
        call = current.get()
        assert call is not None
        return {
            "token": call.token,
            "headers": call.passed,
            "baggage": call.baggage,
            "depth": call.depth,
            "trace": call.trace,
        }

    @endpoint
    async def doubled(self, number: int) -> int:
        return 2 * number

    @endpoint
    async def left_over(self) -> float:
        call = current.get()
        assert call is not None
        return call.deadline - asyncio.get_running_loop().time()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def asks(server: NatsServer) -> AsyncIterator[ActorSystem]:
    async with (
        ActorSystem("asks", server.url, PLANE) as asks,
        ActorSystem("left", server.url, PLANE) as left,
        ActorSystem("right", server.url, PLANE) as right,
    ):
        for system, cls in ((left, Left), (right, Right)):
            await system.spawn(cls)
            await system.node.remote.flush()
        yield asks


async def test_a_circle_over_two_processes_fails_at_once_and_is_spelled_out(asks: ActorSystem) -> None:
    with anyio.fail_after(60):
        with pytest.raises(Deadlock, match=r"Left.round.*Right.back.*Left.round"):
            await asks.ask(Left.round)


async def test_a_chain_over_two_processes_ends_at_the_limit(asks: ActorSystem) -> None:
    with pytest.raises(CallTooDeep, match="call number 65 in a chain; the limit is 64") as caught:
        await asks.ask(Left.down, 1)
    assert caught.value.status == 508


async def test_of_the_headers_those_go_on_that_are_for_all_and_the_token_is_not_looked_into(asks: ActorSystem) -> None:
    sent = {
        "X-Forwarded-Host": "shop.example",
        "Accept-Language": "fr",
        "Cookie": "c",
        "Authorization": "a",
        "X-Own": "x",
    }
    with asks.acting_for({"roles": ["buyer"]}, token="opaque.to.us"):
        answer = await asks.request("POST", "https://left.example/seen", headers=sent)
    assert answer.json() == {
        "token": "opaque.to.us",
        "headers": {"x-forwarded-host": "shop.example", "accept-language": "fr"},
        "baggage": None,
        "depth": 2 - 1,
        "trace": None,
    }
    assert passed_on({"Cookie": "c"}) is None
    assert with_passed({"Accept-Language": "de"}, {"accept-language": "fr", "x-forwarded-for": "1"}) == {
        "x-forwarded-for": "1",
        "Accept-Language": "de",
    }


async def test_what_came_with_an_ask_goes_along_with_what_is_asked_for_it(asks: ActorSystem) -> None:
    trace, bus, inbox = f"00-{'ab' * 16}-{'cd' * 8}-01", asks.node.remote.bus, Inbox()
    bus.subscribe(f"{PLANE}.reply._.*.raw.me.*", inbox)
    hosts = {"right.example": 0, "left.example": 1}
    for host in hosts:
        envelope = Envelope(
            "ask", host, 60.0, content_type=JSON, trace=trace, identity="opaque", baggage={"tenant": "blue"},
            headers={"X-Forwarded-For": "ada", "Cookie": "c"},
        )  # fmt: skip
        subject = subjects.request_subject(PLANE, "raw", Address(host, "/seen"))
        bus.publish(
            subject, Message(envelope, b"").to_bytes(), reply=subjects.reply_subject(PLANE, host, "raw", "me", "1")
        )
    answers = [message for one in await inbox.until(2) for message in messages_of(one.data)]
    assert {answer.envelope.id: json.loads(answer.body) for answer in answers} == {
        host: {
            "token": "opaque",
            "headers": {"x-forwarded-for": "ada"},
            "baggage": {"tenant": "blue"},
            "depth": depth,
            "trace": trace,
        }
        for host, depth in hosts.items()
    }


async def test_a_trace_goes_on_in_another_process_from_wherever_it_is(asks: ActorSystem) -> None:
    recorder = Recorder(asyncio.get_running_loop())
    with observe.observing(recorder), observe.span("outside", "of any actor"):
        here = (observe.traceparent() or "").split("-")[1]
        for seen in (await asks.ask(Right.seen), await asks.ask(Left.seen)):
            assert seen["trace"].split("-")[1] == here


async def test_a_query_goes_along_with_a_request(asks: ActorSystem) -> None:
    assert (await asks.request("POST", "https://right.example/doubled?number=21")).json() == 42


async def test_each_hop_has_less_time_and_what_comes_too_late_is_not_run(asks: ActorSystem) -> None:
    trip = asks.node.remote.bus.round_trip
    assert 0 < trip < 1
    with anyio.fail_after(60):
        assert 0 < await asks.ask(Left.left_over) < 60 - 2 * trip
    with pytest.raises(BudgetSpent, match="was not sent") as caught:
        with anyio.fail_after(trip / 2):
            await asks.ask(Left.left_over)
    assert caught.value.taken == "no"
    bus, inbox = asks.node.remote.bus, Inbox()
    bus.subscribe(f"{PLANE}.reply._.*.raw.me.*", inbox)
    subject = subjects.request_subject(PLANE, "raw", Address("right.example", "/left-over"))
    for id, budget in (("late", 0.0), ("later", -1.0), ("never", -math.inf)):
        reply = subjects.reply_subject(PLANE, "right.example", "raw", "me", id)
        bus.publish(subject, Message(Envelope("ask", id, budget=budget), b"").to_bytes(), reply=reply)
    answers = [message for one in await inbox.until(1) for message in messages_of(one.data)]
    assert {message.envelope.status for message in answers} <= {400, 408}
