"""Rates of tasks, in SQL: a claimed step whose time has not come goes back until it has.

The row of a task says up to when starts have been given out, over all Foremen of the database. A step is given the next
time when it is first claimed, and is claimed again then; one that comes late, after an outage, gets another, so that
what has gathered meanwhile is not started all at once. Where many that had a time were cancelled, those behind them
close up at the next sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

from mbactor.foreman.model.rate import AHEAD, Rate, closed_up, has_gaps, may_start, reserve
from mbactor.foreman.store.dialect import Update
from mbactor.foreman.store.rows import StepRow
from mbactor.foreman.store.transaction import Transaction

_HOLD = """INSERT INTO mbactor_rate (name, free_from) VALUES (?, 0)
    ON CONFLICT (name) DO UPDATE SET free_from = mbactor_rate.free_from RETURNING free_from"""
_GIVE_OUT = "UPDATE mbactor_rate SET free_from = ? WHERE name = ?"
_WAIT = Update(
    "mbactor_step",
    """status = 'pending', slot = :slot, not_before = :slot, lease_expires = NULL, worker = NULL,
    unused_leases = unused_leases + 1,
    started_at = CASE WHEN attempt = 0 AND parks IS NULL THEN NULL ELSE started_at END, updated_at = :updated_at""",
    "id = :id",
    ("slot", "updated_at", "id"),
)

_GIVEN = "SELECT name, free_from FROM mbactor_rate WHERE free_from > ? ORDER BY name <skip locked>"
_OF_RATE = "FROM mbactor_step WHERE status = 'pending' AND priority = ? AND not_before > ? AND rate = ?"
_COUNT = f"SELECT count(*) {_OF_RATE} AND slot = not_before"
_WAITING = f"SELECT slot, id {_OF_RATE} AND slot = not_before <skip locked>"
_EARLIER = Update("mbactor_step", "slot = :slot, not_before = :slot", "id = :id AND status = 'pending'", ("slot", "id"))


async def close_up(tx: Transaction) -> None:
    """Give earlier times to steps that wait behind others which were cancelled. Waits for nobody: what somebody else
    holds keeps its time.
    """
    given = await tx.db.rows(_GIVEN, tx.now + AHEAD)
    bands = [band for band, _ in await tx.bands()] if given else []
    for name, free_from in given:
        rate = Rate.parse(name.partition(" ")[0]).per_second
        of_bands = [(band, tx.now + AHEAD, name) for band in bands]
        waiting = sum([(await tx.db.rows(_COUNT, *values))[0][0] for values in of_bands])
        if has_gaps(free_from, tx.now, waiting, rate):
            rows = sorted([row for values in of_bands for row in await tx.db.rows(_WAITING, *values)])
            slots, earlier = closed_up([slot for slot, _ in rows], free_from, tx.now, rate)
            moved = [(new, step_id) for new, (old, step_id) in zip(slots, rows, strict=True) if new < old]
            if moved:
                await tx.db.update(_EARLIER, moved)
            await tx.db.count(_GIVE_OUT, earlier, name)


async def too_soon(tx: Transaction, steps: Sequence[StepRow]) -> set[int]:
    """Give back those of the claimed steps that are to be started later; their ids."""
    by_task: dict[str, list[StepRow]] = {}
    for step in steps:
        if step.rate and not may_start(step.slot, tx.now):
            by_task.setdefault(step.rate, []).append(step)
    later: dict[int, float] = {}
    for name in sorted(by_task):
        ((free_from,),) = await tx.db.rows(_HOLD, name)
        rate = Rate.parse(name.partition(" ")[0])
        times, free_from = reserve(free_from, tx.now, len(by_task[name]), rate.per_second)
        await tx.db.count(_GIVE_OUT, free_from, name)
        later |= {step.id: time for step, time in zip(by_task[name], times, strict=True) if time > tx.now + AHEAD}
    if later:
        await tx.db.update(_WAIT, [(time, tx.now, step_id) for step_id, time in sorted(later.items())])
    return set(later)
