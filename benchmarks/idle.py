"""Idle actors: what a spawn costs, how much one of them holds, and a crowd of them started and stopped.

    python -m benchmarks.idle LOOP COUNT actors|tasks     starts a crowd and prints what it took, as JSON

The crowd lives in a process of its own: there, all the memory that the process grew by is the crowd's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tracemalloc
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

from benchmarks.harness import (
    Bench,
    Case,
    Figure,
    InvalidRun,
    Measured,
    Pass,
    Result,
    Target,
    event_loops,
    progress,
)
from mbactor import Actor, ActorSystem, Exit

ROOT = Path(__file__).parent.parent
STATM = Path("/proc/self/statm")
CROWD = 100_000
FLOOR_TIMES = 50
"""How many more times a floor of nanoseconds is repeated than its case."""
LARGEST = Target(4096, of="value")
LONGEST = Target(4.0, of="value")
NOT_IN_ORDER = "they were not stopped in order, the last started first"


class Idle(Actor):
    """Waits for messages that never come."""

    def __init__(self, number: int) -> None:
        self.number = number


class Witness(Idle):
    """Notes when it is stopped."""

    def __init__(self, number: int, stopped: list[int]) -> None:
        super().__init__(number)
        self.stopped = stopped

    async def on_stop(self, exit: Exit) -> None:  # noqa: ARG002 - a hook's own shape
        self.stopped.append(self.number)


# --- one at a time -----------------------------------------------------------------------------------------


async def spawns(bench: Bench) -> list[Result]:
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


async def memory(bench: Bench) -> list[Result]:
    count = bench.size(5_000, 200)

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

    tracemalloc.start()
    try:
        return await bench.compare(
            [Figure("idle actor", "bytes", "bytes", "lower", target=LARGEST)], case, floor, passes=1, warm=False,
            floor_is=f"a bare instance in a dict (both by tracemalloc, over {count:,} of them)",
            more={"by": "tracemalloc", "actors": count},
        )  # fmt: skip
    finally:
        tracemalloc.stop()


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# --- a crowd -----------------------------------------------------------------------------------------------


async def crowd(bench: Bench) -> list[Result]:
    count = bench.size(CROWD, 1_000)
    faults: list[str] = []
    case, floor = (_in_a_process(bench, count, who, faults) for who in ("actors", "tasks"))
    taken = await bench.in_turn(f"{count:,} idle actors", {"actors": case, "floor": floor}, passes=1, warm=False)
    spawned, stopped, held = (
        Figure(f"{count:,} idle, {what}", unit, of, "lower", target=None if bench.quick else target)
        for what, unit, of, target in (
            ("spawn all", "s", "spawn_s", LONGEST),
            ("stop all", "s", "stop_s", LONGEST),
            ("each", "bytes", "bytes", LARGEST),
        )
    )
    floor_is = "as many bare tasks that wait on a future, in a process of their own, too; memory is what it grew by"

    def result(figure: Figure, fault: str = "") -> Result:
        return bench.result(figure, taken["actors"], taken["floor"], floor_is, {"fault": fault} if fault else {})

    results = [result(spawned), result(stopped, "; ".join(faults))]
    return [*results, result(held)] if "bytes" in taken["actors"][0] else results


def _in_a_process(bench: Bench, count: int, who: str, faults: list[str]) -> Pass:
    async def measured() -> Measured:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.idle", bench.loop, str(count), who, cwd=ROOT, stdout=PIPE
        )
        printed, _ = await process.communicate()
        if process.returncode:
            raise InvalidRun(f"{count:,} idle {who}: their process ended with {process.returncode}")
        figures: dict[str, float] = json.loads(printed)
        if not figures.pop("in_order"):
            faults.append(NOT_IN_ORDER)
        return figures

    return measured


async def crowd_of_actors(count: int) -> dict[str, float]:
    """Spawn them, leave the system, and look at what each took; `in_order` is 1 where the last went first."""
    stopped: list[int] = []
    before = _resident()
    async with ActorSystem() as system:
        began = perf_counter()
        for number in range(count):
            if number % 100:
                await system.spawn(Idle, number)
            else:
                await system.spawn(Witness, number, stopped)
            if not number % 1_000:
                progress(f"{number:,} of {count:,} actors")
        spawned, held = perf_counter() - began, _each(before, count)
        progress(f"{count:,} actors are being stopped")
        began = perf_counter()
    took = perf_counter() - began
    in_order = len(stopped) == len(range(0, count, 100)) and stopped == sorted(stopped, reverse=True)
    return {"spawn_s": spawned, "stop_s": took, "in_order": float(in_order), **held}


async def crowd_of_tasks(count: int) -> dict[str, float]:
    """The least: a task each, that waits on a future of its own."""
    loop = asyncio.get_running_loop()
    before = _resident()

    async def idle(wanted: asyncio.Future[None]) -> None:
        await wanted

    began = perf_counter()
    tasks = [loop.create_task(idle(loop.create_future())) for _ in range(count)]
    await asyncio.sleep(0)
    spawned, held = perf_counter() - began, _each(before, count)
    began = perf_counter()
    for task in reversed(tasks):
        task.cancel()
    await asyncio.wait(tasks)
    return {"spawn_s": spawned, "stop_s": perf_counter() - began, "in_order": 1.0, **held}


def _resident() -> int | None:
    """Bytes of memory that this process holds; None where the system doesn't say."""
    gc.collect()
    try:
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _each(before: int | None, count: int) -> dict[str, float]:
    after = _resident()
    return {} if before is None or after is None else {"bytes": (after - before) / count}


def main(loop: str, count: int, who: str) -> None:
    """What the process of a crowd does."""
    crowds: dict[str, Callable[[int], Awaitable[dict[str, float]]]] = {
        "actors": crowd_of_actors,
        "tasks": crowd_of_tasks,
    }

    async def run() -> dict[str, float]:
        return await crowds[who](count)

    with asyncio.Runner(loop_factory=event_loops()[loop]) as runner:
        print(json.dumps(runner.run(run())))


CASES = (
    Case("idle actors", "spawn", spawns),
    Case("idle actors", "idle actor, memory", memory),
    Case("idle actors", f"{CROWD:,} idle, spawn, stop, memory", crowd),
)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
