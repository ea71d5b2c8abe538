"""Those who wait for flows to come to rest.

A stop committed by this process wakes them at once, after its transaction. What other processes stopped is looked for
when one of them tells of it, and by a poll: one query for all who wait, and none when nobody does.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from mbactor import observe
from mbactor.errors import Unavailable
from mbactor.foreman.model.status import is_stopped
from mbactor.foreman.store.operations import Stopped
from mbactor.foreman.store.store import Store, StoreTrouble

GONE = "deleted"


class Waiters:
    """Futures by flow, resolved with a `Stopped`."""

    def __init__(self, store: Store, interval: float) -> None:
        self._store = store
        self._interval = interval
        self._waiting: dict[int, set[asyncio.Future[Stopped]]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()

    @property
    def flows(self) -> Collection[int]:
        """The flows that somebody waits for here."""
        return self._waiting.keys()

    @contextmanager
    def waiting(self, flow_id: int) -> Iterator[asyncio.Future[Stopped]]:
        """A future for the next stop of the flow. Take it first, then read the flow: so no stop falls between."""
        future: asyncio.Future[Stopped] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(flow_id, set()).add(future)
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(), name="waiters", context=contextvars.Context())
        try:
            yield future
        finally:
            others = self._waiting.get(flow_id, set())
            others.discard(future)
            if not others:
                self._waiting.pop(flow_id, None)

    def release(self, stopped: Iterable[Stopped]) -> None:
        """Wake whoever waits for these. A flow that was deleted by the batch that ended it counts as deleted."""
        last = {one.flow_id: one for one in stopped}
        for flow_id, one in last.items():
            for future in self._waiting.pop(flow_id, ()):
                if not future.done():
                    future.set_result(one)

    def look(self, flow_ids: Iterable[int] | None = None) -> None:
        """Look soon which of these flows have stopped; by default of all that somebody waits for."""
        wanted = [flow_id for flow_id in self.flows if flow_ids is None or flow_id in flow_ids]
        if wanted:
            looking = asyncio.create_task(self._look(wanted), name="waiters", context=contextvars.Context())
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)

    async def close(self) -> None:
        """Everybody who still waits gets a 503."""
        tasks = [*self._looking, *([self._polling] if self._polling is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(
                        Unavailable("the Foreman has been closed; the flow goes on elsewhere or later")
                    )
        self._waiting.clear()

    async def _poll(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._interval)
                await self._look(list(self._waiting))
        finally:
            # No await between the last look and this: who comes later starts a new poll.
            self._polling = None

    async def _look(self, wanted: list[int]) -> None:
        try:
            statuses = await self._store.statuses(wanted)
        except StoreTrouble as error:
            observe.emit("foreman.trouble", error=str(error))
            return
        found = ((flow_id, statuses.get(flow_id, GONE)) for flow_id in wanted)
        self.release(Stopped(flow_id, status) for flow_id, status in found if status == GONE or is_stopped(status))
