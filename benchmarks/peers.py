"""Other actor libraries for Python, in the same run: the same adding of integers, each called as its own manual says.

A peer that is not installed is skipped, with a line that says so: `pip install -e '.[peers]'` brings all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

from benchmarks.harness import Bench, Case, Figure, InvalidRun, Measured, Pass, Result, Target, percentiles
from benchmarks.messages import BURST, LATENCY, Counter, numbers
from mbactor import ActorRef, ActorSystem

PATIENCE = 60
"""Seconds for an answer of a peer."""


class Adder(Protocol):
    """An actor that adds: what it is told, and what it is asked to. Both return the total."""

    async def told(self, values: list[int]) -> int:
        """Tell it all of them, and wait until it has added all."""
        ...

    async def asked(self, values: list[int], times: list[float]) -> int:
        """Ask it for the total after each; note when each answer was there."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """A library: `share` is how much of the work it gets, where it is slow."""

    name: str
    package: str
    how: str
    open: Callable[[], Any]
    share: float = 1.0

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None

    def said(self) -> str:
        return f"{self.package} {metadata.version(self.package)}, {self.how}"


# --- mbactor -------------------------------------------------------------------------------------------------


@dataclass
class Ours:
    counter: ActorRef[Counter]

    async def told(self, values: list[int]) -> int:
        for value in values:
            self.counter.tell(Counter.add, by=value)
        return await self.counter.ask(Counter.read)

    async def asked(self, values: list[int], times: list[float]) -> int:
        total = 0
        for value in values:
            total = await self.counter.ask(Counter.add, by=value)
            times.append(perf_counter())
        return total


@asynccontextmanager
async def ours() -> AsyncIterator[Adder]:
    async with ActorSystem() as system:
        yield Ours(await system.spawn(Counter))


# --- Pykka: a thread an actor ---------------------------------------------------------------------------------


@dataclass
class Pykka:
    adder: Any

    async def told(self, values: list[int]) -> int:
        for value in values:
            self.adder.tell(value)
        total: int = self.adder.ask(0, timeout=PATIENCE)
        return total

    async def asked(self, values: list[int], times: list[float]) -> int:
        total = 0
        for value in values:
            total = self.adder.ask(value)
            times.append(perf_counter())
        return total


@asynccontextmanager
async def pykka() -> AsyncIterator[Adder]:
    library: Any = import_module("pykka")

    class Adding(library.ThreadingActor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.total = 0

        def on_receive(self, message: int) -> int:
            self.total += message
            return self.total

    adder = Adding.start()
    try:
        yield Pykka(adder)
    finally:
        adder.stop(timeout=PATIENCE)


# --- Thespian: in this process, or a process an actor ----------------------------------------------------------


@dataclass
class Thespian:
    system: Any
    adder: Any
    words: Any

    async def told(self, values: list[int]) -> int:
        told = self.words.TOLD
        for value in values:
            self.system.tell(self.adder, (told, value))
        total: int = self.system.ask(self.adder, (self.words.ASKED, 0), PATIENCE)
        return total

    async def asked(self, values: list[int], times: list[float]) -> int:
        asked, total = self.words.ASKED, 0
        for value in values:
            total = self.system.ask(self.adder, (asked, value), PATIENCE)
            times.append(perf_counter())
        return total


def thespian(kind: str) -> Callable[[], Any]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Adder]:
        library: Any = import_module("thespian.actors")
        words: Any = import_module("benchmarks.thespian_adder")
        system = library.ActorSystem(kind, transientUnique=True)
        try:
            yield Thespian(system, system.createActor(words.Adding), words)
        finally:
            system.shutdown()

    return opened


# --- xoscar: an actor pool of this event loop ------------------------------------------------------------------


@dataclass
class Xoscar:
    adder: Any

    async def told(self, values: list[int]) -> int:
        for value in values:
            await self.adder.add.tell(value)
        total: int = await self.adder.add(0)
        return total

    async def asked(self, values: list[int], times: list[float]) -> int:
        total = 0
        for value in values:
            total = await self.adder.add(value)
            times.append(perf_counter())
        return total


@asynccontextmanager
async def xoscar() -> AsyncIterator[Adder]:
    library: Any = import_module("xoscar")

    class Adding(library.Actor):  # type: ignore[misc]
        def __init__(self) -> None:
            self.total = 0

        async def add(self, by: int) -> int:
            self.total += by
            return self.total

    pool = await library.create_actor_pool("127.0.0.1:0", n_process=0)
    async with pool:
        yield Xoscar(await library.create_actor(Adding, address=pool.external_address, uid="adding"))


PEERS = (
    Peer("Pykka", "pykka", "tell and ask of a ThreadingActor", pykka),
    Peer(
        "Thespian (simple)",
        "thespian",
        "simpleSystemBase: each message is a call within the sender's",
        thespian("simpleSystemBase"),
    ),
    Peer(
        "Thespian (processes)",
        "thespian",
        "multiprocQueueBase: a process an actor",
        thespian("multiprocQueueBase"),
        share=0.05,
    ),
    Peer("xoscar", "xoscar", "an actor of a pool in this process and event loop", xoscar, share=0.25),
)


# --- measured in turn --------------------------------------------------------------------------------------------


async def measure(bench: Bench) -> list[Result]:
    """Tells and asks, of mbactor and of each peer that is there, in turn."""
    return await measure_beside(bench, PEERS)


async def measure_beside(bench: Bench, peers: Sequence[Peer]) -> list[Result]:
    """The same with some of them; those that are not there, or don't run, are noted as skipped."""
    results: list[Result] = []
    async with AsyncExitStack() as stack:
        adders = {"mbactor": (await stack.enter_async_context(ours()), 1.0)}
        here: list[Peer] = []
        for peer in peers:
            if not peer.installed:
                bench.skipped.append(f"{peer.name}: not installed, skipped; pip install '{peer.package}'")
                continue
            try:
                adders[peer.name] = (await stack.enter_async_context(peer.open()), peer.share)
            except Exception as error:  # noqa: BLE001 - whatever keeps another library from running here
                bench.skipped.append(f"{peer.name}: it does not run here, skipped; {type(error).__name__}: {error}")
                continue
            here.append(peer)
        for kind, work in (("tell", _tells), ("ask", _asks)):
            taken = await bench.in_turn(f"{kind} beside its peers", {n: work(bench, *a) for n, a in adders.items()})
            results += [_result(bench, kind, peer, taken) for peer in here]
    return results


