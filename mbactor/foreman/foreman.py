"""`Foreman`: the supervisor under which workflows run.

    children = [child(Foreman, args={"database": "sqlite:///flows.db", "workers": 4}), child(Credit)]

Its children are worker actors that claim leased steps, a sweeper that recovers expired leases, and the endpoints
that `Flows` asks. It opens the store before them and closes it after them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from mbactor.durations import Duration
from mbactor.errors import InvalidSpec
from mbactor.foreman.api import ForemanApi
from mbactor.foreman.engine import Engine
from mbactor.foreman.features import Ran
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.shards import Shards
from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.store import Store
from mbactor.foreman.worker import Sweeper, Worker
from mbactor.kernel.exit import Exit
from mbactor.supervisor.children import Build, build_child
from mbactor.supervisor.spec import checked_duration, child
from mbactor.supervisor.supervisor import Supervisor
from mbactor.transport.address import Address

if TYPE_CHECKING:
    from mbactor.kernel.node import Node


class Foreman(Supervisor):
    """Runs durable workflows over a database.

    `database`: `sqlite:///file`, `sqlite://` (memory, gone with the process), or `postgresql://user:password@host/name`,
    which any number of Foremen may share. `workers` actors run up to `slots`
    steps each. `default_time_budget` is what a task has where its graph says nothing; `lease` is how long a dead
    process's steps stay unclaimed; `retention_days` for how many days flows that have ended are kept, 0 for ever.
    `commit_each` commits every outcome on its own, for debugging.
    """

    def __init__(
        self,
        database: str = "sqlite://",
        workers: int = 4,
        slots: int = 256,
        default_time_budget: Duration = 20.0,
        lease: Duration = 10.0,
        commit_each: bool = False,
        retention_days: float = 0,
    ) -> None:
        super().__init__()
        for name, value in (("workers", workers), ("slots", slots)):
            if type(value) is not int or value < 1:
                raise InvalidSpec(f"foreman: {name}: {value!r} given, a whole number >= 1 expected")
        self._database = database
        self._workers = workers
        self._slots = slots
        self._budget = checked_duration("foreman: default_time_budget", default_time_budget, above_0=True)
        self._lease = checked_duration("foreman: lease", lease, above_0=True)
        self._commit_each = commit_each
        self._retention = _checked_days(retention_days) * 86400.0
        self._engine: Engine | None = None
        self._store: Store | None = None
        self._node: Node | None = None

    def bind(self, node: Node, path: str, *, build: Build = build_child) -> None:
        self._node = node
        super().bind(node, path, build=build)

    async def on_start(self) -> None:
        assert self._node is not None
        store = await open_store(self._database)
        engine = Engine(
            store,
            ActorHost(self._node),
            default_time_budget=self._budget,
            lease=self._lease,
            commit_each=self._commit_each,
            retention=self._retention,
        )
        self._engine, self._store = engine, store
        workers = [
            child(
                Worker, id=f"worker-{n}", args={"engine": engine, "name": f"{self._node.id}/{n}", "slots": self._slots}
            )
            for n in range(1, self._workers + 1)
        ]
        self.children = [
            *workers,
            child(Sweeper, id="sweeper", args={"engine": engine}),
            child(ForemanApi, id="api", args={"shards": Shards([engine])}),
        ]

    async def on_stop(self, exit: Exit) -> None:  # noqa: ARG002
        if self._engine is not None:
            await self._engine.close()
        if self._store is not None:
            await self._store.close()


def _checked_days(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e6:
        raise InvalidSpec(f"foreman: retention_days: {given!r} given, a number of days expected, 0 to keep all")
    return float(given)


class ActorHost:
    """The engine's way to tasks and graphs: they are methods of actors."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def load_graph(self, workflow: str, baggage: Mapping[str, Any]) -> Graph:  # noqa: ARG002
        address = Address.parse(workflow)
        handed = self._node.hand_over(address, {}, 20.0)
        if handed is not None:
            graph: Graph = await handed
            return graph
        response = await self._node.request("POST", workflow)
        return Graph.from_json(response.body)

    async def execute_task(self, task_url: str, flow: Flow, time_budget: float) -> None:
        address = Address.parse(task_url)
        handed = self._node.hand_over(address, {"flow": flow}, time_budget)
        if handed is None:
            with anyio.fail_after(time_budget):
                response = await self._node.request("POST", task_url, flow.to_wire())
            flow.apply_result(response.body)
            return
        try:
            ran: Ran = await handed
        except asyncio.CancelledError:
            handed.cancel()
            raise
        if ran.error is not None:
            raise ran.error
