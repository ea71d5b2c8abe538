"""`Schedules`: the schedules of a Foreman, and who makes their flows.

    schedules = Schedules(shards)
    await schedules.put(Schedule(name="nightly", workflow=url, cron="0 3 * * *"))
    await schedules.follow()            # makes flows at their ticks, until cancelled

Every Foreman of a database follows them: whoever is first at a tick makes its flow, and the others find it done. The
time is the database's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import msgspec

from mbactor import observe
from mbactor.errors import BadRequest, MbactorError
from mbactor.foreman.engine import Engine
from mbactor.foreman.keys import Key
from mbactor.foreman.model.schedule import Schedule, due, next_tick
from mbactor.foreman.model.status import FlowStatus
from mbactor.foreman.shards import Shards
from mbactor.foreman.store.operations import Created, DropSchedule, PauseSchedule, PutSchedule, Tick
from mbactor.foreman.store.rows import ScheduleRow
from mbactor.foreman.store.store import StoreTrouble
from mbactor.seams import checkpoint

KEEPER = 1
"""The shard whose database has the schedules, and their flows."""
LONGEST_REST = 15.0
"""Seconds after which a schedule that another Foreman has made or changed is seen."""

AFTER_TROUBLE = 1.0

_spec = msgspec.json.Decoder(Schedule)


class Schedules:
    """What is to be done at which times, over the shards of a Foreman."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._changed = asyncio.Event()
        self._in_vain = 0
        """How often in a row a tick was due whose flow could not be made."""

    # --- what there is -----------------------------------------------------------------------------------------

    async def put(self, schedule: Schedule) -> None:
        """Make a schedule, or change the one of this name; it goes on from its last tick then."""
        plain = {"paused": False, "last_tick": None, "next_tick": None, "last_flow": None, "last_status": None}
        spec = msgspec.structs.replace(schedule, **plain)
        await self._engine().committer.commit(PutSchedule(schedule.name, msgspec.json.encode(spec)))
        self._changed.set()

    async def pause(self, name: str, paused: bool) -> None:
        """Pause a schedule, or let it go on with the next tick from now. BadRequest where there is none."""
        count = await self._engine().committer.commit(PauseSchedule(name, paused))
        await self._check(name, count)

    async def drop(self, name: str) -> None:
        """Forget a schedule; its flows stay. BadRequest where there is none."""
        count = await self._engine().committer.commit(DropSchedule(name))
        await self._check(name, count)

    async def all(self) -> list[Schedule]:
        """The schedules by name, with the times of their ticks."""
        _, rows = await self._engine().store.schedules()
        return [_told(row) for row in rows]

    async def _check(self, name: str, count: int) -> None:
        self._changed.set()
        if not count:
            known = ", ".join(one.name for one in await self.all()) or "none"
            raise BadRequest(f"schedule={name!r}: no such schedule; there are: {known}")

    def _engine(self) -> Engine:
        return self._shards.member(KEEPER).up()

    # --- what they do --------------------------------------------------------------------------------------------

    async def follow(self, declared: Sequence[Schedule] = ()) -> None:
        """Make flows at their ticks until cancelled; first make or change the schedules that are declared. Trouble is
        told and tried again.
        """
        to_put = deque(declared)
        while True:
            try:
                while to_put:
                    await self.put(to_put[0])
                    to_put.popleft()
                self._changed.clear()  # what is put from now on is read in the next round
                rest = await self.run_due()
            except MbactorError as error:
                observe.emit("foreman.trouble", error=f"schedules: {error}")
                rest = AFTER_TROUBLE
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._changed.wait()

    async def run_due(self) -> float:
        """Make the flows of all ticks that are due; in how many seconds there may be more to do."""
        engine = self._engine()
        now, rows = await engine.store.schedules()
        rest, in_vain = LONGEST_REST, False
        for row in rows:
            if row.paused:
                continue
            schedule = _spec.decode(row.spec)
            try:
                last = await self._run(engine, row, schedule, now)
            except StoreTrouble:
                raise
            except MbactorError as error:
                # Nobody serves the workflow just now, or its graph is wrong: the tick stays due.
                observe.emit("schedule.failed", name=row.name, error=error)
                in_vain = True
                continue
            following = next_tick(schedule, last)
            if following is not None:
                rest = min(rest, max(0.01, following - now))
        self._in_vain = self._in_vain + 1 if in_vain else 0
        # While everything starts, or a new version comes, it is a matter of moments.
        return min(rest, AFTER_TROUBLE * 2 ** min(self._in_vain - 1, 8)) if in_vain else rest

    async def _run(self, engine: Engine, row: ScheduleRow, schedule: Schedule, now: float) -> float:
        """Make the flows of the ticks of one schedule that are due; up to which tick it is dealt with."""
        found = due(schedule, row.last_tick, now)
        last = row.last_tick
        for tick in found.ticks:
            if not await self._make(engine, row, schedule, last, tick):
                return tick
            last = tick
        if found.until > last:
            await engine.committer.commit(Tick(row.name, row.spec, last, found.until))
        return found.until

    async def _make(self, engine: Engine, row: ScheduleRow, schedule: Schedule, last: float, tick: float) -> bool:
        moment = dt.datetime.fromtimestamp(tick, dt.UTC).isoformat()
        baggage = {**schedule.options.baggage, "schedule": row.name, "tick": moment}
        options = msgspec.structs.replace(schedule.options, baggage=baggage)
        new = await engine.prepared(schedule.workflow, schedule.state, options)
        await checkpoint("foreman.tick.before", schedule=row.name)
        made = await engine.committer.commit(Tick(row.name, row.spec, last, tick, new))
        if not isinstance(made, Created):
            return False
        flow = Key(engine.store.shard, made.flow_id, made.token).correlation_id
        observe.emit("flow.started", flow=flow, workflow=schedule.workflow)
        return True


def _told(row: ScheduleRow) -> Schedule:
    schedule = _spec.decode(row.spec)
    following = None if row.paused else next_tick(schedule, row.last_tick)
    made = None if row.flow_id is None else str(Key(KEEPER, row.flow_id, row.flow_token or ""))
    return msgspec.structs.replace(
        schedule, paused=bool(row.paused), last_tick=_moment(row.last_tick), next_tick=_moment(following),
        last_flow=made, last_status=cast("FlowStatus | None", row.flow_status),
    )  # fmt: skip


def _moment(unix: float | None) -> dt.datetime | None:
    return None if unix is None else dt.datetime.fromtimestamp(unix, dt.UTC)
