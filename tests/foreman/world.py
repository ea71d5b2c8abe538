"""A small world for tests of the engine: plain functions as tasks, a real store, and the structural invariants."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

from mbactor import seams
from mbactor.errors import BudgetSpent, FlowNotFound, NoSuchActor
from mbactor.foreman.cohort import Cohort
from mbactor.foreman.dispatcher import Dispatcher
from mbactor.foreman.engine import Engine
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.outcome import FlowOutcome
from mbactor.foreman.step import Held, fold_material
from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.postgres import PostgresStore
from mbactor.foreman.store.postgres_db import PostgresDb
from mbactor.foreman.store.sql import SqlStore
from mbactor.foreman.store.sqlite import SqliteStore, run_in_driver

Task = Callable[[Flow], Any]

MUST_BE_EMPTY = {
    "a step of an ended flow has not ended": """SELECT s.id FROM mbactor_step s JOIN mbactor_flow f ON f.id = s.flow_id
        WHERE f.status IN ('completed', 'failed', 'cancelled') AND s.status NOT IN ('completed', 'failed', 'cancelled')""",
    "a running flow has nothing to run": """SELECT f.id FROM mbactor_flow f WHERE f.status = 'running' AND NOT EXISTS
        (SELECT 1 FROM mbactor_step s WHERE s.flow_id = f.id AND (s.status IN ('pending', 'running', 'interrupted')
            OR (s.status = 'created' AND s.room_id IS NOT NULL)))""",
    "a cohort has more arrivals than branches": "SELECT id FROM mbactor_step WHERE cohort_arrivals > cohort_size",
    "a cohort has more failures than arrivals": "SELECT id FROM mbactor_step WHERE cohort_failures > cohort_arrivals",
    "a called flow has no caller": """SELECT id FROM mbactor_flow f WHERE caller_id IS NOT NULL AND NOT EXISTS
        (SELECT 1 FROM mbactor_step s WHERE s.id = f.caller_id)""",
    "a root is not its own root": """SELECT f.id FROM mbactor_flow f WHERE root_id IS NOT NULL AND NOT EXISTS
        (SELECT 1 FROM mbactor_flow r WHERE r.id = f.root_id AND r.root_id IS NULL)""",
    "a neighbour is in another flow": """SELECT s.id FROM mbactor_step s JOIN mbactor_step n
        ON n.id IN (s.predecessor_id, s.successor_id) WHERE n.flow_id <> s.flow_id""",
    "a step is followed by one that is not there": """SELECT id FROM mbactor_step
        WHERE successor_id NOT IN (SELECT id FROM mbactor_step)""",
    "a step has no flow": "SELECT id FROM mbactor_step WHERE flow_id NOT IN (SELECT id FROM mbactor_flow)",
    "a pending step has an owner": "SELECT id FROM mbactor_step WHERE status = 'pending' AND worker IS NOT NULL",
    "a pending step has a lease": "SELECT id FROM mbactor_step WHERE status = 'pending' AND lease_expires IS NOT NULL",
    "a step lost more runs than it had": """SELECT id FROM mbactor_step
        WHERE lost_leases > lease_number - unused_leases OR unused_leases < 0""",
    "a caller waits for nobody": """SELECT s.id FROM mbactor_step s WHERE s.status = 'running' AND s.lease_expires IS NULL
        AND NOT EXISTS (SELECT 1 FROM mbactor_flow f WHERE f.caller_id = s.id
            AND f.status IN ('created', 'running', 'interrupted'))""",
    "a flow with a question runs": """SELECT s.id FROM mbactor_step s JOIN mbactor_flow f ON f.id = s.flow_id
        WHERE s.status = 'interrupted' AND f.status <> 'interrupted'""",
    "more branches of a cohort are under way than may be": """SELECT spawn.id FROM mbactor_step spawn
        JOIN mbactor_step s ON s.spawn_id = spawn.id WHERE spawn.cohort_at_once > 0
        AND (s.status IN ('pending', 'interrupted') OR (s.status = 'running' AND s.lease_expires IS NOT NULL))
        GROUP BY spawn.id, spawn.cohort_at_once HAVING count(DISTINCT s.ordinal) > spawn.cohort_at_once""",
    "a cohort was joined twice": """SELECT cohort_id FROM mbactor_step WHERE cohort_id IS NOT NULL
        GROUP BY cohort_id HAVING count(*) > 1""",
}


class TestHost:
    """Tasks by URL, each a plain or async function of the flow."""

    __test__ = False

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.graphs: dict[str, Graph] = {}
        self.ran: list[str] = []

    async def load_graph(self, workflow: str, baggage: Mapping[str, Any]) -> Graph:
        if workflow not in self.graphs:
            raise FlowNotFound(f"no workflow {workflow}")
        return self.graphs[workflow]

    async def execute_task(self, task_url: str, flow: Flow, time_budget: float) -> None:
        task = self.tasks.get(task_url)
        if task is None:
            raise NoSuchActor(task_url)
        self.ran.append(task_url)
        try:
            async with asyncio.timeout(time_budget):
                result = task(flow)
                if inspect.iscoroutine(result):
                    await result
        except TimeoutError as error:
            raise BudgetSpent(f"{task_url} took longer than {time_budget} s") from error


class World:
    """A store, an engine, and as many dispatchers as a test wants."""

    def __init__(self, store: SqlStore, **options: Any) -> None:
        self.host = TestHost()
        self.store = store
        self.engine = Engine(store, self.host, **options)
        self.dispatchers: list[Dispatcher] = []
        self._running: list[asyncio.Task[None]] = []

    def work(self, name: str = "worker", **options: Any) -> Dispatcher:
        """Start a dispatcher."""
        dispatcher = Dispatcher(self.engine, name, **options)
        self.dispatchers.append(dispatcher)
        self._running.append(asyncio.create_task(dispatcher.run(), name=name))
        return dispatcher

    def kill(self, index: int = 0) -> None:
        """End a dispatcher's `run` without any clean-up of its leases."""
        self._running[index].cancel()

    async def graph(self, graph: Graph, **tasks: Task) -> str:
        """Make the graph known with its tasks; its name is the workflow's URL."""
        self.host.graphs[graph.name] = graph
        self.host.tasks.update(tasks)
        return graph.name

    async def run(self, workflow: str, state: Any = None, **options: Any) -> FlowOutcome:
        key = await self.engine.create(workflow, state, **options)
        return await self.engine.wait(key)

    async def sql(self, query: str, *values: Any) -> list[Any]:
        return await sql_of(self.store, query, *values)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(60):
            while not await condition():
                await asyncio.sleep(0.002)

    async def check(self) -> None:
        assert await broken_invariants(self.store) == []

    async def close(self) -> None:
        for running in self._running:
            running.cancel()
        ended = await asyncio.gather(*self._running, return_exceptions=True)
        await self.check()
        await self.engine.close()
        await self.store.close()
        for result in ended:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result


