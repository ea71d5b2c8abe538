"""Flows: durable steps a second on SQLite, and how long a flow takes, beside one commit a step.

Every pass has a database of its own: a new file, WAL, synchronous=FULL. A closed loop keeps so many flows in flight
through the public API. A pass after which any step was leased twice, retried or failed, any flow did not complete,
or any message was not delivered makes the run invalid.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio

from benchmarks.harness import Bench, Figure, InvalidRun, Measured, Pass, Result, percentiles
from mbactor import Actor, ActorSystem, MbactorError
from mbactor.foreman import END, Flows, Foreman, Graph, task, workflow
from mbactor.foreman.features import WorkflowReference
from mbactor.foreman.store.sqlite import SqliteStore

LINEAR = 10
WIDTH = 16
PATIENCE = 300.0
"""Seconds a flow may take on a machine that is busy with other things."""
SETTINGS = ("journal_mode", "synchronous", "wal_autocheckpoint", "page_size", "busy_timeout")
SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


class Nothing(Actor):
    """Tasks that do nothing, so that only the bookkeeping is measured."""

    host = "nothing.benchmark"

    @task
    async def nothing(self) -> None: ...

    @workflow
    def linear(self) -> Graph:
        graph = Graph("Linear")
        names = [f"step_{number}" for number in range(1, LINEAR + 1)]
        for name in names:
            graph.set_endpoint(name, Nothing.nothing)
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


async def measure(bench: Bench) -> list[Result]:
    """All cases, on the running event loop."""
    bench.passes = 1 if bench.quick else 3
    results: list[Result] = []
    for load in (load for load in loads(bench) if bench.wants(load.case)):
        database: dict[str, Any] = {}
        more = {"in_flight": load.in_flight, "steps_of_a_flow": load.steps, "database": database}
        figure = Figure(load.case, "steps/s", beside=("p50_ms", "p95_ms", "p99_ms", "flows"))
        results += await bench.compare(
            [figure],
            _pass(load, database, commit_each=False),
            _pass(load, database, commit_each=True),
            floor_is="the same engine with commit_each=True: one commit a step",
            warm=False,
            more=more,
        )
    return [_beside_linear(result, results) for result in results]


def loads(bench: Bench) -> list[Load]:
    """The cases, smallest first."""
    seconds = 0.15 if bench.quick else 2.0
    number = bench.random.randrange(1_000)
    items = [bench.random.randrange(1_000) for _ in range(WIDTH)]
    most = bench.size(512, 64)
    linear = [
        Load(f"linear {LINEAR}, {count} in flight", Nothing.linear, {"number": number}, LINEAR, count, seconds)
        for count in (1, 32, most)
    ]
    name = f"fan-out {WIDTH} and fan-in, 32 in flight"
    return [*linear, Load(name, Nothing.fan_out, {"items": items}, WIDTH + 2, 32, seconds)]


def _beside_linear(result: Result, results: list[Result]) -> Result:
    """With a fan-out's rate a step as a share of that of the linear flow with as many in flight."""
    same = [r for r in results if r.more["in_flight"] == result.more["in_flight"] and r.case.startswith("linear")]
    if result.case.startswith("linear") or not same:
        return result
    return replace(result, more={**result.more, "ratio_to_linear": result.value / same[0].value})


def _pass(load: Load, database: dict[str, Any], *, commit_each: bool) -> Pass:
    async def measured() -> Measured:
        with tempfile.TemporaryDirectory(prefix="mbactor-benchmark-") as folder:
            file = Path(folder) / "flows.db"
            async with ActorSystem() as system:
                foreman = await system.spawn(Foreman, database=f"sqlite:///{file}", commit_each=commit_each)
                await system.spawn(Nothing)
                figures = await _drive(Flows(system), load)
                database.update(await _settings(foreman), fsync_us=_fsync_us(Path(folder)))
                if len(system.dead_letters):
                    raise InvalidRun(f"{load.case}: {len(system.dead_letters)} messages were not delivered")
            check(file, load)
            return figures

    return measured


async def _drive(flows: Flows, load: Load) -> Measured:
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
        began = perf_counter()
        await asyncio.gather(*(keep_running(began + load.seconds) for _ in range(load.in_flight)))
    except (MbactorError, TimeoutError) as error:
        raise InvalidRun(f"{load.case}: {type(error).__name__}: {error}") from error
    took = perf_counter() - began
    return {"rate": len(times) * load.steps / took, "flows": len(times), **percentiles(times, "ms")}


async def _settings(foreman: Foreman) -> dict[str, Any]:
    """The settings of the very connection that writes: most of them are a connection's own."""
    store = foreman.shards.all[0].store
    if not isinstance(store, SqliteStore):
        raise InvalidRun(f"an SQLite store was expected, the Foreman has {store!r}")
    found: dict[str, Any] = {"sqlite": sqlite3.sqlite_version}
    for name in SETTINGS:
        cursor = await store._writer.execute(f"PRAGMA {name}")
        row = await cursor.fetchone()
        await cursor.close()
        found[name] = row[0] if row is not None else None
    found["synchronous"] = SYNCHRONOUS.get(found["synchronous"], found["synchronous"])
    if (found["journal_mode"], found["synchronous"]) != ("wal", "FULL"):
        raise InvalidRun(f"the database is not strictly durable: {found}")
    return found


def check(file: Path, load: Load) -> None:
    """InvalidRun where the database shows that anything went another way than straight through."""
    with sqlite3.connect(file) as db:
        again, failed = db.execute(
            "SELECT count(*) FILTER (WHERE lease_number <> 1 OR attempt > 0 OR refused_at IS NOT NULL),"
            " count(*) FILTER (WHERE status <> 'completed' OR error IS NOT NULL) FROM mbactor_step"
        ).fetchone()
        (astray,) = db.execute("SELECT count(*) FROM mbactor_flow WHERE status <> 'completed'").fetchone()
        (uneven,) = db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM mbactor_step GROUP BY flow_id HAVING count(*) <> ?)", (load.steps,)
        ).fetchone()
    db.close()
    wrong = {
        "steps that were recovered, refused or run again": again,
        "steps that did not complete": failed,
        "flows that did not complete": astray,
        f"flows with another number of steps than {load.steps}": uneven,
    }
    if any(wrong.values()):
        told = ", ".join(f"{count} {what}" for what, count in wrong.items() if count)
        raise InvalidRun(f"{load.case}: {told}")


def _fsync_us(folder: Path) -> float:
    """What it costs to make 4 KiB durable where the database is: no commit can be quicker."""
    times: list[float] = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(10):
            began = perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(perf_counter() - began)
    return round(1e6 * statistics.median(times), 1)
