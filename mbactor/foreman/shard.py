"""`Shard`: the part of the tree that works for one shard of a Foreman."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

from mbactor.errors import MbactorError
from mbactor.foreman.committer import Trouble
from mbactor.foreman.engine import Engine
from mbactor.foreman.shards import Member
from mbactor.foreman.store.late import LateStore, open_or_late
from mbactor.foreman.store.store import Store
from mbactor.foreman.worker import Listener, Sweeper, Worker
from mbactor.kernel.exit import Exit
from mbactor.supervisor.spec import child
from mbactor.supervisor.supervisor import Supervisor


class Shard(Supervisor):
    """Workers that claim leased steps, and a sweeper that recovers expired leases, over one database.

    It opens the store before them and closes it after them. While its database does not answer they wait for it.
    """

    def __init__(
        self,
        member: Member,
        engine_over: Callable[[Store], Engine],
        *,
        workers: int,
        slots: int,
        name: str,
        listens: bool,
    ) -> None:
        super().__init__()
        self._member = member
        self._engine_over = engine_over
        self._workers = workers
        self._slots = slots
        self._name = name
        self._listens = listens
        self._store: Store | None = None

    async def on_start(self) -> None:
        member = self._member
        opened, member.store = member.store, None
        try:
            store = opened or await open_or_late(member.url, member.number)
        except MbactorError as error:
            member.error = str(error)
            raise
        self._store = cast("Store", store)
        engine = self._engine_over(self._store)
        if isinstance(store, LateStore):
            engine.committer.trouble = Trouble(str(store.why), -math.inf)
        member.engine = engine
        workers = [
            child(Worker, id=f"worker-{n}", args={"engine": engine, "name": f"{self._name}/{n}", "slots": self._slots})
            for n in range(1, self._workers + 1)
        ]
        listener = [child(Listener, id="listener", args={"engine": engine})] if self._listens else []
        self.children = [*workers, child(Sweeper, id="sweeper", args={"engine": engine}), *listener]

    async def on_stop(self, exit: Exit) -> None:
        engine, self._member.engine = self._member.engine, None
        self._member.error = f"it ended ({exit.kind}) and is being started again"
        if engine is not None:
            await engine.close()
        if self._store is not None:
            await self._store.close()
