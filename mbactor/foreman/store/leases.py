"""Leases, in SQL: claim what is due, extend what runs, give back what a worker no longer has."""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

import random
from collections import Counter

from mbactor.foreman.model.ageing import urgency
from mbactor.foreman.model.losing import MOST, OFTEN, pause_after
from mbactor.foreman.model.shares import Waiting, shares
from mbactor.foreman.store.breakpoints import pause
from mbactor.foreman.store.dialect import Row, Update
from mbactor.foreman.store.operations import Claim, Claimed, Extend, Recover, Release
from mbactor.foreman.store.queueing import wanted
from mbactor.foreman.store.rates import too_soon
from mbactor.foreman.store.rows import FlowRow, StepRow
from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS
from mbactor.foreman.store.settle import FENCE
from mbactor.foreman.store.transaction import Transaction

# Within a band the oldest first; a step is as old as the moment from which it was due.
_DUE = """SELECT id FROM mbactor_step WHERE status = 'pending' AND priority = ?{more} AND not_before <= ?
    ORDER BY not_before, id LIMIT ? <skip locked>"""
_OLDEST = """SELECT not_before FROM mbactor_step WHERE status = 'pending' AND priority = ? AND not_before <= ?
    ORDER BY not_before, id LIMIT ?"""
_TAKE = f"""WITH due AS MATERIALIZED ({{due}})
    UPDATE mbactor_step SET status = 'running', worker = ?, lease_expires = ?, lease_number = lease_number + 1,
    started_at = coalesce(started_at, ?), updated_at = ?
    WHERE id IN (SELECT id FROM due) RETURNING {", ".join(STEP_COLUMNS)}"""
_CLAIM = _TAKE.format(due=_DUE.format(more=""))
_CLAIM_OF_KEY = _TAKE.format(due=_DUE.format(more=" AND fairness_key = ?"))

# A seek in an index for each key of a band, however many steps wait.
_KEYS = """WITH RECURSIVE waiting (key, number) AS (
    SELECT (SELECT min(step.fairness_key) FROM mbactor_step AS step
        WHERE step.status = 'pending' AND step.priority = ?{more}), 1
    UNION ALL
    SELECT (SELECT min(step.fairness_key) FROM mbactor_step AS step
        WHERE step.status = 'pending' AND step.priority = ? AND step.fairness_key > waiting.key), number + 1
    FROM waiting WHERE waiting.key IS NOT NULL AND number < ?)
    SELECT key, (SELECT flow.fairness_weight FROM mbactor_flow AS flow WHERE flow.id =
        (SELECT step.flow_id FROM mbactor_step AS step WHERE step.status = 'pending' AND step.priority = ?
            AND step.fairness_key = waiting.key AND step.not_before <= ? ORDER BY step.not_before, step.id LIMIT 1))
    FROM waiting WHERE key IS NOT NULL"""
_ALL_KEYS = _KEYS.format(more="")
_KEYS_AFTER = _KEYS.format(more=" AND step.fairness_key > ?")

MOST_LOOKED_AT = 256
"""So many keys of a band a claim looks at; where there are more, the next claim goes on behind the last of them."""

MOST_TURNS = 16
"""Steps that have aged differently are claimed by statements of their own; where they are of more ages than so many,
the next claim goes on.
"""

_EXTEND = Update(
    "mbactor_step",
    "lease_expires = :lease_expires",
    f"{FENCE} AND worker = :worker",
    ("lease_expires", "id", "lease_number", "worker"),
)

# A step that ran was due, whatever the clock shows since.
_GIVE_BACK = "UPDATE mbactor_step SET status = 'pending', lease_expires = NULL, worker = NULL, updated_at = ?"

_PAUSES = " ".join(f"WHEN {lost - 1} THEN {pause_after(lost)}" for lost in range(OFTEN, MOST))
_PAUSE = f"CASE lost_leases {_PAUSES} ELSE {pause_after(MOST)} END"
_LOST = f"""{_GIVE_BACK}, lost_leases = lost_leases + 1,
    not_before = CASE WHEN lost_leases < {OFTEN - 1} THEN <least>(not_before, ?) ELSE ? + {_PAUSE} END"""

_OF_WORKER = "WHERE status = 'running' AND lease_expires IS NOT NULL AND worker = ?"
_RELEASE = f"{_LOST} {_OF_WORKER}"
_RELEASE_UNUSED = f"""{_GIVE_BACK}, unused_leases = unused_leases + 1, not_before = <least>(not_before, ?)
    {_OF_WORKER} AND id IN (<ids>)"""

_RECOVER = f"""{_LOST} WHERE id IN
    (SELECT id FROM mbactor_step WHERE status = 'running' AND lease_expires <= ? <skip locked>)"""

# What is to be later than its row was written waits for a moment that was named, such as the end of a sleep or of a
# pause before it is tried again. All else was due as it was written, by a clock that was ahead.
_WAS_DUE = """UPDATE mbactor_step SET not_before = ?, updated_at = ? WHERE id IN
    (SELECT id FROM mbactor_step WHERE status = 'pending' AND not_before > ?
        AND (not_before <= updated_at OR (not_before <= created_at AND attempt = 0 AND refused_at IS NULL))
        <skip locked>)"""
_WAS_LEASED = """UPDATE mbactor_step SET lease_expires = lease_expires - updated_at + ?, updated_at = ?
    WHERE id IN (SELECT id FROM mbactor_step WHERE status = 'running' AND lease_expires > ? AND updated_at > ?
        <skip locked>)"""

