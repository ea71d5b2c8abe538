"""A bad client: how long others wait while one actor is asked, a thousand times a second, for what makes it crash."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from benchmarks.harness import Bench, Case, Figure, InvalidRun, Measured, Result, percentiles
from benchmarks.messages import Counter, check_delivered
from mbactor import Actor, ActorStopped, ActorSystem, Mailbox, endpoint

A_SECOND = 1_000
TICK = 0.001


class Fragile(Actor):
    """Crashes whenever it is asked, and is started anew; meanwhile its mailbox fills."""

    mailbox = Mailbox(capacity=500)

    @endpoint
    async def crash(self, number: int) -> None:
        raise ValueError(f"number {number} is a bad one")


class Resuming(Fragile):
    """Crashes as often, and goes on as it is: each of the bad messages reaches it."""

    on_error = "resume"


class BadClient:
    """Asks so many times a second, whatever comes back, and counts what comes back."""

    def __init__(self, ask: Callable[[int], Awaitable[Any]]) -> None:
        self._ask = ask
        self._waiting: set[asyncio.Future[Any]] = set()
        self.sent = 0
        self.answers: Tally[str] = Tally()

    async def run(self) -> None:
        began = perf_counter()
        while True:
            while self.sent < (perf_counter() - began) * A_SECOND:
                asked = asyncio.ensure_future(self._ask(self.sent))
                self._waiting.add(asked)
                asked.add_done_callback(self._answered)
                self.sent += 1
            await asyncio.sleep(TICK)

    def _answered(self, asked: asyncio.Future[Any]) -> None:
        self._waiting.discard(asked)
        if not asked.cancelled():
            self.answers[type(asked.exception()).__name__] += 1

    def leave(self) -> None:
        """Wait for no answer any more."""
        for asked in list(self._waiting):
            asked.cancel()

    def check(self, what: str) -> None:
        """InvalidRun where it got another answer than an error of an actor that is still there."""
        astray = self.answers.keys() & {ActorStopped.__name__, type(None).__name__}
        if astray or not self.answers:
            raise InvalidRun(f"{what}: the bad client was answered {dict(self.answers)}")


def _bad_client(victim: type[Fragile]) -> Callable[[Bench], Awaitable[list[Result]]]:
    name = "restarts" if victim is Fragile else "resumes"

    async def measure(bench: Bench) -> list[Result]:
        seconds = 0.15 if bench.quick else 1.0
        answers: Tally[str] = Tally()

        async def alone() -> Measured:
            async with ActorSystem() as system:
                return await _asks_of_a_neighbour(system, seconds)

        async def beside() -> Measured:
            async with ActorSystem() as system, _client(system, victim, answers) as client:
                began = perf_counter()
                measured = await _asks_of_a_neighbour(system, seconds)
                return {**measured, "bad_a_second": client.sent / (perf_counter() - began)}

        figure = Figure(f"ask p99 beside an actor that {name}", "us", "p99_us", "lower", beside=("mean_us", "p99_us"))
        taken = await bench.in_turn(
            figure.case, {"alone": alone, "with the bad client": beside}, passes=bench.size(3, 1), warm=False
        )
        pestered = taken["with the bad client"]
        rate = sum(each["bad_a_second"] for each in pestered) / len(pestered)
        told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(answers.items()))
        note = f"{rate:,.0f} bad asks a second, which were answered {told}"
        floor_is = f"the same for {seconds:g} s without the bad client"
        return [bench.result(figure, pestered, taken["alone"], floor_is, {"note": note})]

    return measure


@asynccontextmanager
async def _client(system: ActorSystem, victim: type[Fragile], answers: Tally[str]) -> AsyncIterator[BadClient]:
    fragile = await system.spawn(victim)
    client = BadClient(lambda number: fragile.ask(Fragile.crash, number))
    asking = asyncio.get_running_loop().create_task(client.run())
    try:
        yield client
    finally:
        asking.cancel()
        await asyncio.wait([asking])
        client.leave()
    client.check(victim.__name__)
    answers.update(client.answers)


async def _asks_of_a_neighbour(system: ActorSystem, seconds: float) -> Measured:
    counter = await system.spawn(Counter)
    times: list[float] = []
    began = last = perf_counter()
    while last - began < seconds:
        await counter.ask(Counter.add, by=1)
        now = perf_counter()
        times.append(now - last)
        last = now
    if await counter.ask(Counter.read) != len(times):
        raise InvalidRun("an ask of the neighbour was lost")
    check_delivered(system)
    return percentiles(times, "us")


CASES = tuple(
    Case("a bad client", f"ask p99 beside an actor that {what}", _bad_client(victim))
    for what, victim in (("restarts", Fragile), ("resumes", Resuming))
)
