"""What the engine asks of a database: one verb that writes, a few that read.

Every write is an operation, a plain value of `operations`; `Store.commit` applies a batch of them in one transaction
and gives one result for each. `Unstorable` means that an operation of the batch can never be written (its values are
at fault); `StoreTrouble` that nothing was written and the same batch may be tried again.

The implementations pass the same contract suite; nothing of a database's dialect shows here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mbactor.errors import MbactorError
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


class StoreTrouble(MbactorError):
    """The database could not be reached or is busy. Nothing was written; trying again is right."""

    status = 503


class Unstorable(MbactorError):
    """A value of an operation cannot be written. Trying again is pointless. Carries no payload."""

    status = 500


Doubted = Callable[[str], bool]
"""Told why it is not known whether a batch has landed; says whether to go on asking."""


def go_on_asking(error: str) -> bool:  # noqa: ARG001 - whatever it is
    return True


class Line(Protocol):
    """The way to all that listen at the same database."""

    lost: asyncio.Event
    """Set when it is broken."""

    async def notify(self, text: str) -> None:
        """Tell them, this one included. At most 8000 bytes. `StoreTrouble` where it is broken."""
        ...


class Store(Protocol):
    """A shard's database. Used from one event loop. Every method may raise `StoreTrouble`."""

    shard: int
    identity: int
    """What tells the database from any other, by whatever URL it is reached."""

    async def commit(self, batch: Sequence[Operation], doubted: Doubted = go_on_asking) -> Committed:
        """Apply the batch in one durable transaction, or nothing of it (`StoreTrouble`, `Unstorable`).

        Where the answer to a commit was lost, the database is asked for it, and until it answers `doubted` is called
        now and then. `NotAcknowledged` where that will not ask on: the batch may have landed.
        """
        ...

    async def graph(self, graph_hash: str) -> Json | None:
        """The frozen graph's JSON."""
        ...

    async def flow(self, flow_id: int) -> FlowRow | None: ...

    async def keyed(self, idempotency_key: str) -> FlowRow | None:
        """The flow that was created with this key."""
        ...

    async def flows(self, wanted: FlowFilter) -> list[FlowRow]: ...

    async def statuses(self, flow_ids: Sequence[int]) -> dict[int, str]:
        """The status of each of these flows; one that is not there is absent."""
        ...

    async def step(self, step_id: int) -> StepRow | None: ...

    async def progress(self, flow_ids: Sequence[int]) -> dict[int, Progress]:
        """How far each of these flows has come."""
        ...

    async def places(self, concurrency_keys: Sequence[str]) -> dict[str, Places]:
        """Who has the places of these concurrency keys; one of which no flow has begun is absent."""
        ...

    async def latest_of_thread(self, anchor_id: int) -> int | None:
        """The flow that the next turn of a thread goes on from, by the id of the one that it began with."""
        ...

    async def schedules(self) -> tuple[float, list[ScheduleRow]]:
        """The database's time, and the schedules by name."""
        ...

    async def fingerprint(self, flow_id: int) -> Fingerprint | None:
        """What changes whenever something happens in the flow, in one statement."""
        ...

    async def tokens(self, flow_ids: Sequence[int]) -> dict[int, str]:
        """The token of each of these flows; one that is not there is absent."""
        ...

    async def steps(self, flow_id: int) -> list[StepRow]:
        """All steps of a flow, by depth and id."""
        ...

    async def materials(self, step_ids: Sequence[int]) -> dict[int, Material]:
        """What the inputs of these steps are folded from; a step that is gone is absent."""
        ...

    async def cohort(self, spawn_id: int, *, joined: bool = True) -> Material | None:
        """What the fold of a cohort is made of: what its fan-in reads, or, where it has not `joined`, all so far."""
        ...

    async def interrupted(self, flow_id: int) -> list[StepRow]:
        """The steps of the flow, and of the flows it called, that wait for an answer, earliest first."""
        ...

    async def called(self, flow_id: int) -> list[FlowRow]:
        """The flows that steps of this flow called."""
        ...

    async def callers(self, flow_id: int, most: int) -> list[str]:
        """The workflow of this flow, of the one that called it, and so on: as many as there are, or `most`."""
        ...

    def listening(self, heard: Callable[[str], None]) -> AbstractAsyncContextManager[Line]:
        """Hear what is told by the `Line` of any store over the same database, within the block. `StoreTrouble` where
        that cannot be, which is so for all but PostgreSQL.
        """
        ...

    async def roll(self) -> dict[int, str]:
        """The shards there are, each with its state. Shard 1 keeps it."""
        ...

    async def standing(self) -> tuple[int, int]:
        """How many flows are open, and how many steps wait or run."""
        ...

    async def close(self) -> None:
        """Finish what is under way and close. Idempotent."""