# The breakpoints of a tree stand on its root.
_BREAKPOINTS = """CASE WHEN flow.root_id IS NULL THEN flow.breakpoints
    ELSE (SELECT root.breakpoints FROM mbactor_flow AS root WHERE root.id = flow.root_id) END"""
_COLUMNS = ", ".join(_BREAKPOINTS if name == "breakpoints" else f"flow.{name}" for name in FLOW_COLUMNS)
_FLOWS = f"SELECT {_COLUMNS} FROM mbactor_flow AS flow WHERE flow.id IN (<ids>)"


async def claim(tx: Transaction, one: Claim) -> Claimed:
    """Lease due steps to the worker, the most urgent first."""
    steps: list[StepRow] = []
    expires = tx.now + one.lease.seconds
    rest = (one.lease.worker, expires, tx.now, tx.now)
    after = one.after
    turns = await _turns(tx, one.limit, one.ageing) if one.limit > 0 else []
    for band, until, most in turns:
        places = min(most, one.limit - len(steps))
        if places <= 0:
            break
        rows: list[Row] = []
        parts, after = await _shares(tx, band, until, places, after)
        for key, count in parts.items():
            rows += await tx.db.rows(_CLAIM_OF_KEY, band, key, until, count, *rest)
        if len(rows) < places:
            # There is one key only, or some had less waiting than their share.
            rows += await tx.db.rows(_CLAIM, band, until, places - len(rows), *rest)
        steps += (StepRow(*row) for row in rows)
    steps.sort(key=lambda row: (urgency(row.priority, row.not_before, tx.now, one.ageing), *_age(row)))
    flow_ids = sorted({step.flow_id for step in steps})
    flows = {row[0]: FlowRow(*row) for row in await tx.db.rows(_FLOWS, flow_ids)} if steps else {}
    held = await pause(tx, steps, flows)
    held |= await too_soon(tx, [step for step in steps if step.id not in held])
    return Claimed(tuple(step for step in steps if step.id not in held), flows, await _next_due(tx), tx.now, after)


def _age(row: StepRow) -> tuple[int, float, int]:
    return row.priority, row.not_before, row.id


async def _turns(tx: Transaction, limit: int, ageing: float | None) -> list[tuple[int, float, int]]:
    """(priority, until when a step of it was due, how many of these may be claimed), the most urgent first."""
    bands = [(band, earliest) for band, earliest in await tx.bands() if earliest <= tx.now]
    if ageing is None:
        return [(band, tx.now, limit) for band, _ in bands]
    first: list[tuple[float, int]] = []
    # The oldest step of a priority is its most urgent one.
    for best, band in sorted((urgency(band, earliest, tx.now, ageing), band) for band, earliest in bands):
        if len(first) == limit and first[-1] <= (best, band):
            break
        times = await tx.db.rows(_OLDEST, band, tx.now, limit)
        first = sorted([*first, *((urgency(band, time, tx.now, ageing), band) for (time,) in times)])[:limit]
    turns = list(Counter(first).items())[:MOST_TURNS]
    return [(band, tx.now - (band - reached) * ageing, count) for (reached, band), count in turns]


async def _shares(tx: Transaction, band: int, until: float, places: int, after: str) -> tuple[dict[str, int], str]:
    """How many steps of each fairness key are to be claimed first, nothing where only one waits; and where the next
    claim begins to look.
    """
    keys = await _keys(tx, band, until, after)
    if after and len(keys) < MOST_LOOKED_AT:
        # Once around, from the first key.
        seen = {key for key, _ in keys}
        keys += [row for row in await _keys(tx, band, until, "") if row[0] not in seen][: MOST_LOOKED_AT - len(keys)]
    found = [Waiting(key, weight) for key, weight in keys if weight is not None]
    following = keys[-1][0] if len(keys) == MOST_LOOKED_AT else ""
    return (shares(found, places, random.random()) if len(found) > 1 else {}), following


async def _keys(tx: Transaction, band: int, until: float, after: str) -> list[Row]:
    if after:
        return await tx.db.rows(_KEYS_AFTER, band, after, band, MOST_LOOKED_AT, band, until)
    return await tx.db.rows(_ALL_KEYS, band, band, MOST_LOOKED_AT, band, until)


async def _next_due(tx: Transaction) -> float | None:
    times = [earliest for _, earliest in await tx.bands()]
    return max(0.0, min(times) - tx.now) if times else None


async def extend(tx: Transaction, one: Extend) -> frozenset[int]:
    """Extend every lease that still holds."""
    expires, worker = tx.now + one.lease.seconds, one.lease.worker
    rows = [(expires, step_id, lease_number, worker) for step_id, lease_number in one.steps]
    return frozenset(one.steps[index][0] for index in await tx.db.update(_EXTEND, rows))


async def release(tx: Transaction, one: Release) -> int:
    """Make due again what the worker has leased: all of it, lost, or steps that it has not begun."""
    if one.steps is None:
        return await tx.db.count(_RELEASE, tx.now, tx.now, tx.now, one.worker)
    return await tx.db.count(_RELEASE_UNUSED, tx.now, tx.now, one.worker, one.steps)


async def recover(tx: Transaction, one: Recover) -> int:
    """Make everything due again whose lease is over. Leases that hold are left alone: another process may have them.
    Queued flows that were passed over are started, too.
    """
    tx.keys |= await wanted(tx)
    if one.set_back:
        await tx.db.count(_WAS_DUE, tx.now, tx.now, tx.now)
        await tx.db.count(_WAS_LEASED, tx.now, tx.now, tx.now, tx.now)
    return await tx.db.count(_RECOVER, tx.now, tx.now, tx.now, tx.now)