def _result(bench: Bench, kind: str, peer: Peer, taken: dict[str, list[Measured]]) -> Result:
    target = Target(3.0) if peer.package == "pykka" else None
    figure = Figure(f"{kind}, beside {peer.name}", "1/s", beside=LATENCY if kind == "ask" else (), target=target)
    return bench.result(figure, taken["mbactor"], taken[peer.name], peer.said(), {"peer": peer.name, "kind": kind})


def _tells(bench: Bench, adder: Adder, share: float) -> Pass:
    bursts = max(1, round(share * bench.size(10, 1)))
    values = numbers(bench, BURST)

    async def work() -> Measured:
        before = await adder.told([])
        total = 0
        began = perf_counter()
        for _ in range(bursts):
            total = await adder.told(values)
        took = perf_counter() - began
        _check(total - before, bursts * sum(values))
        return {"rate": bursts * len(values) / took}

    return work


def _asks(bench: Bench, adder: Adder, share: float) -> Pass:
    values = numbers(bench, max(20, round(share * bench.size(4_000, 100))))

    async def work() -> Measured:
        before = await adder.told([])
        times = [perf_counter()]
        total = await adder.asked(values, times)
        _check(total - before, sum(values))
        each = [after - before for before, after in pairwise(times)]
        return {"rate": len(values) / sum(each), **percentiles(each, "us")}

    return work


def _check(found: int, expected: int) -> None:
    if found != expected:
        raise InvalidRun(f"{found} were added instead of {expected}")


CASES = (Case("peers", f"tell and ask beside {', '.join(peer.name for peer in PEERS)}", measure),)
