"""`Shards`: which engine an operation belongs to.

    shards = Shards([Member(1, engine=engine)])
    await shards.of(flow_key).resume(flow_key, {})      # what has a key goes to the shard that the key names
    await shards.create(workflow, state, options)       # what is new is placed
    await shards.list(FlowQuery(limit=10))              # what is about many flows asks all shards

A flow stays on its shard for life, with all that follows from it: the flows it calls, its thread. New ones go to any
shard that is not cordoned and whose database answers. An idempotency key is looked for on all shards first, so they may
come, go and be cordoned, and it still finds its flow; what has it for the first time goes to the shard that the key
chooses, where of any number of creations at the same moment one wins. A concurrency key chooses the shard before it:
who shares one has to be on one shard, where its places are counted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import msgspec

from mbactor.errors import BadRequest, Unavailable
from mbactor.foreman.engine import Engine, check_same
from mbactor.foreman.keys import Key, KeyKind, not_found, parse_key
from mbactor.foreman.model.outcome import FlowOptions, FlowPage, ShardInfo, ShardInfos, ShardState
from mbactor.foreman.model.paging import Listed, merged
from mbactor.foreman.model.query import FlowQuery, check_purge
from mbactor.foreman.news import News
from mbactor.foreman.store.late import LateStore
from mbactor.foreman.store.store import Store, StoreTrouble

DOWN_AFTER = 2.0
"""Seconds that a database does not take what is written, after which its shard is down."""
LONGEST_LOOK = 5.0


class Member:
    """A shard as its Foreman sees it. `engine` is there while its part of the tree runs."""

    def __init__(
        self, number: int, url: str = "", *, state: ShardState = "active", engine: Engine | None = None
    ) -> None:
        self.number = number
        self.url = url
        self.state: ShardState = state
        self.engine = engine
        self.begun = engine is not None
        """Its part of the tree has been started, and is restarted where it fails."""
        self.error = "it is being started"
        """Why there is no engine."""
        self.store: Store | LateStore | None = None
        """Opened already, for the first start of its part of the tree."""
        self.placed_from = 0.0
        """When, by the loop's clock, it gets new flows: every Foreman knows of it by then."""
        self.empty_until = 0.0
        """Until when, by the same clock, no Foreman can have put a flow there."""

    @property
    def down(self) -> str:
        """Why nothing can be done with it; empty where something can."""
        return self._trouble(DOWN_AFTER)

    @property
    def takes(self) -> bool:
        """Whether it is where new flows are best put."""
        return self.state == "active" and not self._trouble(0.0) and self.known

    @property
    def known(self) -> bool:
        """Whether every Foreman knows of it by now, and looks there for what has a key."""
        return self.placed_from == 0.0 or asyncio.get_running_loop().time() >= self.placed_from

    @property
    def empty(self) -> bool:
        """Whether it is so new that nothing of it need be asked for."""
        return self.empty_until > 0.0 and asyncio.get_running_loop().time() < self.empty_until

    def _trouble(self, lasting: float) -> str:
        if self.engine is None:
            return self.error
        trouble = self.engine.committer.trouble
        if trouble is None or asyncio.get_running_loop().time() - trouble.since < lasting:
            return ""
        return trouble.text

    def up(self) -> Engine:
        """Its engine; Unavailable (503) where it is down."""
        down = self.down
        if down or self.engine is None:
            raise Unavailable(f"shard {self.number} is down: {down}", shard=self.number)
        return self.engine


