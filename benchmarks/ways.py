"""The ways of a request between two processes: mbactor's and those that it stands beside, each as its own manual says.

A way has a taker, which echoes bodies at several destinations, and an asker. Each side runs in a process of its own
(`side.py`); what a way needs is imported there only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from benchmarks.load import PATIENCE, Ask
from benchmarks.raw_nats import RawNats
from mbactor import Actor, ActorSystem, Mailbox, endpoint

DESTINATIONS = 16

Take = Callable[[str], AbstractAsyncContextManager[str]]
"""Serves by the NATS server of a URL until it is left; gives the address for the asker."""
Asks = Callable[[str], AbstractAsyncContextManager[list[Ask]]]
"""One for each destination of the taker at an address."""


@dataclass(frozen=True, slots=True)
class Way:
    """`take` is None where both sides are in the asker's process; `package` is what has to be installed."""

    name: str
    how: str
    take: Take | None
    asks: Asks
    package: str = ""
    broker: bool = True

    @property
    def installed(self) -> bool:
        return not self.package or find_spec(self.package) is not None

    def said(self) -> str:
        return f"{self.package} {metadata.version(self.package)}, {self.how}" if self.package else self.how


# --- mbactor ---------------------------------------------------------------------------------------------------


class Echo(Actor):
    """Gives back what it is asked with."""

    host = "echo.benchmark"
    mailbox = Mailbox(capacity=100_000)

    @endpoint
    async def echo(self, body: bytes) -> bytes:
        return body

    @endpoint
    async def nothing(self) -> None: ...


def echoes() -> list[type[Echo]]:
    """An actor each destination, with a host of its own."""
    return [
        Echo,
        *(type(f"Echo{n}", (Echo,), {"host": f"echo-{n}.benchmark"}) for n in range(2, DESTINATIONS + 1)),
    ]


@asynccontextmanager
async def take_as_actors(url: str, *, coalesce: bool) -> AsyncIterator[str]:
    async with ActorSystem("taker", url, coalesce=coalesce) as system:
        for cls in echoes():
            await system.spawn(cls)
        yield url


@asynccontextmanager
async def asks_of_actors(url: str, *, coalesce: bool) -> AsyncIterator[list[Ask]]:
    async with ActorSystem("asker", url, coalesce=coalesce) as system:
        yield [_echo(system, cls) for cls in echoes()]


def _echo(system: ActorSystem, cls: type[Echo]) -> Ask:
    return lambda body: system.ask(cls.echo, body)


def _actors(*, coalesce: bool) -> tuple[Take, Asks]:
    return partial(take_as_actors, coalesce=coalesce), partial(asks_of_actors, coalesce=coalesce)


@asynccontextmanager
async def both_in_one(url: str) -> AsyncIterator[list[Ask]]:
    async with take_as_actors(url, coalesce=True), ActorSystem("asker", url) as asker:
        yield [lambda _: asker.ask(Echo.nothing)]


@asynccontextmanager
async def without_a_broker(_: str) -> AsyncIterator[list[Ask]]:
    async with ActorSystem() as system:
        await system.spawn(Echo)
        yield [lambda _: system.ask(Echo.nothing)]


# --- nats-py, as documented ------------------------------------------------------------------------------------


@asynccontextmanager
async def take_by_nats_py(url: str) -> AsyncIterator[str]:
    client = await import_module("nats").connect(url)

    async def echo(message: Any) -> None:
        await message.respond(message.data)

    for number in range(DESTINATIONS):
        await client.subscribe(f"echo.{number}", cb=echo)
    await client.flush()
    try:
        yield url
    finally:
        await client.close()


@asynccontextmanager
async def asks_by_nats_py(url: str) -> AsyncIterator[list[Ask]]:
    client = await import_module("nats").connect(url)

    async def ask(subject: str, body: bytes) -> bytes:
        message = await client.request(subject, body, timeout=PATIENCE)
        data: bytes = message.data
        return data

    try:
        yield [partial(ask, f"echo.{number}") for number in range(DESTINATIONS)]
    finally:
        await client.close()


# --- the floor -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def take_raw(url: str) -> AsyncIterator[str]:
    client = await RawNats.connect(url)
    for number in range(DESTINATIONS):
        client.subscribe(f"echo.{number}.raw", client.publish)
    await client.barrier()
    try:
        yield url
    finally:
        client.close()


@asynccontextmanager
async def asks_raw(url: str) -> AsyncIterator[list[Ask]]:
    client = await RawNats.connect(url)
    try:
        yield [partial(client.request, f"echo.{number}.raw") for number in range(DESTINATIONS)]
    finally:
        client.close()


# --- HTTP/1.1 --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def take_by_http(_: str) -> AsyncIterator[str]:
    web: Any = import_module("aiohttp.web")

    async def echo(request: Any) -> Any:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/{number}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def asks_by_http(url: str) -> AsyncIterator[list[Ask]]:
    aiohttp: Any = import_module("aiohttp")

    async def ask(address: str, body: bytes) -> bytes:
        async with session.post(address, data=body) as response:
            data: bytes = await response.read()
            return data

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield [partial(ask, f"{url}/{number}") for number in range(DESTINATIONS)]


MBACTOR, UNCOALESCED, NATS_PY, RAW, HTTP = "mbactor", "mbactor uncoalesced", "nats-py", "raw", "HTTP/1.1"
ONE_PROCESS, SHORT_CIRCUIT = "one process", "short-circuit"
WAYS = {
    way.name: way
    for way in (
        Way(MBACTOR, "an ask of an actor", *_actors(coalesce=True)),
        Way(UNCOALESCED, "the same, a message of the broker each", *_actors(coalesce=False)),
        Way(
            NATS_PY,
            f"nats-py {metadata.version('nats-py')}, request and respond as documented",
            take_by_nats_py,
            asks_by_nats_py,
        ),
        Way(RAW, "the floor: an asyncio.Protocol that speaks NATS and does nothing else", take_raw, asks_raw),
        Way(HTTP, "its client and its server", take_by_http, asks_by_http, package="aiohttp", broker=False),
        Way(ONE_PROCESS, "two systems, each with a connection", None, both_in_one),
        Way(SHORT_CIRCUIT, "one system", None, without_a_broker, broker=False),
    )
}


async def first_answer(ask: Ask, body: bytes | None) -> None:
    """Wait until the taker answers: what it has subscribed may not be known everywhere at once."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await asyncio.wait_for(ask(body), 1)
            except Exception:  # noqa: BLE001 - each way has its own error for it
                await asyncio.sleep(0.01)
            else:
                return
