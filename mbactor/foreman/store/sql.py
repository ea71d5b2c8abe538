"""`SqlStore`: what the stores of all SQL databases are alike in. One of them brings `commit`, `close` and a `_read`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Concatenate, ParamSpec, TypeVar

from mbactor.foreman.store import (
    listing,
    reads,
    roll,
    scheduled,
)
from mbactor.foreman.store.dialect import Db
from mbactor.foreman.store.operations import Committed, Operation
from mbactor.foreman.store.rows import (
    Fingerprint,
    FlowFilter,
    FlowRow,
    Json,
    Material,
    Places,
    Progress,
    ScheduleRow,
    StepRow,
)
from mbactor.foreman.store.store import Doubted, Line, StoreTrouble, go_on_asking

P = ParamSpec("P")
T = TypeVar("T")

Query = Callable[Concatenate[Db, P], Awaitable[T]]


class SqlStore(ABC):
    """A shard's database, as `Store` has it. Belongs to the event loop that made it."""

    def __init__(self, shard: int, identity: int) -> None:
        self.shard = shard
        self.identity = identity

    @abstractmethod
    async def commit(self, batch: Sequence[Operation], doubted: Doubted = go_on_asking) -> Committed: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def _read(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query in one moment of the database."""

    async def graph(self, graph_hash: str) -> Json | None:
        return await self._read(reads.graph, graph_hash)

    async def flow(self, flow_id: int) -> FlowRow | None:
        return await self._read(reads.flow, flow_id)

    async def keyed(self, idempotency_key: str) -> FlowRow | None:
        return await self._read(reads.keyed, idempotency_key)

    async def flows(self, wanted: FlowFilter) -> list[FlowRow]:
        return await self._read(listing.flows, wanted)

    async def statuses(self, flow_ids: Sequence[int]) -> dict[int, str]:
        return await self._read(reads.statuses, flow_ids)

    async def called(self, flow_id: int) -> list[FlowRow]:
        return await self._read(reads.called, flow_id)

    async def callers(self, flow_id: int, most: int) -> list[str]:
        return await self._read(reads.callers, flow_id, most)

    async def progress(self, flow_ids: Sequence[int]) -> dict[int, Progress]:
        return await self._read(listing.progress, flow_ids)

    async def places(self, concurrency_keys: Sequence[str]) -> dict[str, Places]:
        return await self._read(listing.places, concurrency_keys)

    async def latest_of_thread(self, anchor_id: int) -> int | None:
        return await self._read(reads.latest_of_thread, anchor_id)

    async def schedules(self) -> tuple[float, list[ScheduleRow]]:
        return await self._read(scheduled.schedules)

    async def fingerprint(self, flow_id: int) -> Fingerprint | None:
        return await self._read(listing.fingerprint, flow_id)

    async def tokens(self, flow_ids: Sequence[int]) -> dict[int, str]:
        return await self._read(listing.tokens, flow_ids)

    async def step(self, step_id: int) -> StepRow | None:
        return await self._read(reads.step, step_id)

    async def steps(self, flow_id: int) -> list[StepRow]:
        return await self._read(reads.steps, flow_id)

    async def interrupted(self, flow_id: int) -> list[StepRow]:
        return await self._read(reads.interrupted, flow_id)

    async def materials(self, step_ids: Sequence[int]) -> dict[int, Material]:
        return await self._read(reads.materials, step_ids)

    def listening(self, heard: Callable[[str], None]) -> AbstractAsyncContextManager[Line]:  # noqa: ARG002
        raise StoreTrouble("this database passes nothing on")

    async def roll(self) -> dict[int, str]:
        return await self._read(roll.roll)

    async def standing(self) -> tuple[int, int]:
        return await self._read(roll.standing)

    async def cohort(self, spawn_id: int, *, joined: bool = True) -> Material | None:
        return await self._read(reads.cohort, spawn_id, joined=joined)
