"""Leases, in SQL: claim what is due, extend what runs, give back what a worker no longer has."""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

import msgspec

from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS
from mbactor.foreman.store.store import Claim, Claimed, Extend, FlowRow, Recover, Release, StepRow
from mbactor.foreman.store.transaction import Transaction

# Within a band the oldest first; a step is as old as the moment from which it was due.
_CLAIM = f"""UPDATE mbactor_step SET status = 'running', worker = ?, lease_expires = ?, lease_number = lease_number + 1,
    started_at = coalesce(started_at, ?), updated_at = ?
    WHERE status = 'pending' AND id IN (SELECT id FROM mbactor_step WHERE status = 'pending' AND priority = ?
        AND not_before <= ? ORDER BY not_before, id LIMIT ?)
    RETURNING {", ".join(STEP_COLUMNS)}"""

_EXTEND = """UPDATE mbactor_step SET lease_expires = ? WHERE status = 'running' AND worker = ? AND (id, lease_number) IN
    (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)) RETURNING id"""

_GIVE_BACK = "UPDATE mbactor_step SET status = 'pending', lease_expires = NULL, worker = NULL, updated_at = ?"

_FLOWS = f"""SELECT {", ".join(FLOW_COLUMNS)} FROM mbactor_flow WHERE id IN (SELECT value FROM json_each(?))"""

_NEXT_DUE = "SELECT min(not_before) FROM mbactor_step WHERE status = 'pending' AND priority = ?"


def claim(tx: Transaction, one: Claim) -> Claimed:
    """Lease due steps to the worker, band by band."""
    steps: list[StepRow] = []
    expires = tx.now + one.lease.seconds
    for band in tx.bands() if one.limit > 0 else ():
        values = (one.lease.worker, expires, tx.now, tx.now, band, tx.now, one.limit - len(steps))
        rows = [StepRow(*row) for row in tx.db.execute(_CLAIM, values).fetchall()]
        steps.extend(sorted(rows, key=lambda row: (row.not_before, row.id)))
        if len(steps) >= one.limit:
            break
    flow_ids = msgspec.json.encode(sorted({step.flow_id for step in steps})).decode()
    found = tx.db.execute(_FLOWS, (flow_ids,)).fetchall() if steps else []
    return Claimed(tuple(steps), {row[0]: FlowRow(*row) for row in found}, _next_due(tx), tx.now)


def _next_due(tx: Transaction) -> float | None:
    times = [tx.db.execute(_NEXT_DUE, (band,)).fetchone()[0] for band in tx.bands()]
    return max(0.0, min(times) - tx.now) if times else None


def extend(tx: Transaction, one: Extend) -> frozenset[int]:
    """Extend every lease that still holds."""
    held = msgspec.json.encode(one.steps).decode()
    rows = tx.db.execute(_EXTEND, (tx.now + one.lease.seconds, one.lease.worker, held)).fetchall()
    return frozenset(row[0] for row in rows)


def release(tx: Transaction, one: Release) -> int:
    """Make due again what the worker has leased."""
    query = f"{_GIVE_BACK} WHERE status = 'running' AND lease_expires IS NOT NULL AND worker = ?"
    if one.steps is None:
        return tx.db.execute(query, (tx.now, one.worker)).rowcount
    steps = msgspec.json.encode(one.steps).decode()
    query += " AND id IN (SELECT value FROM json_each(?))"
    return tx.db.execute(query, (tx.now, one.worker, steps)).rowcount


def recover(tx: Transaction, one: Recover) -> int:  # noqa: ARG001 - every operation is called alike
    """Make everything due again whose lease is over. Leases that hold are left alone: another process may have them."""
    query = f"{_GIVE_BACK} WHERE status = 'running' AND lease_expires <= ?"
    return tx.db.execute(query, (tx.now, tx.now)).rowcount
