"""Whatever is said on the bus, in whoever's name: nothing raises, nothing is left of it, and who speaks true is heard."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from mbactor import ActorSystem
from mbactor.errors import MbactorError
from mbactor.transport import Bus, Delivery, Envelope, LocalBus, Message, messages_of, payload_of
from mbactor.transport.message import JSON, MSGPACK
from tests.transport.large_parts import PLANE, Listener, Store, system
from tests.transport.test_large import LIMIT, nothing_is_left, transfers, virtually, waiting

OPS: Any = ["ask", "tell", "publish", "reply", "error", "ack", "probe", "cancel"]
NUMBERS = [*range(-1, 11), 2**31, 2**32, 2**63 - 1, -(2**63), 1_000_000]
SECONDS = [None, 5.0, 20.0, 0.001, 0.0, -1.0, 1e308, float("inf"), float("nan")]
BODIES = [b"", b"{}", b"\x81\xa4data\xc4\x01x", bytes(1024), bytes(2000), bytes(LIMIT // 2)]


class Liar:
    """Says anything to those that serve, and to who has asked them."""

    def __init__(self, bus: Bus, serves: ActorSystem, random: Random) -> None:
        self.bus = bus
        self.random = random
        self.replicas = [cell.replica for served in serves.node.served.values() for cell in served.cells]
        self.node = serves.node.id
        self.asked: list[tuple[str, str]] = []
        """Ids and reply subjects of requests that were made."""
        bus.subscribe(f"{PLANE}.safe.>", self.hear)

    def hear(self, delivery: Delivery) -> None:
        if "id-liar" not in (delivery.reply or "id-liar"):
            self.asked += [(message.envelope.id, delivery.reply or "") for message in messages_of(delivery.data)]

    def envelope(self) -> Envelope:
        any, some = self.random.choice, self.random.random
        return Envelope(
            any(OPS),
            any(["1", "2", "é", "a.b", "", *(id for id, _ in self.asked[-6:])]),
            any(SECONDS),
            any(["", "id-liar", "x" * 2000, "..", "*", ">", "é", *self.replicas]),
            any(["", "eu", "*", "x" * 3000]),
            any([MSGPACK, JSON, "text/plain", ""]),
            any([200, 0, -5, 503, 10**9]),
            any([(), (), ("zz",), (f"{self.node}/1:z",), (f"{self.node}/{9**30}:z",), ("",) * 65]),
            any([None, "garbage", f"00-{'a' * 32}-{'b' * 16}-01"]),
            any([None, "x", "a.b.c"]),
            fragment=any([(1, 1), (any(NUMBERS), any(NUMBERS)), (any(range(7)), 5)]),
            query=any(["", "a=1&b[0]=2", "%%%"]),
            queue=any(["", "store.example", "id-liar@store.example"]),
            multi=some() < 0.3,
            host=any(["", "store.example", "liar.example", "x" * 2000, "a b"]),
        )

    def lie(self) -> None:
        any = self.random.choice
        parts = [Message(self.envelope(), any(BODIES)).part() for _ in range(any([1, 1, 2, 5]))]
        data = payload_of(parts)[: LIMIT if self.random.random() < 0.5 else 10**9]
        if len(data) > LIMIT:
            return
        if self.asked and self.random.random() < 0.4:
            _, inbox = any(self.asked[-6:])
            self.bus.publish(any([inbox, inbox, inbox.replace("store_example", "liar_example")]), data)
            return
        to, source = any(["store_example", "listener_example"]), any(["liar_example", "liar_example", "asks"])
        where, path = any(["_", "loc-eu", *self.replicas]), any(["echo", "size", "each", "keep", "make", "nothing"])
        inbox = f"{PLANE}.reply._.{to}.{source}.id-liar"
        reply = any([None, f"{inbox}.1", f"{inbox}.*", f"{inbox}.", inbox.replace(source, "other"), "id-liar"])
        self.bus.publish(f"{PLANE}.safe.443.{source}.{to}.{where}.post.{path}", data, reply=reply)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_said_raises_nothing_and_leaves_nothing(seed: int) -> None:
    async def work() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        bus, random = LocalBus(LIMIT), Random(seed)
        async with system("asks", bus) as asks, system("serves", bus) as serves:
            await serves.spawn(Store)
            await serves.spawn(Listener)
            liar = Liar(bus, serves, random)
            for _ in range(30):
                sizes = [10, 40_000, 100_000]
                asked = [asks.ask(Store.echo, random.randbytes(random.choice(sizes))) for _ in range(5)]
                all = asks.ask_all(Store.each, bytes(random.choice(sizes)))
                for _ in range(60):
                    liar.lie()
                    if random.random() < 0.3:
                        await asyncio.sleep(0)
                await asyncio.gather(*asked, return_exceptions=True)
                with suppress(MbactorError):
                    _ = [reply async for reply in all]
                body = random.randbytes(100_000)
                assert await asks.ask(Store.echo, body) == body
            await asyncio.sleep(1000)
            await nothing_is_left(asks, serves)
            assert (waiting(asks), len(transfers(serves))) == ([], 0)
        assert problems == []

    virtually(work())
