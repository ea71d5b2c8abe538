"""What asks: a closed loop that keeps so many requests in flight, and an open one that sends on a schedule.

Both run in the asker's process and look there at what each process has used of the CPU, in the same moments in which
they look at the clock.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from benchmarks.harness import SEED, InvalidRun, percentiles, settle_heap

PATIENCE = 20.0
"""Seconds that an answer may take."""
POLL = 0.001
"""Seconds between two looks whether there are enough answers."""

Body = bytes | None
Ask = Callable[[Any], Awaitable[Any]]
"""Asks with a body for its echo."""


class Load(msgspec.Struct, frozen=True):
    """What is asked, and for how long: `in_flight` at once, or `rate` a second whatever is still in flight.

    `payload` is the size of the body, 0 is no body at all. `warm` seconds come before those that count. `watched` are
    the processes whose CPU time is looked at, by what they do.
    """

    payload: int
    seconds: float
    warm: float
    in_flight: int = 0
    rate: float = 0.0
    destinations: int = 1
    watched: dict[str, int] = {}

    def body(self) -> Body:
        return random.Random(SEED).randbytes(self.payload) if self.payload else None


async def run(asks: Sequence[Ask], load: Load) -> dict[str, float]:
    """What a pass measured. InvalidRun where an answer was wrong."""
    settle_heap()
    asks = asks[: load.destinations]
    return await (open_loop(asks, load) if load.rate else closed_loop(asks, load))


async def closed_loop(asks: Sequence[Ask], load: Load) -> dict[str, float]:
    """Rate, percentiles, and CPU time a request while `in_flight` of them are always on their way."""
    body, turn = load.body(), cycle(asks)
    times: list[float] = []
    running = True

    async def keep_asking() -> None:
        while running:
            began = perf_counter()
            if await next(turn)(body) != body:
                raise InvalidRun("an answer was wrong")
            times.append(perf_counter() - began)

    async with asyncio.timeout(PATIENCE + load.warm + load.seconds):
        asking = asyncio.gather(*(keep_asking() for _ in range(load.in_flight)))
        await _collect(times, load.in_flight, load.warm, asking)  # connections are made, caches are filled
        times.clear()
        used, began = _used(load.watched), perf_counter()
        await _collect(times, load.in_flight, load.seconds, asking)
        took, by, measured = perf_counter() - began, _used(load.watched), list(times)
        running = False
        await asking
    cpu = {f"{name}_us": 1e6 * (by[name] - used[name]) / len(measured) for name in by}
    total = {"cpu_us": sum(cpu.values())} if cpu else {}
    return {"rate": len(measured) / took, **percentiles(measured, "us"), **cpu, **total}


async def _collect(times: list[float], least: int, seconds: float, asking: asyncio.Future[Any]) -> None:
    """For so long, and then until there are as many answers as asks in flight, or one has failed."""
    await asyncio.sleep(seconds)
    while len(times) < least and not asking.done():  # noqa: ASYNC110 - an event is one more thing for each answer to do
        await asyncio.sleep(POLL)
    if asking.done():
        await asking


async def open_loop(asks: Sequence[Ask], load: Load) -> dict[str, float]:
    """Poisson arrivals at `rate`: how long from the moment each was due to its answer, however late it could be sent.

    `achieved` is the rate of the answers until the last of them: that of the arrivals, where it kept up with them.
    """
    arrivals = Arrivals(asks, load)
    await arrivals.send()
    if arrivals.waiting:
        await asyncio.wait(list(arrivals.waiting), timeout=PATIENCE)
    return arrivals.measured()


class Arrivals:
    """Asks when each is due, and notes what becomes of it."""

    def __init__(self, asks: Sequence[Ask], load: Load) -> None:
        self._asks = asks
        self._load = load
        self._body = load.body()
        self._random = random.Random(SEED)
        self._began = perf_counter() + load.warm
        """What is due before warms up."""
        self._ended = self._began + load.seconds
        self._last = self._began
        self._times: list[float] = []
        self._asked = self._answered = 0
        self._failed: Counter[str] = Counter()
        self.waiting: set[asyncio.Future[Any]] = set()

    async def send(self) -> None:
        """Until the last is sent. The loop is kept busy meanwhile, for no timer is as exact as the schedule."""
        due = self._began - self._load.warm
        while due < self._ended:
            now = perf_counter()
            while due <= now and due < self._ended:
                self._ask(due)
                due += self._random.expovariate(self._load.rate)
            await asyncio.sleep(0)

    def _ask(self, due: float) -> None:
        future = asyncio.ensure_future(self._random.choice(self._asks)(self._body))
        self._asked += 1
        self.waiting.add(future)
        future.add_done_callback(partial(self._done, due))

    def _done(self, due: float, future: asyncio.Future[Any]) -> None:
        self.waiting.discard(future)
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None or future.result() != self._body:
            self._failed["a wrong answer" if error is None else type(error).__name__] += 1
            return
        self._answered += 1
        if due >= self._began:
            self._last = perf_counter()
            self._times.append(self._last - due)

    def measured(self) -> dict[str, float]:
        """InvalidRun where nothing was answered at all."""
        if not self._times:
            raise InvalidRun(f"none of {self._asked:,} asks was answered: {dict(self._failed) or 'they still wait'}")
        return {
            "achieved": len(self._times) / (self._last - self._began),
            "asked": self._asked,
            "answered": self._answered / self._asked,
            "lost": self._asked - self._answered,
            **percentiles(self._times, "us"),
            **{f"failed as {kind}": count for kind, count in self._failed.items()},
        }


def _used(watched: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU time that each process has used so far; empty where the system does not say."""
    try:
        return {name: cpu_time(pid) for name, pid in watched.items()}
    except (OSError, IndexError, ValueError):
        return {}


def cpu_time(pid: int) -> float:
    """Seconds that the threads of a process have run. OSError where the system keeps no such account."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9
