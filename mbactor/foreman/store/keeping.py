"""Removal of flows, in SQL: they are marked first, and removed some time later, in batches.

What is marked has ended for good: nothing resumes or repeats it, and no list has it. So whoever looks at it at that
moment is not disturbed, and the removal of a large tree is nobody's wait.
"""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from mbactor.foreman.model.status import is_terminal
from mbactor.foreman.store.dialect import Row
from mbactor.foreman.store.flows import FENCED
from mbactor.foreman.store.listing import Condition, conditions, older
from mbactor.foreman.store.operations import Changed, Delete, FlowEnd, Purge, Reap, Stopped
from mbactor.foreman.store.transaction import Transaction

AT_REST = ("completed", "failed", "cancelled", "interrupted", "created")
"""What may be removed; the last two are ended by it."""

GRACE = 60.0
"""Seconds for which a disposable flow that completed is kept: so long its idempotency key still finds it."""

_OPEN = "('created', 'pending', 'running', 'interrupted')"

_TREES = """SELECT id, status FROM mbactor_flow WHERE id IN (<ids>)
    UNION ALL SELECT id, status FROM mbactor_flow WHERE root_id IN (<ids>)"""

_CANCEL_STEPS = f"""UPDATE mbactor_step SET status = 'cancelled', lease_expires = NULL, updated_at = ?
    WHERE flow_id IN (<ids>) AND status IN {_OPEN}"""

# The key may be used again at once: nobody gets what was removed by it.
_MARK = "UPDATE mbactor_flow SET delete_at = ?, idempotency_key = NULL WHERE id IN (<ids>)"

_EXPIRE = "UPDATE mbactor_flow SET delete_at = ? WHERE id IN (<ids>)"

_DUE = "SELECT id FROM mbactor_flow WHERE delete_at <= ? ORDER BY delete_at, id LIMIT ? <skip locked>"


async def delete(tx: Transaction, one: Delete) -> Changed:
    """Mark a tree that rests. One that waits for an answer, or to be started, is ended by it. Again is no error."""
    rows = await tx.db.rows(FENCED, one.flow_id, one.token)
    if not rows:
        return Changed(False, None)
    status, caller_id, delete_at = rows[0]
    if caller_id is not None:
        return Changed(False, status, (), "another flow called it; address that one", called=True)
    if status not in AT_REST:
        return Changed(False, status, (), "cancel it first")
    if delete_at is None:
        await _mark(tx, [one.flow_id])
    return Changed(True, "deleted")


async def purge(tx: Transaction, one: Purge) -> int:
    """Mark the oldest flows that the filter is about and that rest; how many those are."""
    wanted, statuses = one.wanted, _statuses(one)
    more: list[Condition] = []
    if wanted.older_than is not None:
        more += older(tx.now - wanted.older_than)
    if wanted.newer_than is not None:
        more.append(("flow.updated_at >= ?", (tx.now - wanted.newer_than,)))
    rows: list[Row] = []
    for status in statuses:
        rows += await _oldest(tx, conditions(msgspec.structs.replace(wanted, status=status)) + more, wanted.limit)
    found = [flow_id for _, flow_id in sorted(rows)[: wanted.limit]]
    if found:
        await _mark(tx, found)
    return len(found)


def _statuses(one: Purge) -> Sequence[str]:
    allowed = AT_REST[:3] if one.ended else AT_REST
    return [status for status in allowed if one.wanted.status in {None, status}]


async def _oldest(tx: Transaction, all_of: Sequence[Condition], limit: int) -> list[Row]:
    where = " AND ".join(text for text, _ in all_of)
    query = f"""SELECT flow.created_at, flow.id FROM mbactor_flow AS flow WHERE {where}
        ORDER BY flow.created_at, flow.id LIMIT ? <skip locked>"""
    return await tx.db.rows(query, *(value for _, values in all_of for value in values), limit)


async def _mark(tx: Transaction, roots: Sequence[int]) -> None:
    # Were the status a condition, PostgreSQL might walk all open flows by it.
    unended = [flow_id for flow_id, status in await tx.db.rows(_TREES, roots, roots) if not is_terminal(status)]
    if unended:
        await tx.db.count(_CANCEL_STEPS, tx.now, unended)
        await tx.stop_flows({flow_id: FlowEnd("cancelled") for flow_id in unended})
    await tx.db.count(_MARK, tx.now, roots)


async def expire(tx: Transaction, roots: Collection[int]) -> None:
    """Mark disposable flows that have just completed: they are gone for everybody, and their rows a little later."""
    await tx.db.count(_EXPIRE, tx.now + GRACE, sorted(roots))
    tx.stopped += (Stopped(flow_id, "deleted") for flow_id in roots)


async def reap(tx: Transaction, one: Reap) -> int:
    """Remove flows that were marked, with what they called and all their steps; how many those are."""
    roots = [row[0] for row in await tx.db.rows(_DUE, tx.now, one.limit)]
    if roots:
        trees = sorted(row[0] for row in await tx.db.rows(_TREES, roots, roots))
        await tx.db.count("DELETE FROM mbactor_step WHERE flow_id IN (<ids>)", trees)
        await tx.db.count("DELETE FROM mbactor_flow WHERE id IN (<ids>)", trees)
    return len(roots)
