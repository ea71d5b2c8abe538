"""Flows that share a concurrency key, in SQL: at most so many have begun and not ended, the others wait in their order.

A flow with a key is inserted as created and queued; `admit` starts what there is room for, at the end of every batch in
which a flow of the key came or went. It holds the row of the key meanwhile, so that of two batches the later one sees
what the earlier one started.
"""

from __future__ import annotations

from collections.abc import Iterable

from mbactor.foreman.store.transaction import Transaction

AT_ONCE = 64

_HOLD = """INSERT INTO mbactor_concurrency (name, held) VALUES (?, 0)
    ON CONFLICT (name) DO UPDATE SET held = 1 - mbactor_concurrency.held"""

_BEGUN = "SELECT count(*) FROM mbactor_flow WHERE concurrency_key = ? AND status IN ('running', 'interrupted')"

# One that somebody else holds just now is passed over; whoever holds it, or the sweeper, asks again.
_QUEUED = """SELECT id, concurrency_limit FROM mbactor_flow WHERE concurrency_key = ? AND status = 'created'
    AND queued = 1 ORDER BY id LIMIT ? <skip locked>"""

# A flow of which steps run again may have called others, which wait with it.
_START = """UPDATE mbactor_flow SET status = 'running', queued = 0, started_at = ?, updated_at = ?
    WHERE status = 'created' AND (id IN (<ids>) OR root_id IN (<ids>))"""

# Branches that wait for others of their cohort to make room go on waiting.
START_STEPS = """UPDATE mbactor_step SET status = 'pending', not_before = <greatest>(not_before, ?), updated_at = ?
    WHERE status = 'created' AND room_id IS NULL
    AND flow_id IN (SELECT id FROM mbactor_flow WHERE id IN (<ids>) OR root_id IN (<ids>))"""

_JOIN = "UPDATE mbactor_flow SET concurrency_key = ?, concurrency_limit = ?, queued = ? WHERE id = ?"

_ALL = "SELECT DISTINCT concurrency_key FROM mbactor_flow WHERE status = 'created' AND queued = 1"


async def join(tx: Transaction, flow_id: int, key: str, limit: int, *, queued: bool) -> None:
    """Note the key of a new flow; queued, it is started as soon as there is room."""
    await tx.db.count(_JOIN, key, limit, int(queued), flow_id)
    if queued:
        tx.keys.add(key)


async def admit(tx: Transaction, keys: Iterable[str]) -> None:
    """Start the flows that have waited longest, as long as fewer have begun than the next one's limit says."""
    for key in sorted(keys):
        await tx.db.count(_HOLD, key)
        ((begun,),) = await tx.db.rows(_BEGUN, key)
        while started := _fitting(await tx.db.rows(_QUEUED, key, AT_ONCE), begun):
            await tx.db.count(_START, tx.now, tx.now, started, started)
            await tx.db.count(START_STEPS, tx.now, tx.now, started, started)
            begun += len(started)


def _fitting(queued: list[tuple[int, ...]], begun: int) -> list[int]:
    """Those at the head of the queue for which there is room."""
    found: list[int] = []
    for flow_id, limit in queued:
        if begun + len(found) >= limit:
            break
        found.append(flow_id)
    return found


async def not_begun(tx: Transaction, flow_id: int) -> str:
    """Why a flow that was created has not begun, and what is to be done."""
    rows = await tx.db.rows("SELECT concurrency_key FROM mbactor_flow WHERE id = ? AND queued = 1", flow_id)
    return f"it waits for a place of {rows[0][0]!r}, and begins by itself" if rows else "start it first"


async def wanted(tx: Transaction) -> set[str]:
    """The keys for which flows wait."""
    return {row[0] for row in await tx.db.rows(_ALL)}
