"""A program with nats-py alone asks an actor, and is asked by one, as the page of `mbactor.transport` says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import msgspec
import nats
import nats.errors
import pytest
from nats.aio.msg import Msg

from mbactor import Actor, ActorSystem, endpoint
from mbactor.errors import ActorCrashed, MbactorError
from mbactor.kernel.context import current
from mbactor.transport import Envelope, Message, messages_of
from tests.loops import run
from tests.nats import nats_server


class Orders(Actor):
    host = "orders.example"

    @endpoint
    async def place(self, item: str, count: int = 1) -> dict[str, int]:
        if not count:
            raise MbactorError("nothing was ordered", status=422)
        return {item: count}

    @endpoint
    async def left(self) -> float:
        """Seconds that this may take."""
        call = current.get()
        assert call is not None
        return call.deadline - anyio.current_time()

    @endpoint
    async def invoice(self, amount: int) -> Any:
        return (await self.request("POST", "https://billing.example/in-voice/a.b", {"amount": amount})).body


class Billing(Actor):
    """What who asks knows of the program."""

    host = "billing.example"

    @endpoint
    async def unnamed(self) -> bool:
        raise NotImplementedError

    @endpoint
    async def named(self) -> bool:
        raise NotImplementedError

    @endpoint
    async def gone(self) -> bool:
        raise NotImplementedError

    @endpoint
    async def unreadable(self) -> bool:
        raise NotImplementedError

    @endpoint
    async def nothing(self) -> bool:
        raise NotImplementedError

    @endpoint
    async def refuse(self) -> bool:
        raise NotImplementedError


def payload(op: str, id: str, body: Any, budget: float = 5.0) -> bytes:
    envelope = [op, id, budget, "", "", "application/json"]
    return b"\x03" + msgspec.msgpack.encode([[envelope, json.dumps(body).encode()]])


def read(data: bytes) -> list[tuple[list[Any], bytes]]:
    assert data[:1] == b"\x03"
    return [(envelope, body) for envelope, body in msgspec.msgpack.decode(data[1:])]


def value(envelope: list[Any], body: bytes) -> Any:
    return json.loads(body) if envelope[5:6] == ["application/json"] else msgspec.msgpack.decode(body)


async def asks(url: str, plane: str) -> None:
    client = await nats.connect(url)
    inbox = await client.subscribe(f"{plane}.reply._.*.*.id-7f3a.*")
    asked = [{"item": "pen", "count": 3}, {"item": "pen", "count": 0}]
    for id, arguments in enumerate(asked):
        await client.publish(
            f"{plane}.safe.443.billing_example.orders_example._.post.place",
            payload("ask", str(id), arguments),
            reply=f"{plane}.reply._.orders_example.billing_example.id-7f3a.{id}",
        )
    got: dict[str, tuple[str, Any]] = {}
    while len(got) < 2:
        for envelope, body in read((await inbox.next_msg(10)).data):
            got[envelope[1]] = (envelope[0], value(envelope, body))
    assert got["0"] == ("reply", {"pen": 3})
    assert got["1"][0] == "error"
    assert (got["1"][1]["error"], got["1"][1]["statusCode"]) == ("nothing was ordered", 422)
    await client.publish(
        f"{plane}.safe.443.billing_example.nobody_example._.post.place",
        payload("ask", "2", {}),
        reply=f"{plane}.reply._.nobody_example.billing_example.id-7f3a.2",
    )
    nobody = await inbox.next_msg(10)
    assert (nobody.data, (nobody.headers or {})["Status"]) == (b"", "503")
    await client.publish(
        f"{plane}.safe.443.billing_example.orders_example._.post.place",
        payload("ask", "3", asked[0]),
        reply=f"{plane}.reply._.orders_example.victim_example.id-7f3a.3",
    )
    with pytest.raises(nats.errors.TimeoutError):
        await inbox.next_msg(0.1)  # to an inbox of another than who asks nobody answers
    await client.close()


async def is_asked(url: str, plane: str, system: ActorSystem) -> None:
    client = await nats.connect(url)

    async def answer(asked: Msg) -> None:
        [(envelope, body)] = read(asked.data)
        assert asked.subject.split(".")[3] == asked.reply.split(".")[4] == "orders_example"
        assert asked.subject.split(".")[7:] == ["in-voice", "a%2eb"]
        await client.publish(asked.reply, payload("reply", envelope[1], {"paid": value(envelope, body)["amount"]}))

    await client.subscribe(f"{plane}.safe.443.*.billing_example._.post.>", "billing.example", answer)
    await client.flush()
    await client.flush()
    assert json.loads(await asyncio.wait_for(system.ask(Orders.invoice, 7), 60)) == {"paid": 7}
    await client.close()


def test_a_program_without_mbactor_asks_and_is_asked(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        async with ActorSystem(transport=url) as system:
            await system.spawn(Orders)
            await system.node.remote.flush()
            await asks(url, system.node.plane)
            await is_asked(url, system.node.plane, system)

    with nats_server(tmp_path) as server:
        run(work(server.url))


def test_a_program_without_mbactor_has_no_more_time_than_there_is_and_none_where_it_names_none(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        async with ActorSystem(transport=url) as system:
            await system.spawn(Orders)
            await system.node.remote.flush()
            client, plane = await nats.connect(url), system.node.plane
            inbox = await client.subscribe(f"{plane}.reply._.*.*.id-7f3a.*")
            for budget, least, most in ((60.0, 0, 60), (1e12, 800, 900), (float("inf"), 800, 900)):
                await client.publish(
                    f"{plane}.safe.443.billing_example.orders_example._.post.left",
                    payload("ask", "1", {}, budget),
                    reply=f"{plane}.reply._.orders_example.billing_example.id-7f3a.1",
                )
                [(envelope, body)] = read((await inbox.next_msg(60)).data)
                assert least < value(envelope, body) <= most
            for budget in (-1.0, 0.0, float("nan")):
                await client.publish(
                    f"{plane}.safe.443.billing_example.orders_example._.post.left",
                    payload("ask", "1", {}, budget),
                    reply=f"{plane}.reply._.orders_example.billing_example.id-7f3a.1",
                )
                [(envelope, body)] = read((await inbox.next_msg(60)).data)
                assert (envelope[0], value(envelope, body)["statusCode"]) == ("error", 408)
            await client.close()

    with nats_server(tmp_path) as server:
        run(work(server.url))


async def acknowledges(url: str, plane: str, system: ActorSystem) -> None:
    client = await nats.connect(url)
    asked: dict[str, tuple[str, str]] = {}

    async def acknowledge(one: Msg) -> None:
        [(envelope, _)] = read(one.data)
        if envelope[0] != "ask":
            return
        path = one.subject.split(".")[7]
        asked[path] = (one.reply, envelope[1])
        who = {"unnamed": [], "named": [None, "id-7f3a"], "gone": [None, "id-gone"]}[path]
        await client.publish(one.reply, b"\x03" + msgspec.msgpack.encode([[["ack", envelope[1], *who], b""]]))

    await client.subscribe(f"{plane}.safe.443.*.billing_example._.post.>", "billing.example", acknowledge)
    await client.subscribe(f"{plane}.safe.443.*.billing_example.id-7f3a.>", "", acknowledge)
    await client.flush()
    kept = [asyncio.ensure_future(system.ask(one)) for one in (Billing.unnamed, Billing.named)]
    with pytest.raises(ActorCrashed):
        await system.ask(Billing.gone)
    with pytest.raises(ActorCrashed):  # by now it was looked after those that were acknowledged before, too
        await system.ask(Billing.gone)
    for path in ("unnamed", "named"):
        reply, id = asked[path]
        await client.publish(reply, payload("reply", id, True))
    assert await asyncio.wait_for(asyncio.gather(*kept), 60) == [True, True]
    await client.close()


def test_a_program_without_mbactor_acknowledges_and_says_who_it_is_or_does_not(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        async with ActorSystem(transport=url, ack_window="3s") as system:
            with anyio.fail_after(120):
                await acknowledges(url, system.node.plane, system)

    with nats_server(tmp_path) as server:
        run(work(server.url))


async def answers_wrongly(url: str, plane: str, system: ActorSystem) -> None:
    client = await nats.connect(url)

    async def answer(one: Msg) -> None:
        [(envelope, _)] = read(one.data)
        refusal = {"error": "no money", "statusCode": 409, "type": "Broke"}
        nothing = b"\x03" + msgspec.msgpack.encode([[["reply", envelope[1]], b""]])
        answers = {"unreadable": b"hello", "nothing": nothing, "refuse": payload("error", envelope[1], refusal)}
        await client.publish(one.reply, answers[one.subject.split(".")[7]])

    await client.subscribe(f"{plane}.safe.443.*.billing_example._.post.>", "billing.example", answer)
    await client.flush()
    with pytest.raises(
        MbactorError, match="https://billing.example/unreadable answered what cannot be read: .*version"
    ):
        await system.ask(Billing.unreadable)
    with pytest.raises(MbactorError, match=r"Billing\.nothing answered what does not fit its annotation: .*`bool`"):
        await system.ask(Billing.nothing)
    [reply] = [reply async for reply in system.ask_all(Billing.nothing)]
    assert "Billing.nothing answered what does not fit its annotation" in str(reply.error)
    with pytest.raises(MbactorError, match="no money") as refused:
        await system.ask(Billing.refuse)
    assert (refused.value.status, refused.value.taken) == (409, "yes")
    await client.close()


def test_what_a_program_without_mbactor_answers_wrongly_is_told_to_who_asked(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        async with ActorSystem(transport=url) as system:
            await answers_wrongly(url, system.node.plane, system)

    with nats_server(tmp_path) as server:
        run(work(server.url))


def test_the_page_describes_the_bytes_that_mbactor_writes() -> None:
    [message] = messages_of(payload("ask", "1", {"a": 1}))
    assert message == Message(Envelope("ask", "1", 5.0, content_type="application/json"), b'{"a": 1}')
    [(envelope, body)] = read(message.to_bytes())
    assert (envelope[:3], envelope[5], body) == (["ask", "1", 5.0], "application/json", b'{"a": 1}')
