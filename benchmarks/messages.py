"""Tells and asks, each beside the least it could cost on this event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from benchmarks.bare import Pair
from benchmarks.harness import Bench, Case, Figure, InvalidRun, Measured, Pass, Result, Target, percentiles
from mbactor import Actor, ActorRef, ActorSystem, Mailbox, endpoint

BURST = 1_000
"""Tells sent before the sender waits until all of them have been handled."""
IN_FLIGHT = 64
TIMED = 4
"""Of those in flight, how many note how long each ask took: noting costs time, too."""
LATENCY = ("mean_us", "p99_us")
ROUND_TRIP = "a bare future round trip between two tasks that await the same method"

Ask = Callable[[int], Awaitable[int]]


class Counter(Actor):
    """Counts what it is told, and says what it is asked to."""

    mailbox = Mailbox(capacity=4 * BURST)

    def __init__(self) -> None:
        self.total = 0

    @endpoint
    async def add(self, by: int) -> int:
        self.total += by
        return self.total

    @endpoint
    async def echo(self, value: int) -> int:
        return value

    @endpoint
    async def read(self) -> int:
        return self.total


def check_delivered(system: ActorSystem) -> None:
    """InvalidRun where a message did not reach its actor."""
    lost = list(system.dead_letters)
    if lost:
        raise InvalidRun(f"{len(lost)} messages were not delivered, the first: {lost[0]}")


def numbers(bench: Bench, count: int) -> list[int]:
    """What is added or echoed: the same in each run."""
    return [bench.random.randrange(1_000) for _ in range(count)]


# --- tells -------------------------------------------------------------------------------------------------


async def tells(bench: Bench) -> list[Result]:
    bursts, values = bench.size(20, 2), numbers(bench, BURST)
    async with ActorSystem() as system:
        counter = await system.spawn(Counter)
        results = await bench.compare(
            [Figure("tell", "1/s", target=Target(0.30))],
            telling(counter, bursts, values),
            _deque_loop(bursts, values),
            floor_is="a bare deque, emptied by a loop that awaits the same method",
        )
        check_delivered(system)
    return results


def telling(counter: ActorRef[Counter], bursts: int, values: list[int]) -> Pass:
    """A pass of bursts of tells, each of which is over when all of it has been added."""

    async def told() -> Measured:
        before = await counter.ask(Counter.read)
        began = perf_counter()
        for _ in range(bursts):
            for value in values:
                counter.tell(Counter.add, by=value)
            await counter.ask(Counter.read)  # in order: it is answered after all of them
        took = perf_counter() - began
        if await counter.ask(Counter.read) != before + bursts * sum(values):
            raise InvalidRun("a tell was lost")
        return {"rate": bursts * len(values) / took}

    return told


def _deque_loop(bursts: int, values: list[int]) -> Pass:
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
        return {"rate": bursts * len(values) / (perf_counter() - began)}

    return floor


# --- asks --------------------------------------------------------------------------------------------------


async def asks(bench: Bench) -> list[Result]:
    values = numbers(bench, bench.size(10_000, 500))

    async def one_at_a_time(ask: Ask) -> Measured:
        times = await asking(ask, values, values)
        return {"rate": len(times) / sum(times), **percentiles(times, "us")}

    figures = [
        Figure("ask p50", "us", "p50_us", "lower"),
        Figure("ask p99", "us", "p99_us", "lower"),
        Figure("ask, one at a time", "1/s", beside=LATENCY, target=Target(0.55)),
    ]
    return await _beside_floor(bench, figures, one_at_a_time)


async def asking(ask: Ask, values: list[int], expected: list[int]) -> list[float]:
    """Ask one after the other; how long each took, from the answer before it."""
    times: list[float] = []
    last = perf_counter()
    for value, answer in zip(values, expected, strict=True):
        if await ask(value) != answer:
            raise InvalidRun("an answer was wrong")
        now = perf_counter()
        times.append(now - last)
        last = now
    return times


async def asks_in_flight(bench: Bench) -> list[Result]:
    each = bench.size(200, 10)

    async def asker(ask: Ask, first: int) -> None:
        for value in range(first, first + each):
            if await ask(value) != value:
                raise InvalidRun("an answer was wrong")

    async def together(ask: Ask) -> Measured:
        timed = list(range(each))
        began = perf_counter()
        noted = asyncio.gather(*(asking(ask, timed, timed) for _ in range(TIMED)))
        await asyncio.gather(*(asker(ask, first) for first in range(TIMED, IN_FLIGHT)))
        times = [time for noting in await noted for time in noting]
        return {"rate": IN_FLIGHT * each / (perf_counter() - began), **percentiles(times, "us")}

    return await _beside_floor(bench, [Figure(f"ask, {IN_FLIGHT} in flight", "1/s", beside=LATENCY)], together)


async def _beside_floor(bench: Bench, figures: list[Figure], run: Callable[[Ask], Awaitable[Measured]]) -> list[Result]:
    """The same asking of an actor and of a bare pair of tasks."""
    async with ActorSystem() as system:
        counter = await system.spawn(Counter)

        async def case() -> Measured:
            def ask(value: int) -> Awaitable[int]:
                return counter.ask(Counter.echo, value=value)

            return await run(ask)

        async def floor() -> Measured:
            pair = Pair(Counter().echo)
            try:
                return await run(pair.ask)
            finally:
                await pair.close()

        results = await bench.compare(figures, case, floor, floor_is=ROUND_TRIP)
        check_delivered(system)
    return results


CASES = (
    Case("messages", "tell", tells),
    Case("messages", "ask, one at a time, p50, p99", asks),
    Case("messages", f"ask, {IN_FLIGHT} in flight", asks_in_flight),
)
