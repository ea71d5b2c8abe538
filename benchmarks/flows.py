"""Flows: durable steps a second on SQLite and PostgreSQL, and how long a flow takes, beside one commit a step.

Every pass has a database of its own: a new file, or a new schema in a server that waits for the disk. A closed loop
keeps so many flows in flight through the public API. A pass after which any step was leased twice, retried or failed,
any flow did not complete, or any message was not delivered makes the run invalid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal

import anyio
import msgspec

from benchmarks.bed import process
from benchmarks.databases import Place, Postgres, Sqlite
from benchmarks.harness import Bench, Figure, InvalidRun, Measured, Pass, Result, Target, percentiles
from mbactor import Actor, ActorSystem, MbactorError
from mbactor.foreman import END, Flows, Foreman, Graph, task, workflow
from mbactor.foreman.features import WorkflowReference

LINEAR = 10
WIDTH = 16
DELTA = "x" * 89
"""With its field and the marks of JSON, 100 bytes of changes."""
PATIENCE = 300.0
"""Seconds a flow may take on a machine that is busy with other things."""
LEASE = "60s"
"""Where each commit holds one operation, an extension of leases waits its turn behind all the others."""
FLOOR = "the same engine with commit_each=True: one commit a step"
BESIDE = ("p50_ms", "p95_ms", "p99_ms", "flows")


class Nothing(Actor):
    """Tasks that do nothing, so that only the bookkeeping is measured."""

    host = "nothing.benchmark"

    @task
    async def nothing(self) -> None: ...

    @task
    async def writing(self, number: int) -> dict[str, str]:  # noqa: ARG002 - what it reads does not matter
        return {"text": DELTA}

    @workflow
    def linear(self) -> Graph:
        graph = Graph("Linear")
        names = [f"step_{number}" for number in range(1, LINEAR + 1)]
        for name in names:
            graph.set_endpoint(name, Nothing.nothing)
        graph.add_transition_chain(*names, END)
        return graph

    @workflow
    def written(self) -> Graph:
        graph = Graph("Written")
        names = [f"step_{number}" for number in range(1, LINEAR + 1)]
        for name in names:
            graph.set_endpoint(name, Nothing.writing)
        graph.add_transition_chain(*names, END)
        return graph

    @workflow
    def fan_out(self) -> Graph:
        graph = Graph("FanOut")
        for name in ("spread", "branch", "meet"):
            graph.set_endpoint(name, Nothing.nothing)
        graph.add_transition_for_each("spread", "branch", for_each="items")
        graph.add_transition("branch", "meet")
        graph.set_fan_in("meet")
        graph.add_transition("meet", END)
        return graph


@dataclass(frozen=True, slots=True)
class Load:
    """What is run: a workflow, how many steps it has, how many flows of it are in flight."""

    case: str
    workflow: WorkflowReference
    state: Mapping[str, Any]
    steps: int
    in_flight: int
    seconds: float
    kind: Literal["linear", "fan-out", "changes"] = "linear"


@dataclass(frozen=True, slots=True)
class Aims:
    """What a database has to reach: steps/s by how many flows are in flight, and so on."""

    alone_ms: float
    rate: Mapping[int, float]
    beside_each: float
    fan_out: float = 0.8
    wal: float | None = None
    two: float | None = None


AIMS = {
    "SQLite": Aims(5.0, {32: 10_000, 512: 15_000}, 5.0),
    "PostgreSQL": Aims(10.0, {32: 4_000, 512: 10_000}, 3.0, wal=1_024, two=1.3),
}


async def measure(bench: Bench) -> list[Result]:
    """All cases, on the running event loop."""
    bench.passes = 1 if bench.quick else 3
    results: list[Result] = []
    for database in (Sqlite(), Postgres()):
        try:
            found = await _measure(bench, database)
        finally:
            database.close()
        results += [replace(result, group=database.name) for result in found]
    return results


async def _measure(bench: Bench, database: Sqlite | Postgres) -> list[Result]:
    aims = AIMS[database.name]
    results: list[Result] = []
    linear: dict[int, Load] = {}
    for load in loads(bench):
        if load.kind == "linear":
            linear[load.in_flight] = load
        if bench.wants(f"{database.name}: {load.case}"):
            about: dict[str, Any] = {}
            more = {"in_flight": load.in_flight, "steps_of_a_flow": load.steps, "database": about}
            batched, each = (_pass(database, load, about, commit_each=each) for each in (False, True))
            figures = figures_of(load, aims)
            found = await bench.compare(figures, batched, each, floor_is=FLOOR, warm=False, more=more)
            results += found
            if load.kind == "fan-out":
                results.append(await _beside_linear(bench, database, load, linear[load.in_flight], aims.fan_out))
    if aims.two is not None and bench.wants(f"{database.name}: two replicas"):
        results.append(await _two(bench, database, aims.two))
    return results


def loads(bench: Bench) -> list[Load]:
    """The cases, smallest first."""
    seconds = 0.15 if bench.quick else 2.0
    number = bench.random.randrange(1_000)
    items = [bench.random.randrange(1_000) for _ in range(WIDTH)]
    some, most = bench.size(32, 4), bench.size(512, 8)
    linear = [
        Load(f"linear {LINEAR}, {count} in flight", Nothing.linear, {"number": number}, LINEAR, count, seconds)
        for count in (1, some, most)
    ]
    name = f"fan-out {WIDTH} and fan-in, {some} in flight"
    fan_out = Load(name, Nothing.fan_out, {"items": items}, WIDTH + 2, some, seconds, "fan-out")
    name = f"linear {LINEAR}, 100 B of changes, {some} in flight"
    written = Load(name, Nothing.written, {"number": number}, LINEAR, some, seconds, "changes")
    return [*linear, fan_out, written]


def figures_of(load: Load, aims: Aims) -> list[Figure]:
    """What is told of a load: its rate, and where the aims name more, that."""
    if load.kind == "changes":
        if aims.wal is None:
            return [Figure(load.case, "steps/s", beside=BESIDE)]
        return [Figure(f"{load.case}: WAL a step", "B", "wal", "lower", BESIDE, Target(aims.wal, "value"))]
    linear = load.kind == "linear"
    least = aims.rate.get(load.in_flight) if linear else None
    figures = [Figure(load.case, "steps/s", beside=BESIDE, target=Target(least, "value") if least else None)]
    if linear and load.in_flight == 1:
        figures.append(Figure(f"{load.case}: a flow", "ms", "p50_ms", "lower", BESIDE, Target(aims.alone_ms, "value")))
    if linear and load.in_flight == 32:
        figures.append(
            Figure(f"{load.case}, beside a commit each", "steps/s", beside=BESIDE, target=Target(aims.beside_each))
        )
    return figures


async def _beside_linear(bench: Bench, database: Sqlite | Postgres, load: Load, linear: Load, least: float) -> Result:
    """A fan-out's rate a step beside that of the linear flow with as many in flight, in turn: what else the machine
    does, and what the disk does, is the same for both.
    """
    figure = Figure(f"{load.case}, beside the linear flow", "steps/s", beside=BESIDE, target=Target(least))
    about: dict[str, Any] = {}
    case, floor = (_pass(database, one, about, commit_each=False) for one in (load, linear))
    more = {"in_flight": load.in_flight, "steps_of_a_flow": load.steps, "database": about}
    floor_is = "the linear flow, as many in flight"
    (result,) = await bench.compare([figure], case, floor, floor_is=floor_is, warm=False, more=more)
    return result


async def _two(bench: Bench, database: Sqlite | Postgres, least: float) -> Result:
    """Two processes with a Foreman each on one database, beside one with as many flows in flight."""
    most = bench.size(512, 8)
    seconds = 0.15 if bench.quick else 2.0
    figure = Figure(f"linear {LINEAR}, {most} in flight, two replicas", "steps/s", beside=BESIDE, target=Target(least))
    two, one = (_replicas(bench, database, count, most // count, seconds) for count in (2, 1))
    more = {"in_flight": most, "steps_of_a_flow": LINEAR}
    floor_is = "one replica, as many in flight"
    (result,) = await bench.compare([figure], two, one, floor_is=floor_is, warm=False, more=more)
    return result


def _replicas(bench: Bench, database: Sqlite | Postgres, count: int, in_flight: int, seconds: float) -> Pass:
    async def measured() -> Measured:
        async with database.place() as place, AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(process("a replica", "benchmarks.replica", bench.loop, place.url))
                for _ in range(count)
            ]
            for replica in opened:
                await replica.line()
            asked = msgspec.json.encode({"in_flight": in_flight, "seconds": seconds})
            found: list[dict[str, float]] = await asyncio.gather(*(replica.answer(asked) for replica in opened))
            await place.check("two replicas", LINEAR)
        summed = {name: sum(one[name] for one in found) for name in ("rate", "flows")}
        return {**{name: max(one[name] for one in found) for name in BESIDE}, **summed}

    return measured


def _pass(database: Sqlite | Postgres, load: Load, about: dict[str, Any], *, commit_each: bool) -> Pass:
    async def measured() -> Measured:
        async with database.place() as place:
            figures = await _run(place, load, about, commit_each=commit_each)
            await place.check(load.case, load.steps)
        return figures

    return measured


async def _run(place: Place, load: Load, about: dict[str, Any], *, commit_each: bool) -> Measured:
    async with ActorSystem() as system:
        foreman = await system.spawn(Foreman, database=place.url, commit_each=commit_each, lease=LEASE)
        await system.spawn(Nothing)
        figures = await drive(Flows(system), load, place.wal_bytes)
        about.update(await place.settings(foreman))
        if len(system.dead_letters):
            raise InvalidRun(f"{load.case}: {len(system.dead_letters)} messages were not delivered")
    return figures


async def drive(flows: Flows, load: Load, logged: Callable[[], Awaitable[float]]) -> Measured:
    """Keep `in_flight` flows running until the time is over. The first of each is not counted: it warms up."""
    times: list[float] = []

    async def one() -> None:
        began = perf_counter()
        with anyio.fail_after(PATIENCE):
            outcome = await flows.run(load.workflow, load.state)
        if outcome.status != "completed":
            raise InvalidRun(f"{load.case}: flow {outcome.flow_key} ended as {outcome.status}: {outcome.error}")
        times.append(perf_counter() - began)

    async def keep_running(until: float) -> None:
        while perf_counter() < until:
            await one()

    try:
        await asyncio.gather(*(one() for _ in range(load.in_flight)))
        times.clear()
        before = await logged()
        began = perf_counter()
        await asyncio.gather(*(keep_running(began + load.seconds) for _ in range(load.in_flight)))
    except (MbactorError, TimeoutError) as error:
        raise InvalidRun(f"{load.case}: {type(error).__name__}: {error}") from error
    took = perf_counter() - began
    steps = len(times) * load.steps
    wal = (await logged() - before) / steps
    return {"rate": steps / took, "flows": len(times), "wal": wal, **percentiles(times, "ms")}
