"""Schedules, in SQL. The database of shard 1 keeps them, and their flows are there.

A tick is written together with the flow that it makes, and only where the schedule has not come so far yet: of several
Foremen that see it due, one makes the flow.
"""

from __future__ import annotations

from mbactor.foreman.store.dialect import Db, Insert
from mbactor.foreman.store.flows import create_all, insert_graphs
from mbactor.foreman.store.operations import Changed, Created, DropSchedule, PauseSchedule, PutSchedule, Tick
from mbactor.foreman.store.rows import ScheduleRow
from mbactor.foreman.store.transaction import Transaction

_ADD = Insert("mbactor_schedule", ("name", "spec", "paused", "last_tick"), once=True, returning="name")
_CHANGE = "UPDATE mbactor_schedule SET spec = ? WHERE name = ? AND spec <> ?"
_MOVE = "UPDATE mbactor_schedule SET last_tick = ? WHERE name = ? AND last_tick = ? AND spec = ? AND paused = 0"
# What fell into the pause is not made up for.
_PAUSE = """UPDATE mbactor_schedule SET paused = ?, last_tick = CASE WHEN ? = 0 THEN ? ELSE last_tick END
    WHERE name = ? AND paused <> ?"""
_MADE = "UPDATE mbactor_schedule SET flow_id = ? WHERE name = ?"
_ALL = """SELECT schedule.name, schedule.spec, schedule.paused, schedule.last_tick, flow.id, flow.token, flow.status
    FROM mbactor_schedule AS schedule LEFT JOIN mbactor_flow AS flow
    ON flow.id = schedule.flow_id AND flow.delete_at IS NULL ORDER BY schedule.name"""
_THERE = "SELECT count(*) FROM mbactor_schedule WHERE name = ?"


async def put(tx: Transaction, one: PutSchedule) -> int:
    """Write what the schedule is to be; 1 where that is new. A changed one goes on from its last tick."""
    if await tx.db.insert(_ADD, [(one.name, one.spec, 0, tx.now)]):
        return 1
    return await tx.db.count(_CHANGE, one.spec, one.name, one.spec)


async def drop(tx: Transaction, one: DropSchedule) -> int:
    """Forget the schedule; its flows stay. 0 where there is none."""
    return await tx.db.count("DELETE FROM mbactor_schedule WHERE name = ?", one.name)


async def pause(tx: Transaction, one: PauseSchedule) -> int:
    """Pause the schedule or let it go on. 0 where there is none."""
    paused = int(one.paused)
    await tx.db.count(_PAUSE, paused, paused, tx.now, one.name, paused)
    ((count,),) = await tx.db.rows(_THERE, one.name)
    return int(count)


async def tick(tx: Transaction, one: Tick) -> Created | Changed:
    """Move the schedule to a tick, and make its flow where it makes one."""
    if not await tx.db.count(_MOVE, one.tick, one.name, one.last_tick, one.spec):
        return Changed(False, "running", (), "the schedule has changed, or another Foreman was quicker")
    if one.create is None:
        return Changed(True, "running")
    await insert_graphs(tx, {one.create.graph_hash: one.create.graph})
    (created,) = await create_all(tx, [one.create])
    await tx.db.count(_MADE, created.flow_id, one.name)
    return created


async def schedules(db: Db) -> tuple[float, list[ScheduleRow]]:
    """The database's time, and the schedules by name."""
    ((now,),) = await db.rows("SELECT <now>")
    return now, [ScheduleRow(*row) for row in await db.rows(_ALL)]
