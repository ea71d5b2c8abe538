"""Both ends of large asks, each in a process of its own: `serve URL`, and `ask URL SIZE`, which prints what it needed."""

from __future__ import annotations

import asyncio
import resource
import sys

import anyio

from mbactor import Actor, ActorSystem, MbactorError, endpoint, event, sink
from mbactor.transport import Bus

PLANE = "large"


class Source(Actor):
    """Tells others."""

    host = "source.example"

    @event
    async def on_news(self, data: bytes) -> None: ...


class Reader(Actor):
    """One of the readers has each news."""

    host = "reader.example"

    def __init__(self) -> None:
        self.read: list[bytes] = []

    @sink(Source.on_news)
    async def news(self, data: bytes) -> None:
        self.read.append(data)

    @endpoint
    async def have_read(self) -> list[bytes]:
        return self.read


class Listener(Reader):
    """Every listener has each news."""

    host = "listener.example"

    @sink(Source.on_news, queue="every")
    async def news(self, data: bytes) -> None:
        self.read.append(data)


class Store(Actor):
    """Takes and gives back."""

    host = "store.example"

    def __init__(self) -> None:
        self.told: list[int] = []
        self.calls = 0

    @endpoint
    async def echo(self, data: bytes) -> bytes:
        self.calls += 1
        return data

    @endpoint
    async def size(self, data: bytes) -> int:
        self.calls += 1
        return len(data)

    @endpoint(queue="every")
    async def each(self, data: bytes) -> int:
        return len(data)

    @endpoint(queue="every")
    async def make_each(self, size: int) -> bytes:
        return bytes(size)

    @endpoint
    async def make(self, size: int) -> bytes:
        return bytes(size)

    @endpoint
    async def refuse(self, size: int) -> None:
        raise MbactorError("x" * size)

    @endpoint
    async def keep(self, data: bytes) -> None:
        self.told.append(len(data))

    @endpoint
    async def kept(self) -> list[int]:
        return self.told

    @endpoint
    async def count(self) -> int:
        return self.calls

    @endpoint
    async def hold(self) -> None:
        await asyncio.Event().wait()

    @endpoint
    async def fall(self) -> None:
        raise RuntimeError("fell")

    @endpoint
    async def peak(self) -> int:
        """Bytes this process has had at once."""
        return peak()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def system(name: str, bus: str | Bus, max_body: int = 2**30) -> ActorSystem:
    return ActorSystem(name, bus, PLANE, watchdog=None, max_body=max_body)


async def serve(url: str) -> None:
    async with system("serves", url) as serves:
        await serves.spawn(Store)
        await serves.node.remote.flush()
        print("ready", flush=True)
        await serves.wait()


async def ask(url: str, size: int) -> None:
    """Prints, as multiples of the body, what it and the process that served it needed beyond what they had before."""
    async with system("asks", url) as asks:
        await asks.ask(Store.echo, b"warm")
        before = peak(), await asks.ask(Store.peak)
        data = bytes(size)
        with anyio.fail_after(240):
            assert await asks.ask(Store.echo, data) == data
        after = peak(), await asks.ask(Store.peak)
        print("peak", *((b - a) / size for a, b in zip(before, after, strict=True)), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", url]:
            asyncio.run(serve(url))
        case ["ask", url, size]:
            asyncio.run(ask(url, int(size)))
