"""Supervision: restarts, storms of them, trees of 10,000 started and stopped, beside bare tasks that do the same."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

from benchmarks.harness import (
    Bench,
    Case,
    Figure,
    Measured,
    Pass,
    Result,
    Target,
    measure_all,
    percentiles,
)
from benchmarks.messages import check_delivered
from mbactor import Actor, ActorRef, ActorSystem, DynamicSupervisor, Supervisor, child, endpoint

SECONDS = 6.0
"""After so long a case gets no further pass."""
CHEAP = Target(10.0)
"""How many times the floor a restart may cost."""
MANY = 1_000_000
"""Restarts that no run comes to."""
BRANCHES = 100
"""How many supervisors stand between the root of the nested tree and its actors."""


class Boom(Exception):
    """What actors and bare tasks crash of."""


class Idle(Actor):
    """Waits for messages that never come."""


class Fragile(Actor):
    """Crashes when it is told to. `begun` is called for each incarnation, `crashes` before each crash."""

    def __init__(self, begun: Callable[[], None] | None = None, crashes: Callable[[], None] | None = None) -> None:
        self.crashes = crashes
        if begun is not None:
            begun()

    @endpoint
    async def crash(self) -> None:
        if self.crashes is not None:
            self.crashes()
        raise Boom

    @endpoint
    async def ping(self) -> None:
        """Is there."""


async def crash_bare() -> None:
    raise Boom


# --- one actor ---------------------------------------------------------------------------------------------


async def restarts(bench: Bench) -> list[Result]:
    """One actor whose every incarnation crashes of its first message, which was told while it was constructed."""
    count = bench.size(5_000, 200)

    async def case() -> Measured:
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        left = count + 1

        def begun() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(perf_counter())
            elif left < count:
                ref.tell(Fragile.crash)

        async with ActorSystem() as system:
            [ref] = await _supervised(system, begun=begun)
            began = perf_counter()
            ref.tell(Fragile.crash)
            took = await done - began
            check_delivered(system)
        return _each(took, count)

    async def floor() -> Measured:
        loop = asyncio.get_running_loop()
        began = perf_counter()
        for _ in range(count):
            with suppress(Boom):
                await loop.create_task(crash_bare())
        return _each(perf_counter() - began, count)

    return await bench.compare(
        [Figure("restart of one actor", "us", "each_us", "lower", target=CHEAP), Figure("restarts, one by one", "1/s")],
        case, floor,
        floor_is="a bare task that raises the same, awaited and created anew",
    )  # fmt: skip


def _each(took: float, count: int) -> Measured:
    return {"each_us": 1e6 * took / count, "rate": count / took}


async def answers(bench: Bench) -> list[Result]:
    """From the crash to the answer of an ask that waits for the next incarnation."""
    count = bench.size(2_000, 100)

    async def case() -> Measured:
        crashed: list[float] = []
        answered: list[float] = []
        async with ActorSystem() as system:
            [ref] = await _supervised(system, crashes=lambda: crashed.append(perf_counter()))
            for _ in range(count):
                ref.tell(Fragile.crash)
                await ref.ask(Fragile.ping)
                answered.append(perf_counter())
            check_delivered(system)
        return percentiles([end - begin for begin, end in zip(crashed, answered, strict=True)], "us")

    async def floor() -> Measured:
        loop = asyncio.get_running_loop()
        times: list[float] = []
        for _ in range(count):
            answer: asyncio.Future[None] = loop.create_future()
            raised = _bare_restart(answer)
            await answer
            times.append(perf_counter() - raised[0])
        return percentiles(times, "us")

    figures = [Figure(f"crash to first answer, {p}", "us", f"{p}_us", "lower") for p in ("p50", "p99")]
    floor_is = "a bare task that raises; at its end another is created, which answers by a future"
    return await bench.compare(figures, case, floor, floor_is=floor_is)


def _bare_restart(answer: asyncio.Future[None]) -> list[float]:
    """A bare task that raises, and at its end another one that answers; when it raised will be in the list."""
    loop = asyncio.get_running_loop()
    raised: list[float] = []
    kept: list[asyncio.Task[None]] = []

    async def crash() -> None:
        raised.append(perf_counter())
        raise Boom

    async def reply() -> None:
        answer.set_result(None)

    def again(ended: asyncio.Task[None]) -> None:
        ended.exception()
        kept.append(loop.create_task(reply()))

    kept.append(loop.create_task(crash()))
    kept[0].add_done_callback(again)
    return raised


# --- many at once ------------------------------------------------------------------------------------------


async def storm(bench: Bench) -> list[Result]:
    """All children of a supervisor crash at the same time; over when each has answered again."""
    count = bench.size(1_000, 100)

    async def case() -> Measured:
        async with ActorSystem() as system:
            refs = await _supervised(system, count)
            began = perf_counter()
            for ref in refs:
                ref.tell(Fragile.crash)
            await asyncio.gather(*(ref.ask(Fragile.ping) for ref in refs))
            took = perf_counter() - began
            check_delivered(system)
        return {"took_ms": 1e3 * took}

    figure = Figure(f"{count:,} crash at once", "ms", "took_ms", "lower")
    floor_is = "as many bare tasks that raise at once; at its end each is created anew, and answers by a future"
    return await bench.compare([figure], case, _bare_storm(count), floor_is=floor_is)


async def group_restart(bench: Bench) -> list[Result]:
    """One of a thousand crashes, and all are stopped and started together; over when each has answered."""
    count = bench.size(1_000, 100)

    async def case() -> Measured:
        async with ActorSystem() as system:
            refs = await _supervised(system, count, strategy="one_for_all")
            began = perf_counter()
            refs[0].tell(Fragile.crash)
            await refs[0].ask(Fragile.ping)  # all are down when the first is started again
            await asyncio.gather(*(ref.ask(Fragile.ping) for ref in refs))
            took = perf_counter() - began
            check_delivered(system)
        return {"took_ms": 1e3 * took}

    figure = Figure(f"one_for_all of {count:,}, one crash", "ms", "took_ms", "lower")
    floor_is = "as many bare tasks that raise at once; at its end each is created anew, and answers by a future"
    return await bench.compare([figure], case, _bare_storm(count), floor_is=floor_is)


def _bare_storm(count: int) -> Pass:
    async def floor() -> Measured:
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[None]] = [loop.create_future() for _ in range(count)]
        began = perf_counter()
        for reply in replies:
            _bare_restart(reply)
        await asyncio.gather(*replies)
        return {"took_ms": 1e3 * (perf_counter() - began)}

    return floor


async def _supervised(system: ActorSystem, count: int = 1, strategy: Any = None, **hooks: Any) -> list[ActorRef[Any]]:
    """So many fragile actors under a supervisor that never gives up, with few restarts at once in its window."""
    supervisor = await system.spawn(
        Supervisor,
        strategy=strategy,
        max_restarts=MANY,
        within=0.0002,
        children=[child(Fragile, args=hooks, replicas=count)],
    )
    return [row.ref for row in supervisor.which_children()]


# --- trees -------------------------------------------------------------------------------------------------

Grow = Callable[[ActorSystem, int], Awaitable[Supervisor]]


async def nested(system: ActorSystem, count: int) -> Supervisor:
    """A tree of three levels: a supervisor, supervisors under it, and actors under those."""
    branch = child(Supervisor, args={"children": [child(Idle, replicas=count // BRANCHES)]}, replicas=BRANCHES)
    return await system.spawn(Supervisor, children=[branch])


async def flat(system: ActorSystem, count: int) -> Supervisor:
    """All under one supervisor, one after the other."""
    return await system.spawn(Supervisor, children=[child(Idle, replicas=count)])


async def dynamic(system: ActorSystem, count: int) -> Supervisor:
    """All under a dynamic supervisor, each added while it runs; they are stopped at the same time."""
    supervisor = await system.spawn(DynamicSupervisor)
    for number in range(count):
        await supervisor.start_child(child(Idle, id=f"idle-{number}"))
    return supervisor


def _trees(name: str, grow: Grow) -> Callable[[Bench], Awaitable[list[Result]]]:
    async def measure(bench: Bench) -> list[Result]:
        count = bench.size(10_000, 500)

        async def case() -> Measured:
            async with ActorSystem() as system:
                began = perf_counter()
                supervisor = await grow(system, count)
                started = perf_counter() - began
                began = perf_counter()
                await supervisor.stop()
                return {"start_s": started, "stop_s": perf_counter() - began}

        figures = [Figure(f"{name} of {count:,}, {what}", "s", f"{what}_s", "lower") for what in ("start", "stop")]
        return await bench.compare(figures, case, _bare_crowd(count), floor_is=CROWD_FLOOR)

    return measure


CROWD_FLOOR = "as many bare tasks that wait on a future each, created and cancelled"


def _bare_crowd(count: int) -> Pass:
    async def floor() -> Measured:
        began = perf_counter()
        tasks = _waiting(count)
        await asyncio.sleep(0)
        started = perf_counter() - began
        began = perf_counter()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return {"start_s": started, "stop_s": perf_counter() - began}

    return floor


def _waiting(count: int) -> list[asyncio.Task[None]]:
    loop = asyncio.get_running_loop()

    async def idle(wanted: asyncio.Future[None]) -> None:
        await wanted

    return [loop.create_task(idle(loop.create_future())) for _ in range(count)]


def _memory(name: str, grow: Grow) -> Callable[[Bench], Awaitable[list[Result]]]:
    async def measure(bench: Bench) -> list[Result]:
        count = bench.size(5_000, 500)

        async def case() -> Measured:
            async with ActorSystem() as system:
                await grow(system, BRANCHES)
                before = _allocated()
                await grow(system, count)
                return {"bytes": (_allocated() - before) / count}

        async def floor() -> Measured:
            before = _allocated()
            tasks = _waiting(count)
            await asyncio.sleep(0)
            held = (_allocated() - before) / count
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return {"bytes": held}

        tracemalloc.start()
        try:
            return await bench.compare(
                [Figure(f"{name}, each", "bytes", "bytes", "lower")], case, floor, passes=1, warm=False,
                floor_is=f"a bare task that waits on a future (both by tracemalloc, over {count:,} of them)",
            )  # fmt: skip
        finally:
            tracemalloc.stop()

    return measure


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


TREES: dict[str, Grow] = {"nested tree": nested, "supervisor": flat, "dynamic supervisor": dynamic}
CASES = (
    Case("restarts", "restart of one actor", restarts),
    Case("restarts", "crash to first answer", answers),
    Case("restarts", "1,000 crash at once", storm),
    Case("restarts", "one_for_all of 1,000", group_restart),
    *(Case("trees", f"{name} of 10,000, start and stop", _trees(name, grow)) for name, grow in TREES.items()),
    *(Case("memory", f"{name}, each child", _memory(name, grow)) for name, grow in TREES.items()),
)


async def measure(bench: Bench) -> list[Result]:
    """All cases that are wanted, on the running event loop."""
    bench.within = SECONDS
    return await measure_all(bench, CASES)
