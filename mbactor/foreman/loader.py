"""`Loader`: what a dispatcher reads before a step can run, or before one that calls another flow is settled.

    head = await loader.head(row)

It waits for a database that does not answer: a step that has been claimed is run as soon as it can be read.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from mbactor import observe
from mbactor.errors import CallTooDeep
from mbactor.foreman.graphs import Graphs
from mbactor.foreman.keys import new_token
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.plan import Plan
from mbactor.foreman.step import UNREADABLE, Head, Held, rate_of
from mbactor.foreman.store.operations import Child, NewStep
from mbactor.foreman.store.rows import FlowRow, Material
from mbactor.foreman.store.store import Store, StoreTrouble

T = TypeVar("T")

READ_PAUSE = 0.2
MOST_NESTED = 1_000
"""So many flows may each be called by the one before: nothing else ends a workflow that calls itself for ever."""


class Loader:
    """Reads of one shard. What a row holds may be unreadable, which is an error of `step.UNREADABLE`."""

    def __init__(self, store: Store, graphs: Graphs) -> None:
        self._store = store
        self._graphs = graphs
        self._asked: list[tuple[int, asyncio.Future[Material | None]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def head(self, row: FlowRow) -> Head:
        """What the steps of a flow share."""
        return Head(self._store.shard, row, await self._read(lambda: self._graphs.get(row.graph)))

    async def graph_if_readable(self, row: FlowRow) -> Graph | None:
        """The graph of a flow, something of which cannot be read."""
        with suppress(*UNREADABLE):
            return await self._read(lambda: self._graphs.get(row.graph))
        return None

    async def materials(self, step_ids: Sequence[int]) -> dict[int, Material]:
        """What the inputs of steps are folded from; one that is gone is not among them."""
        return await self._read(lambda: self._store.materials(step_ids))

    async def material(self, step_id: int) -> Material | None:
        """That of one step, None where it is gone. What is asked for at the same moment, and while others are read, is
        read together: fan-ins of many flows become due in one batch.
        """
        future: asyncio.Future[Material | None] = asyncio.get_running_loop().create_future()
        self._asked.append((step_id, future))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_asked(), name="loader", context=contextvars.Context())
        return await future

    async def _read_asked(self) -> None:
        asked: list[tuple[int, asyncio.Future[Material | None]]] = []
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                found = await self.materials([step_id for step_id, _ in asked])
                for step_id, future in asked:
                    if not future.done():
                        future.set_result(found.get(step_id))
        except BaseException as error:
            for _, future in (*asked, *self._asked):
                if not future.done():
                    future.set_exception(error)
            self._asked = []
            if not isinstance(error, Exception):  # else nobody but they would ever look at it
                raise
        finally:
            self._reading = None

    def close(self) -> None:
        """Nobody waits for anything any more."""
        if self._reading is not None:
            self._reading.cancel()

    async def child(self, held: Held, plan: Plan) -> Child:
        """The flow that a parked step calls. Errors of its graph fail the step, and so does one call too many."""
        assert plan.park is not None
        workflow = plan.park.workflow or ""
        await self._check_depth(held, workflow)
        frozen = await self._graphs.load(workflow, held.head.baggage)
        state = bytes(plan.park.payload)
        first = frozen.graph.entry_point
        entry = NewStep(
            first, new_token(), held.depth + 1, held.head.priority, state=state, fairness_key=held.head.fairness_key,
            rate=rate_of(frozen.graph, first),
        )  # fmt: skip
        return Child(new_token(), workflow, frozen.graph.name, frozen.hash, frozen.json, entry)

    async def _check_depth(self, held: Held, workflow: str) -> None:
        if held.head.root_id is None:  # most flows are called by no other: nothing is asked for them
            return
        callers = await self._read(lambda: self._store.callers(held.head.id, MOST_NESTED))
        if len(callers) >= MOST_NESTED:
            often = callers.count(workflow)
            hint = f"; {often:,} of those before it are of {workflow} too: does it call itself without end?"
            raise CallTooDeep(
                f"{workflow} would be flow number {MOST_NESTED + 1:,}, each called by the one before; "
                f"the limit is {MOST_NESTED:,}{hint if often else ''}"
            )

    async def _read(self, query: Callable[[], Awaitable[T]]) -> T:
        """What the database tells as soon as it does."""
        while True:
            try:
                return await query()
            except StoreTrouble as error:
                observe.emit("foreman.trouble", error=str(error))
                await asyncio.sleep(READ_PAUSE)
