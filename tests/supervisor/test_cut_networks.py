"""Systems whose network is cut, or whose server dies, with a broker between them: they find each other again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from mbactor import Actor, ActorSystem, MbactorError, endpoint
from mbactor.errors import NoSuchActor, NotAcknowledged, Unavailable
from tests.namespaces import Namespace, namespaces
from tests.nats import NatsServer, knows, nats_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BUDGET = 2.0
LATE = 20.0
"""Seconds that an ask may end after its budget, on a machine that has much to do."""


class Till(Actor):
    host = "till.example"

    @endpoint(concurrency=100)
    async def add(self, a: int, b: int) -> int:
        return a + b


class Asked:
    """What came of many asks, and after how long at most."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0

    async def all(self, system: ActorSystem, count: int) -> None:
        await asyncio.gather(*(self._one(system) for _ in range(count)))

    async def _one(self, system: ActorSystem) -> None:
        began = time.monotonic()
        try:
            with anyio.fail_after(BUDGET):
                assert await system.ask(Till.add, 1, 1) == 2
            self.outcomes["answered"] += 1
        except (MbactorError, TimeoutError) as error:
            self.outcomes[type(error).__name__] += 1
        self.longest = max(self.longest, time.monotonic() - began)


async def answered(system: ActorSystem) -> float:
    """Seconds until asks are answered again."""
    began = time.monotonic()
    async with asyncio.timeout(60):
        while True:
            try:
                with anyio.fail_after(BUDGET):
                    await system.ask(Till.add, 1, 1)
                    return time.monotonic() - began
            except (NoSuchActor, Unavailable, NotAcknowledged, TimeoutError):
                await asyncio.sleep(0.02)


async def test_one_server_of_a_cluster_dies_and_actors_on_two_find_each_other_again(tmp_path: Path) -> None:
    with nats_cluster(tmp_path) as servers:
        urls = [server.url for server in servers]
        async with (
            ActorSystem("asks", ",".join((urls[0], *urls[1:]))) as asks,
            ActorSystem("serves", ",".join((urls[1], urls[2], urls[0]))) as serves,
        ):
            await serves.spawn(Till)
            await serves.node.remote.bus.flush()
            found = await answered(asks)
            for number, server in ((1, servers[1]), (0, servers[0])):
                server.kill()
                asked = Asked()
                await asked.all(asks, 50)
                assert asked.longest < BUDGET + LATE
                again = await answered(asks)
                told = ", ".join(f"{count} {name}" for name, count in asked.outcomes.items())
                print(f"\nserver {number} killed: {told}; answered again after {again:.2f} s ({found:.2f} s at first)")
                server.start()
                await asyncio.to_thread(_all_know_all, servers)


def _all_know_all(servers: list[NatsServer]) -> None:
    deadline = time.monotonic() + 60
    while any(len(knows(server)) < len(servers) for server in servers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """A server that all machines reach; its port."""
    server = NatsServer(folder)
    server._file.write_text(f"listen: 0.0.0.0:{server.port}\n")
    server.start()
    try:
        yield server.port
    finally:
        server.kill()


async def test_a_network_is_cut_and_healed_and_nobody_is_restarted(tmp_path: Path) -> None:
    with namespaces(2) as (one, two), broker(tmp_path) as port:
        began, ended = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        async def serves() -> None:
            async with ActorSystem("serves", f"nats://{one.here}:{port}", watchdog=None) as system:
                await system.spawn(Till)
                await system.node.remote.bus.flush()
                loop.call_soon_threadsafe(began.set)
                await asyncio.to_thread(asyncio.run_coroutine_threadsafe(ended.wait(), loop).result)

        async def asks() -> str:
            async with ActorSystem("asks", f"nats://{two.here}:{port}", watchdog=None) as system:
                await answered(system)
                return "\n".join([await cut(system, one, "who serves"), await cut(system, two, "who asks")])

        async def outside(work: Callable[[], None]) -> None:
            """The links end in the test's own namespace."""
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.to_thread(work), loop))

        async def cut(system: ActorSystem, machine: Namespace, whose: str) -> str:
            await outside(machine.cut)
            asked = Asked()
            await asked.all(system, 50)
            await outside(machine.heal)
            assert not asked.outcomes["answered"]
            assert asked.longest < BUDGET + LATE
            again = await answered(system)
            told = ", ".join(f"{count} {name}" for name, count in asked.outcomes.items() if count)
            return f"network of {whose} cut: {told} after {asked.longest:.2f} s at most; healed: {again:.2f} s"

        serving = asyncio.ensure_future(one.run(serves))
        up = asyncio.ensure_future(began.wait())
        await asyncio.wait([serving, up], timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert up.done(), serving.done() and serving.result()
        try:
            print(f"\n{await two.run(asks)}")
        finally:
            ended.set()
            await serving