async def sql_of(store: SqlStore, query: str, *values: Any) -> list[Any]:
    """The rows of a query over the store's own connection, past all it does; `?` stands for a value."""

    def read(db: sqlite3.Connection) -> list[Any]:
        return db.execute(query, values).fetchall()

    if isinstance(store, PostgresStore):
        async with store._connection() as connection:
            return await PostgresDb(connection).rows(query, *values)
    assert isinstance(store, SqliteStore)
    return await run_in_driver(store._writer, read)


async def broken_invariants(store: SqlStore) -> list[str]:
    """What must never be, whatever is running."""
    found = [(what, await sql_of(store, query)) for what, query in MUST_BE_EMPTY.items()]
    return [f"{what}: {rows}" for what, rows in found if rows]


@asynccontextmanager
async def a_world(url: str = "sqlite://", *, workers: int = 1, **options: Any) -> AsyncIterator[World]:
    """A world over the database; the invariants are swept when the block ends."""
    world = World(cast("SqlStore", await open_store(url)), **options)
    for number in range(workers):
        world.work(f"worker-{number}")
    try:
        yield world
    finally:
        await world.close()


@contextmanager
def compared(store: SqlStore) -> Iterator[list[tuple[str, bool]]]:
    """Of each input that was folded, the node, and whether memory had it; each that memory had is what the database
    has.
    """
    found: list[tuple[str, bool]] = []
    others: list[Any] = []

    async def compare(*, node: str, held: Held, material: Any, **_: Any) -> None:
        known = isinstance(material, Cohort)
        found.append((node, known))
        if not known:
            return
        folded = held.state
        read = (await store.materials([held.step_id])).get(held.step_id)
        row = await store.step(held.step_id)
        if row is None or (row.status, row.lease_number) != ("running", held.lease_number):
            return  # it is another one's by now
        assert read is not None
        wanted = fold_material(read, held.head.graph)
        if folded != wanted:
            others.append((node, folded, wanted))

    with seams.armed("foreman.load.after", compare):
        yield found
    assert others == []


def ok(_: Flow) -> None:
    """A task that does nothing."""
