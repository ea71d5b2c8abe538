"""Leases, in SQL: claim what is due, extend what runs, give back what a worker no longer has."""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from mbactor.foreman.store.breakpoints import pause
from mbactor.foreman.store.dialect import Update
from mbactor.foreman.store.operations import Claim, Claimed, Extend, Recover, Release
from mbactor.foreman.store.queueing import wanted
from mbactor.foreman.store.rows import FlowRow, StepRow
from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS
from mbactor.foreman.store.settle import FENCE
from mbactor.foreman.store.transaction import Transaction

# Within a band the oldest first; a step is as old as the moment from which it was due.
_CLAIM = f"""WITH due AS MATERIALIZED (SELECT id FROM mbactor_step WHERE status = 'pending' AND priority = ?
        AND not_before <= ? ORDER BY not_before, id LIMIT ? <skip locked>)
    UPDATE mbactor_step SET status = 'running', worker = ?, lease_expires = ?, lease_number = lease_number + 1,
    started_at = coalesce(started_at, ?), updated_at = ?
    WHERE id IN (SELECT id FROM due) RETURNING {", ".join(STEP_COLUMNS)}"""

_EXTEND = Update(
    "mbactor_step",
    "lease_expires = :lease_expires",
    f"{FENCE} AND worker = :worker",
    ("lease_expires", "id", "lease_number", "worker"),
)

_GIVE_BACK = "UPDATE mbactor_step SET status = 'pending', lease_expires = NULL, worker = NULL, updated_at = ?"

_RELEASE = f"{_GIVE_BACK} WHERE status = 'running' AND lease_expires IS NOT NULL AND worker = ?"

_RECOVER = f"""{_GIVE_BACK} WHERE id IN
    (SELECT id FROM mbactor_step WHERE status = 'running' AND lease_expires <= ? <skip locked>)"""

# The breakpoints of a tree stand on its root.
_BREAKPOINTS = """CASE WHEN flow.root_id IS NULL THEN flow.breakpoints
    ELSE (SELECT root.breakpoints FROM mbactor_flow AS root WHERE root.id = flow.root_id) END"""
_COLUMNS = ", ".join(_BREAKPOINTS if name == "breakpoints" else f"flow.{name}" for name in FLOW_COLUMNS)
_FLOWS = f"SELECT {_COLUMNS} FROM mbactor_flow AS flow WHERE flow.id IN (<ids>)"


async def claim(tx: Transaction, one: Claim) -> Claimed:
    """Lease due steps to the worker, band by band."""
    steps: list[StepRow] = []
    expires = tx.now + one.lease.seconds
    for band, earliest in await tx.bands() if one.limit > 0 else ():
        if earliest <= tx.now:
            values = (band, tx.now, one.limit - len(steps), one.lease.worker, expires, tx.now, tx.now)
            rows = [StepRow(*row) for row in await tx.db.rows(_CLAIM, *values)]
            steps.extend(sorted(rows, key=lambda row: (row.not_before, row.id)))
        if len(steps) >= one.limit:
            break
    flow_ids = sorted({step.flow_id for step in steps})
    flows = {row[0]: FlowRow(*row) for row in await tx.db.rows(_FLOWS, flow_ids)} if steps else {}
    paused = await pause(tx, steps, flows)
    return Claimed(tuple(step for step in steps if step.id not in paused), flows, await _next_due(tx), tx.now)


async def _next_due(tx: Transaction) -> float | None:
    times = [earliest for _, earliest in await tx.bands()]
    return max(0.0, min(times) - tx.now) if times else None


async def extend(tx: Transaction, one: Extend) -> frozenset[int]:
    """Extend every lease that still holds."""
    expires, worker = tx.now + one.lease.seconds, one.lease.worker
    rows = [(expires, step_id, lease_number, worker) for step_id, lease_number in one.steps]
    return frozenset(one.steps[index][0] for index in await tx.db.update(_EXTEND, rows))


async def release(tx: Transaction, one: Release) -> int:
    """Make due again what the worker has leased."""
    if one.steps is None:
        return await tx.db.count(_RELEASE, tx.now, one.worker)
    return await tx.db.count(f"{_RELEASE} AND id IN (<ids>)", tx.now, one.worker, one.steps)


async def recover(tx: Transaction, one: Recover) -> int:  # noqa: ARG001 - every operation is called alike
    """Make everything due again whose lease is over. Leases that hold are left alone: another process may have them.
    Queued flows that were passed over are started, too.
    """
    tx.keys |= await wanted(tx)
    return await tx.db.count(_RECOVER, tx.now, tx.now)
