"""`Shards`: which engine an operation belongs to.

    shards = Shards([engine])
    await shards.of(flow_key).resume(flow_key, {})      # what has a key goes to the shard that the key names
    await shards.create(workflow, state, options)       # what is new is placed
    await shards.list(FlowQuery(limit=10))              # what is about many flows asks all shards

A flow stays on its shard for life, with all that follows from it: the flows it calls, its thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mbactor.errors import BadRequest
from mbactor.foreman.engine import Engine
from mbactor.foreman.keys import KeyKind, not_found, parse_key
from mbactor.foreman.model.outcome import FlowOptions, FlowPage
from mbactor.foreman.model.paging import Listed, merged
from mbactor.foreman.model.query import FlowQuery, check_purge
from mbactor.foreman.store.store import StoreTrouble


class Shards:
    """The engines of a Foreman, by the number of their shard."""

    def __init__(self, engines: Iterable[Engine] = ()) -> None:
        self._engines = {engine.store.shard: engine for engine in engines}

    def of(self, key: str, kind: KeyKind = "flow") -> Engine:
        """The engine of the shard that a flow key or step key names.

        InvalidKey (400) where it is no key, FlowNotFound (404) where there is no such shard.
        """
        engine = self._engines.get(parse_key(key, kind).shard)
        if engine is None:
            raise not_found(kind)
        return engine

    @property
    def all(self) -> list[Engine]:
        """The engines in the order of their shards."""
        return [self._engines[number] for number in sorted(self._engines)]

    async def create(self, workflow: str, state: Any, options: FlowOptions | None = None, *, start: bool = True) -> str:
        """As `Engine.create`, on a shard that is chosen: that of the thread that the flow joins, else any."""
        thread_key = options.thread_key if options is not None else None
        engine = self.all[0] if thread_key is None else self.of(thread_key)
        return await engine.create(workflow, state, options, start=start)

    async def list(self, query: FlowQuery) -> FlowPage:
        """A page of the flows of all shards, or of the one that is asked for; `notes` has those that do not answer."""
        asked = self._asked(query)
        answers = await asyncio.gather(*(engine.listed(query) for engine in asked), return_exceptions=True)
        found: dict[int, list[Listed]] = {}
        missing: dict[int, str] = {}
        for engine, answer in zip(asked, answers, strict=True):
            if isinstance(answer, StoreTrouble):
                missing[engine.store.shard] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[engine.store.shard] = answer
        return merged(found, missing, query.limit)

    async def purge(self, query: FlowQuery) -> int:
        """Remove flows of one shard after another, up to the query's limit in all; how many."""
        check_purge(query)
        count = 0
        for engine in self._asked(query):
            if count < query.limit:
                count += await engine.purge(msgspec.structs.replace(query, limit=query.limit - count))
        return count

    def _asked(self, query: FlowQuery) -> Sequence[Engine]:
        """The engines that a query is for."""
        if query.thread is not None:
            self.of(query.thread)
        asked = [engine for engine in self.all if query.shard in {None, engine.store.shard}]
        if not asked:
            known = ", ".join(map(str, sorted(self._engines)))
            raise BadRequest(f"shard={query.shard}: no such shard; there are {known}")
        return asked
