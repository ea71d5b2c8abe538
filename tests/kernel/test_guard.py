"""What the broker does not let a process publish is refused within the process too."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mbactor import Actor, ActorRef, ActorSystem, Forbidden, MbactorError, Supervisor, child, endpoint, event, sink
from mbactor.transport.nats import NatsBus
from tests.nats import NatsServer, nats_server
from tests.transport.inbox import Inbox

pytestmark = pytest.mark.anyio


class Stock(Actor):
    host = "stock.example"

    async def on_start(self) -> None:
        self.refs.register("stock", self.ref)

    @endpoint
    async def level(self) -> int:
        return 5

    @endpoint
    async def wipe(self) -> str:
        return "wiped"


class Orders(Actor):
    host = "orders.example"

    @endpoint
    async def look(self, stock: ActorRef[Stock]) -> list[int]:
        url = "https://stock.example/level"
        by_url = (await self.request("POST", url)).json()
        return [await self.ask(Stock.level), by_url, *[await stock.ask(Stock.level) for _ in range(3)]]

    @endpoint
    async def wipe(self, stock: ActorRef[Stock]) -> list[str]:
        """What each way to what it may not do ends with."""
        found = []
        asks: list[Callable[[], Awaitable[Any]]] = [
            lambda: self.ask(Stock.wipe),
            lambda: stock.ask(Stock.wipe),
            lambda: self.request("POST", "https://stock.example/wipe"),
            lambda: self.at(f"{stock.cell.replica}.stock.example").ask(Stock.wipe),
        ]
        for ask in asks:
            try:
                found.append(str(await ask()))
            except MbactorError as error:
                found.append(f"{type(error).__name__} {error.status} {error.taken}")
        return found

    @endpoint
    async def of_stock(self) -> ActorRef[Stock]:
        """That of this process."""
        return self.refs["stock"]

    @endpoint
    async def tell_wipe(self, stock: ActorRef[Stock]) -> None:
        self.tell(Stock.wipe)
        stock.tell(Stock.wipe)
        await stock.tell_wait(Stock.wipe)


class Shop(Supervisor):
    """Both, in one process."""

    children = (child(Stock), child(Orders))


RULES = """
authorization {{ users = [
  {{user: admin, password: p}}
  {{user: shop, password: p, permissions: {{
    subscribe: ["plane.>"]
    publish: {{allow: ["plane.reply.>", "plane.safe.888.>", "plane.safe.443.shop.>", {more}], deny: [{deny}]}}
  }}}}
] }}
"""
LEVEL = '"plane.safe.443.orders_example.stock_example.*.post.level"'
ASK_WHO = '"$SYS.REQ.USER.INFO"'


async def watched(server: NatsServer) -> tuple[NatsBus, Inbox]:
    """What of the asks to the stock passes the broker."""
    bus, passed = NatsBus(server.url.replace("//", "//admin:p@")), Inbox()
    await bus.connect()
    bus.subscribe("plane.safe.443.orders_example.>", passed)
    await bus.flush()
    return bus, passed


async def known(system: ActorSystem) -> None:
    async with asyncio.timeout(60):
        while system.node._guard._permissions is None:
            await asyncio.sleep(0.005)


async def test_what_the_broker_refuses_is_refused_within_a_process_and_the_rest_does_not_pass_it(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path, RULES.format(more=f"{LEVEL}, {ASK_WHO}", deny=""))
    server.start()
    try:
        bus, passed = await watched(server)
        # What it may is asked at each connection; and else every hour, here.
        shop = NatsBus(server.url.replace("//", "//shop:p@"), every=3600.0)
        async with ActorSystem("shop", shop, "plane") as system:
            stock, orders = await system.spawn(Stock), await system.spawn(Orders)
            await known(system)
            assert await orders.ask(Orders.look, stock) == [5] * 5
            assert await orders.ask(Orders.wipe, stock) == ["Forbidden 403 no"] * 4
            await orders.ask(Orders.tell_wipe, stock)
            async with asyncio.timeout(60):
                while len(system.dead_letters) < 3:
                    await asyncio.sleep(0.005)
            assert {letter.method for letter in system.dead_letters} == {"wipe"}
            await bus.flush()
            assert passed.got == []
            await bus.close()
            server.kill()
            server.write(RULES.format(more=f'"plane.safe.443.orders_example.>", {ASK_WHO}', deny=LEVEL))
            server.start()
            bus, passed = await watched(server)
            async with asyncio.timeout(60):
                while not (guard := system.node.guard) or guard._permissions is None or not guard._permissions.deny:
                    await asyncio.sleep(0.005)
            assert (await orders.ask(Orders.wipe, stock))[:2] == ["wiped", "wiped"]
            with pytest.raises(Forbidden, match="the broker does not let this node ask it"):
                await orders.ask(Orders.look, stock)
            await bus.close()
    finally:
        server.kill()


async def test_rules_that_change_while_the_connection_is_there_hold_within_a_process_too(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, RULES.format(more=f'"plane.safe.443.orders_example.>", {ASK_WHO}', deny=""))
    server.start()
    try:
        bus = NatsBus(server.url.replace("//", "//shop:p@"), every=0.02)
        async with ActorSystem("shop", bus, "plane") as system:
            stock, orders = await system.spawn(Stock), await system.spawn(Orders)
            await known(system)
            assert await orders.ask(Orders.look, stock) == [5] * 5

            async def wiping_ends(answer: str) -> None:
                async with asyncio.timeout(60):
                    while not all(answer in one for one in await orders.ask(Orders.wipe, stock)):
                        await asyncio.sleep(0.005)

            for more, denied, answer in (
                (ASK_WHO, '"plane.safe.443.orders_example.stock_example.>"', "Forbidden 403 no"),
                (ASK_WHO, "", "wiped"),
                (ASK_WHO, ASK_WHO, "wiped"),
                (ASK_WHO, f'{ASK_WHO}, "plane.safe.443.orders_example.stock_example.>"', "Forbidden 403 no"),
            ):
                server.write(RULES.format(more=f'"plane.safe.443.orders_example.>", {more}', deny=denied))
                server.signal(signal.SIGHUP)
                await wiping_ends(answer)
                if ASK_WHO in denied:  # it is not known any more, and the server judges
                    async with asyncio.timeout(60):
                        while system.node._guard._permissions is not None:
                            await asyncio.sleep(0.005)
                    await wiping_ends(answer)
            assert system.unready is None
    finally:
        server.kill()


async def test_the_same_holds_in_a_process_of_its_own_which_is_on_the_broker_with_the_same_credentials(
    tmp_path: Path,
) -> None:
    with nats_server(tmp_path, RULES.format(more=f"{LEVEL}, {ASK_WHO}", deny="")) as server:
        async with ActorSystem("shop", server.url.replace("//", "//shop:p@"), "plane", watchdog=None) as system:
            await system.spawn(child(Shop, process=True))
            stock = await system.ask(Orders.of_stock)
            assert await system.ask(Orders.look, stock) == [5] * 5
            assert await system.ask(Orders.wipe, stock) == ["Forbidden 403 no"] * 4


async def test_while_the_rules_are_not_known_the_broker_judges(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, RULES.format(more=LEVEL, deny=""))
    server.start()
    try:
        bus, passed = await watched(server)
        async with ActorSystem("shop", server.url.replace("//", "//shop:p@"), "plane") as system:
            stock, orders = await system.spawn(Stock), await system.spawn(Orders)
            assert await orders.ask(Orders.look, stock) == [5] * 5
            assert await orders.ask(Orders.wipe, stock) == ["Forbidden 403 no"] * 4
            assert len(await passed.until(5)) == 5
        async with ActorSystem("admin", server.url.replace("//", "//admin:p@"), "plane") as system:
            stock, orders = await system.spawn(Stock), await system.spawn(Orders)
            await known(system)
            assert system.node.guard is None
            assert (await orders.ask(Orders.look, stock)) == [5] * 5
            assert len(passed.got) == 5
        await bus.close()
    finally:
        server.kill()


class Deeds(Actor):
    host = "deeds.example"

    @event
    async def on_signed(self, deed: bytes) -> int:
        raise NotImplementedError


class Books(Actor):
    host = "books.example"

    def __init__(self) -> None:
        self.told = 0

    @sink(Deeds.on_signed)
    async def signed(self, deed: bytes) -> int:
        self.told += 1
        return len(deed)

    @endpoint
    async def has_heard(self) -> int:
        return self.told


SINKS = f"""
authorization {{ users = [
  {{user: admin, password: p}}
  {{user: books, password: p, permissions: {{
    subscribe: ["plane.>"]
    publish: ["plane.reply._.books_example.>", "plane.reply._.books.>", "plane.safe.888.>", {ASK_WHO}]
  }}}}
] }}
"""


async def test_who_sinks_an_event_answers_in_its_own_name_as_the_broker_permits_no_other(tmp_path: Path) -> None:
    with nats_server(tmp_path, SINKS) as server:
        admin, limited = (server.url.replace("//", f"//{user}:p@") for user in ("admin", "books"))
        async with (
            ActorSystem("asks", admin, "plane", watchdog=None) as asks,
            ActorSystem("books", limited, "plane", watchdog=None) as serves,
        ):
            books = await serves.spawn(Books)
            await serves.node.remote.flush()
            for size in (10, 3_000_000):
                [reply] = [reply async for reply in asks.ask_all(Deeds.on_signed, bytes(size))]
                assert (reply.result(), reply.source) == (size, f"{books.cell.replica}.books.example")
                assert asks.publish(Deeds.on_signed, bytes(size))
            async with asyncio.timeout(60):
                while await asks.ask(Books.has_heard) < 4:
                    await asyncio.sleep(0.01)
            assert not asks.dead_letters


class Clerk(Actor):
    host = "clerk.example"

    @endpoint
    async def tries(self, stock: ActorRef[Stock]) -> list[str]:
        """What comes of asking any replica, one by its id, and one by its ref."""
        found = []
        asks: list[Callable[[], Awaitable[int]]] = [
            lambda: self.ask(Stock.level),
            lambda: self.at(f"{stock.cell.replica}.stock.example").ask(Stock.level),
            lambda: stock.ask(Stock.level),
        ]
        for ask in asks:
            try:
                found.append(str(await ask()))
            except Forbidden:
                found.append("Forbidden")
        return found


class Thief(Clerk):
    host = "thief.example"


async def test_what_one_may_ask_another_may_not_and_nor_is_each_replica_what_any_is(tmp_path: Path) -> None:
    any_stock = '"plane.safe.443.clerk_example.stock_example._.post.level"'
    with nats_server(tmp_path, RULES.format(more=f"{any_stock}, {ASK_WHO}", deny="")) as server:
        async with ActorSystem("shop", server.url.replace("//", "//shop:p@"), "plane", watchdog=None) as system:
            stock, clerk, thief = await system.spawn(Stock), await system.spawn(Clerk), await system.spawn(Thief)
            await known(system)
            for _ in range(3):
                assert await clerk.ask(Clerk.tries, stock) == ["5", "Forbidden", "Forbidden"]
                assert await thief.ask(Thief.tries, stock) == ["Forbidden"] * 3


async def test_who_might_do_all_until_now_is_held_to_the_rules_that_come(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, "authorization { users = [{user: shop, password: p}] }")
    server.start()
    try:
        bus = NatsBus(server.url.replace("//", "//shop:p@"), every=0.02)
        async with ActorSystem("shop", bus, "plane", watchdog=None) as system:
            stock, thief = await system.spawn(Stock), await system.spawn(Thief)
            for _ in range(3):
                assert await thief.ask(Thief.tries, stock) == ["5"] * 3
            server.write(RULES.format(more=ASK_WHO, deny=""))
            server.signal(signal.SIGHUP)
            async with asyncio.timeout(60):
                while await thief.ask(Thief.tries, stock) != ["Forbidden"] * 3:
                    await asyncio.sleep(0.005)
    finally:
        server.kill()