class Shards:
    """The shards of a Foreman, by number."""

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self.members = {member.number: member for member in members}

    def of(self, key: str, kind: KeyKind = "flow") -> Engine:
        """The engine of the shard that a flow key or step key names.

        InvalidKey (400) where it is no key, FlowNotFound (404) where there is no such shard, Unavailable (503) where it
        is down.
        """
        parsed = parse_key(key, kind)
        member = self.members.get(parsed.shard)
        if member is None:
            raise not_found(kind, parsed)
        return member.up()

    def heard(self, news: News) -> None:
        """Another Foreman told something of a shard."""
        member = self.members.get(news.shard)
        if member is not None and member.engine is not None:
            member.engine.heard(news)

    @property
    def all(self) -> list[Engine]:
        """The engines of the shards that are up, in order."""
        known = (self.members[number] for number in sorted(self.members))
        return [member.engine for member in known if member.engine is not None and not member.down]

    async def create(self, workflow: str, state: Any, options: FlowOptions | None = None, *, start: bool = True) -> str:
        """As `Engine.create`, on a shard that is chosen: that of the thread that the flow joins, else any.

        Unavailable (503) where none takes new flows; with an idempotency key also where a shard that may have the flow
        of that key is down.
        """
        options = options or FlowOptions()
        if options.idempotency_key is not None and len(self.members) > 1:
            first = await self._first(options.idempotency_key, workflow)
            if first is not None:
                return first
        if options.thread_key is not None:
            return await self.of(options.thread_key).create(workflow, state, options, start=start)
        choice = options.concurrency_key or options.idempotency_key
        if choice is not None:
            active = self._active()
            known = [member for member in active if member.known] or active
            return await chosen(known, choice).up().create(workflow, state, options, start=start)
        best = [member for member in self.members.values() if member.takes]
        while len(best) > 1:
            engine = best.pop(random.randrange(len(best))).up()
            with suppress(StoreTrouble):  # nothing of it was written: another may have it
                return await engine.create(workflow, state, options, start=start, patient=False)
        (member, *_) = best or [one for one in self._active() if not one.down] or self._active()
        return await member.up().create(workflow, state, options, start=start)

    async def _first(self, idempotency_key: str, workflow: str) -> str | None:
        """The key of the flow that an idempotency key was given to."""
        engines = [member.up() for member in self.members.values() if not member.empty]
        found = await asyncio.gather(*(engine.store.keyed(idempotency_key) for engine in engines))
        for engine, row in zip(engines, found, strict=True):
            if row is not None:
                check_same(idempotency_key, row.workflow, workflow)
                return str(Key(engine.store.shard, row.id, row.token))
        return None

    def _active(self) -> Sequence[Member]:
        """The shards that are not cordoned; Unavailable (503) where all are."""
        active = [member for member in self.members.values() if member.state == "active"]
        if not active:
            raise Unavailable(f"no shard takes new flows; cordoned: {', '.join(map(str, self.members))}")
        return active

    async def list(self, query: FlowQuery) -> FlowPage:
        """A page of the flows of all shards, or of the one that is asked for; `notes` has those that do not answer."""
        found: dict[int, list[Listed]] = {}
        missing: dict[int, str] = {}

        async def look(member: Member) -> None:
            try:
                async with asyncio.timeout(LONGEST_LOOK):
                    found[member.number] = await member.up().listed(query)
            except (StoreTrouble, Unavailable, TimeoutError) as error:
                missing[member.number] = member.down or str(error) or "it does not answer"

        await asyncio.gather(*map(look, self._asked(query)))
        return merged(found, missing, query.limit)

    async def purge(self, query: FlowQuery) -> int:
        """Remove flows of one shard after another, up to the query's limit in all; how many.

        Unavailable (503) where one of them is down: then nothing has been removed.
        """
        check_purge(query)
        count = 0
        for engine in [member.up() for member in self._asked(query)]:
            if count < query.limit:
                count += await engine.purge(msgspec.structs.replace(query, limit=query.limit - count))
        return count

    def _asked(self, query: FlowQuery) -> Sequence[Member]:
        """The shards that a query is for."""
        if query.thread is not None:
            self.of(query.thread)
        if query.shard is not None:
            return [self.member(query.shard)]
        return [self.members[number] for number in sorted(self.members)]

    async def info(self, shard: int | None = None) -> ShardInfos:
        """How each shard fares, or one of them. Costs a pass over each one's table of flows."""
        known = [self.members[number] for number in sorted(self.members)] if shard is None else [self.member(shard)]
        return await asyncio.gather(*(_info(member) for member in known))

    def member(self, number: int) -> Member:
        """The shard of this number; BadRequest (400) where there is none."""
        member = self.members.get(number)
        if member is None:
            known = ", ".join(map(str, sorted(self.members)))
            raise BadRequest(f"shard={number}: no such shard; there are {known}")
        return member


def chosen(members: Iterable[Member], key: str) -> Member:
    """Which of some shards a key goes to. Where one more comes, keys go to that one or stay."""
    return max(
        members,
        key=lambda one: blake2b(
            key.encode("utf-8", "surrogatepass"), salt=one.number.to_bytes(16), digest_size=8
        ).digest(),
    )


async def _info(member: Member) -> ShardInfo:
    told = ShardInfo(shard=member.number, state=member.state)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.timeout(LONGEST_LOOK):
            told.flows, told.steps = await member.up().store.standing()
    except (StoreTrouble, Unavailable, TimeoutError) as error:
        told.error = member.down or str(error) or "it does not answer"
        return told
    told.latency_ms = 1000 * (loop.time() - begun)
    if member.state == "cordoned" and not told.flows:
        told.state = "drained"
    return told
