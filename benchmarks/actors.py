"""Actors: tells, asks, spawns and memory, each beside the least it could cost on this event loop."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from benchmarks.harness import Bench, Figure, InvalidRun, Measured, Result, percentiles
from mbactor import Actor, ActorRef, ActorSystem, Mailbox, endpoint

BURST = 1_000
"""Tells sent before the sender waits until all of them have been handled."""
IN_FLIGHT = 64
FLOOR_TIMES = 50
"""How many more times a floor of nanoseconds is repeated than its case."""


class Counter(Actor):
    """Counts what it is told, and says what it is asked to."""

    mailbox = Mailbox(capacity=4 * BURST)

    def __init__(self) -> None:
        self.total = 0

    @endpoint
    async def add(self, by: int) -> None:
        self.total += by

    @endpoint
    async def echo(self, value: int) -> int:
        return value

    @endpoint
    async def read(self) -> int:
        return self.total


class Idle(Actor):
    """Waits for messages that never come."""

    def __init__(self, number: int) -> None:
        self.number = number


async def measure(bench: Bench) -> list[Result]:
    """All cases, on the running event loop."""
    results: list[Result] = []
    async with ActorSystem() as system:
        counter = await system.spawn(Counter)
        for measured in (_tells, _asks, _asks_in_flight):
            results += await measured(bench, counter)
        _check(system)
    return [*results, *await _spawns(bench), *await _memory(bench)]


def _check(system: ActorSystem) -> None:
    lost = list(system.dead_letters)
    if lost:
        raise InvalidRun(f"{len(lost)} messages were not delivered, the first: {lost[0]}")


# --- tells -------------------------------------------------------------------------------------------------


async def _tells(bench: Bench, counter: ActorRef[Counter]) -> list[Result]:
    bursts = bench.size(20, 2)
    values = [bench.random.randrange(1_000) for _ in range(BURST)]

    async def case() -> Measured:
        before = await counter.ask(Counter.read)
        began = perf_counter()
        for _ in range(bursts):
            for value in values:
                counter.tell(Counter.add, by=value)
            await counter.ask(Counter.read)  # in order: it is answered after all of them
        took = perf_counter() - began
        if await counter.ask(Counter.read) != before + bursts * sum(values):
            raise InvalidRun("a tell was lost")
        return {"rate": bursts * BURST / took}

    async def floor() -> Measured:
        queue: deque[dict[str, Any]] = deque()
        add = Counter().add
        began = perf_counter()
        for _ in range(bursts):
            for value in values:
                queue.append({"by": value})
            while queue:
                await add(**queue.popleft())
            await asyncio.sleep(0)
        return {"rate": bursts * BURST / (perf_counter() - began)}

    floor_is = "a bare deque, emptied by a loop that awaits the same method"
    return await bench.compare([Figure("tell", "1/s")], case, floor, floor_is=floor_is)


# --- asks --------------------------------------------------------------------------------------------------


class Pair:
    """Two tasks and a future for each question: the least that an answer can cost."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[asyncio.Future[int], int]] = deque()
        self._parked: asyncio.Future[None] | None = None
        self._server = self._loop.create_task(self._serve(Counter().echo))

    def ask(self, value: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        self._queue.append((future, value))
        if self._parked is not None:
            self._parked.set_result(None)
            self._parked = None
        return future

    async def _serve(self, method: Callable[[int], Awaitable[int]]) -> None:
        while True:
            while self._queue:
                future, value = self._queue.popleft()
                future.set_result(await method(value))
            parked = self._parked = self._loop.create_future()
            await parked

    async def close(self) -> None:
        self._server.cancel()
        await asyncio.wait([self._server])


Ask = Callable[[int], Awaitable[int]]
ROUND_TRIP = "a bare future round trip between two tasks that await the same method"


async def _asks(bench: Bench, counter: ActorRef[Counter]) -> list[Result]:
    count = bench.size(10_000, 500)
    values = [bench.random.randrange(1_000) for _ in range(count)]

    async def one_at_a_time(ask: Ask) -> Measured:
        times: list[float] = []
        began = last = perf_counter()
        for value in values:
            if await ask(value) != value:
                raise InvalidRun("an answer was wrong")
            now = perf_counter()
            times.append(now - last)
            last = now
        return {"rate": count / (last - began), **percentiles(times, "us")}

    figures = [
        Figure("ask p50", "us", "p50_us", "lower"),
        Figure("ask p99", "us", "p99_us", "lower"),
        Figure("ask, one at a time", "1/s"),
    ]
    return await bench.compare(figures, *_beside(counter, one_at_a_time), floor_is=ROUND_TRIP)


async def _asks_in_flight(bench: Bench, counter: ActorRef[Counter]) -> list[Result]:
    each = bench.size(200, 10)

    async def asker(ask: Ask, first: int) -> None:
        for value in range(first, first + each):
            if await ask(value) != value:
                raise InvalidRun("an answer was wrong")

    async def together(ask: Ask) -> Measured:
        began = perf_counter()
        await asyncio.gather(*(asker(ask, first) for first in range(IN_FLIGHT)))
        return {"rate": IN_FLIGHT * each / (perf_counter() - began)}

    figure = Figure(f"ask, {IN_FLIGHT} in flight", "1/s")
    return await bench.compare([figure], *_beside(counter, together), floor_is=ROUND_TRIP)


def _beside(
    counter: ActorRef[Counter], run: Callable[[Ask], Awaitable[Measured]]
) -> tuple[Callable[[], Awaitable[Measured]], Callable[[], Awaitable[Measured]]]:
    """The same asking of an actor and of a bare pair of tasks."""

    async def case() -> Measured:
        def ask(value: int) -> Awaitable[int]:
            return counter.ask(Counter.echo, value=value)

        return await run(ask)

    async def floor() -> Measured:
        pair = Pair()

        def ask(value: int) -> Awaitable[int]:
            return pair.ask(value)

        try:
            return await run(ask)
        finally:
            await pair.close()

    return case, floor


# --- spawns and memory -------------------------------------------------------------------------------------


async def _spawns(bench: Bench) -> list[Result]:
    count = bench.size(1_000, 50)

    async def case() -> Measured:
        async with ActorSystem() as system:
            began = perf_counter()
            for number in range(count):
                await system.spawn(Idle, number)
            return {"rate": count / (perf_counter() - began)}

    async def floor() -> Measured:
        began = perf_counter()
        for _ in range(FLOOR_TIMES):
            held = {}
            for number in range(count):
                held[number] = Idle(number)
        return {"rate": FLOOR_TIMES * count / (perf_counter() - began)}

    floor_is = "the object is constructed and put into a dict"
    return await bench.compare([Figure("spawn", "1/s")], case, floor, floor_is=floor_is)


async def _memory(bench: Bench) -> list[Result]:
    count = bench.size(20_000, 200)

    async def case() -> Measured:
        async with ActorSystem() as system:
            await system.spawn(Idle, -1)
            before = _allocated()
            for number in range(count):
                await system.spawn(Idle, number)
            return {"bytes": (_allocated() - before) / count}

    async def floor() -> Measured:
        before = _allocated()
        held = {number: Idle(number) for number in range(count)}
        return {"bytes": (_allocated() - before) / len(held)}

    figure = Figure("idle actor", "bytes", "bytes", "lower")
    tracemalloc.start()
    try:
        return await bench.compare(
            [figure], case, floor, passes=1, warm=False,
            floor_is=f"a bare instance in a dict (both by tracemalloc, over {count:,} of them)",
            more={"by": "tracemalloc", "actors": count},
        )  # fmt: skip
    finally:
        tracemalloc.stop()


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
