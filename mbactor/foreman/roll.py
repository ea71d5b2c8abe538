"""`Roll`: which shards there are, as all Foremen of the same databases agree on it.

    await roll.add()            # a new shard, open to new flows
    await roll.cordon(2)        # no new flows from now on; what is there goes on
    await roll.remove(2)        # once no flow on it is open

Shard 1 keeps the roll in its database, and every Foreman reads it regularly: what one of them was told, all do an
interval later. While shard 1 is down nothing of it can be changed, and all goes on as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import msgspec

from mbactor import observe
from mbactor.errors import BadRequest, InvalidSpec, MbactorError, ShardInUse
from mbactor.foreman.model.outcome import ShardState
from mbactor.foreman.shards import Member, Shards
from mbactor.foreman.store.late import LateStore, open_or_late
from mbactor.foreman.store.open import is_numbered, open_store, shown_database, url_of_shard
from mbactor.foreman.store.operations import AddShard, Enrol
from mbactor.foreman.store.store import Store

Act = Callable[[Member], Awaitable[None]]


class Kept(msgspec.Struct, frozen=True):
    """What keeps the flows of a Foreman: the identity of shard 1, and the URL as it may be shown."""

    identity: int
    shown: str


class Roll:
    """Keeps the shards of a Foreman as the roll has them. `begin` and `end` start and stop what runs for one."""

    def __init__(self, shards: Shards, database: str, interval: float, begin: Act, end: Act) -> None:
        self._shards = shards
        self._members = shards.members
        self._database = database
        self._interval = interval
        self._begin = begin
        self._end = end
        self._unchecked: dict[int, str] = {}
        """Shards that were removed and not looked at since, each with why that failed."""
        self._following = asyncio.Lock()

    @property
    def kept(self) -> Kept:
        """What keeps the flows. Unavailable (503) while shard 1 is down."""
        return Kept(self._members[1].up().store.identity, shown_database(self._database))

    # --- at the start ------------------------------------------------------------------------------------------

    async def open(self, count: int) -> None:
        """Open the databases of shards 1 to `count`, and of those that the roll has beside them.

        One that does not answer is waited for later, unless none of them does. Any other error is raised, and leaves
        nothing open.
        """
        try:
            first = await self._open(1)
            known = {} if isinstance(first, LateStore) else await first.roll()
            states = {**dict.fromkeys(range(1, count + 1), "active"), **known}
            wanted = [number for number, state in states.items() if number > 1 and state != "removed"]
            if wanted and not is_numbered(self._database):
                others = ", ".join(map(str, wanted))
                raise InvalidSpec(
                    f"{shown_database(self._database)} is that of shard 1 of several (there is {others}, too); give the"
                    " URL with %d in it, which stands for the number of a shard"
                )
            stores = [first, *await asyncio.gather(*map(self._open, wanted), return_exceptions=True)]
            for store in stores:
                if isinstance(store, BaseException):
                    raise store
            if all(isinstance(store, LateStore) for store in stores):
                assert isinstance(first, LateStore)
                raise first.why
        except BaseException:
            await self.close()
            raise
        for member in self._members.values():
            member.state = cast("ShardState", states[member.number])
            if known and member.number not in known:
                self._delay(member)

    async def _open(self, number: int) -> Store | LateStore:
        member = self._members[number] = Member(number, url_of_shard(self._database, number))
        member.store = await open_or_late(member.url, number)
        return member.store

    async def close(self) -> None:
        """Close what has been opened and that nothing works over."""
        for member in self._members.values():
            store, member.store = member.store, None
            if store is not None:
                await store.close()

    # --- for as long as it runs ----------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Put the shards of the start on the roll, then follow what becomes of it, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_following())
            group.create_task(self._keep_checking())

    async def _keep_following(self) -> None:
        written = False
        while True:
            try:
                if written:
                    await self.refresh()
                else:
                    await self._write(dict.fromkeys(self._members, "active"))
                    written = True
            except MbactorError as error:
                observe.emit("foreman.trouble", error=str(error))
            await asyncio.sleep(self._interval)

    async def _keep_checking(self) -> None:
        """One that does not answer is asked again, and keeps nobody else waiting."""
        while True:
            for number, why in list(self._unchecked.items()):
                try:
                    await self._check_gone(number)
                except MbactorError as error:
                    self._unchecked[number] = str(error)
                    if str(error) != why:
                        observe.emit("foreman.trouble", error=f"shard {number}, which was removed: {error}")
            await asyncio.sleep(self._interval)

    async def refresh(self) -> None:
        """Read the roll and do as it says."""
        await self._follow(await self._members[1].up().store.roll())

    async def add(self) -> int:
        """Add the shard with the next number; that number. It gets its first flows when every Foreman has learnt of it.

        Its database has to be there, and says by InvalidSpec or StoreTrouble what is wrong with it: then nothing
        has been added.
        """
        if not is_numbered(self._database):
            raise BadRequest(
                "the Foreman has one database; one with %d in its URL and shards above 1 has room for more"
            )
        while True:
            number = max({*self._members, *await self._members[1].up().store.roll()}) + 1
            await (await open_store(url_of_shard(self._database, number), number)).close()
            # Where somebody else has added it meanwhile, the next one is mine.
            states = await self._members[1].up().committer.commit(AddShard(number))
            if states:
                await self._follow(states)
                return number

    async def cordon(self, number: int) -> None:
        """Let no new flows on a shard. Those that are there go on, and what follows from them."""
        await self._change(self._shards.member(number), "cordoned")

    async def uncordon(self, number: int) -> None:
        """Let new flows on a shard again."""
        await self._change(self._shards.member(number), "active")

    async def remove(self, number: int) -> None:
        """Forget a shard that is drained, for good: its flows are not found any more, its number is not used again.

        ShardInUse (409) where it is not cordoned, has open flows, or is shard 1.
        """
        member = self._shards.member(number)
        if number == 1:
            raise ShardInUse("shard 1 keeps the roll of the shards and cannot be removed", shard=number)
        if member.state == "active":
            raise ShardInUse(f"shard {number} gets new flows; cordon it and wait until it is drained", shard=number)
        count, _ = await member.up().store.standing()
        if count:
            raise ShardInUse(f"shard {number} has {count} open flows; it can be removed once it has none", shard=number)
        await self._write({number: "removed"}, changing=True)

    async def _change(self, member: Member, state: ShardState) -> None:
        # The Foreman that knows of it may not have come to put it on the roll.
        await self._write({member.number: "active"})
        await self._write({member.number: state}, changing=True)

    async def _write(self, states: Mapping[int, str], *, changing: bool = False) -> None:
        one = Enrol(dict(states), changing=changing)
        await self._follow(await self._members[1].up().committer.commit(one))

    async def _follow(self, states: Mapping[int, str]) -> None:
        async with self._following:
            for number, state in states.items():
                member = self._members.get(number)
                if state != "removed":
                    await self._follow_one(number, member, cast("ShardState", state))
                elif member is not None:
                    del self._members[number]
                    self._unchecked[number] = ""
                    await self._end(member)

    async def _follow_one(self, number: int, member: Member | None, state: ShardState) -> None:
        if member is None:
            member = self._members[number] = Member(number, url_of_shard(self._database, number))
            self._delay(member)
        member.state = state
        if not member.begun:
            try:
                await self._begin(member)
            except MbactorError as error:
                member.error = str(error)
                observe.emit("foreman.trouble", error=f"shard {number}: {error}")

    def _delay(self, member: Member) -> None:
        """Put no flows on a new shard before every Foreman knows where to look for them."""
        now = asyncio.get_running_loop().time()
        member.placed_from = now + 2 * self._interval
        # Who learnt of it first, an interval ago at most, keeps to that too.
        member.empty_until = now + self._interval / 2

    async def _check_gone(self, number: int) -> None:
        """A Foreman that had not learnt of the cordon may have put a flow on it: then it is cordoned again."""
        store = await open_store(url_of_shard(self._database, number), number)
        try:
            count, _ = await store.standing()
        finally:
            await store.close()
        if count:
            await self._write({number: "cordoned"}, changing=True)
        self._unchecked.pop(number, None)
