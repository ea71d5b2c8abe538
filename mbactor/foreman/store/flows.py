"""Operations on whole flows, in SQL: create, start, resume, cancel, delete.

A flow and the flows its steps called are one tree: cancel and delete take all of it, an interrupt anywhere in it
interrupts every flow above. Each operation is fenced by the flow's token and status, and says what it found where the
fence did not hold.
"""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from mbactor.foreman.parks import parks_answered
from mbactor.foreman.store.store import (
    Cancel,
    Changed,
    Child,
    Create,
    Created,
    Delete,
    Inserted,
    Resume,
    Start,
    Stopped,
)
from mbactor.foreman.store.transaction import Transaction

_INSERT = """INSERT INTO mbactor_flow (token, status, workflow, name, graph, baggage, priority, fairness_key,
    fairness_weight, time_budget, thread_id, idempotency_key, trace_parent, delete_on_completion, notify_on_stop,
    created_at, started_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

# A called flow lives by the policy of its caller.
_INSERT_CHILD = """INSERT INTO mbactor_flow (token, status, workflow, name, graph, root_id, caller_id, baggage,
    priority, fairness_key, fairness_weight, time_budget, trace_parent, delete_on_completion, created_at, started_at,
    updated_at)
    SELECT ?, 'running', ?, ?, ?, coalesce(root_id, id), ?, baggage, priority, fairness_key, fairness_weight,
    time_budget, trace_parent, 0, ?, ?, ? FROM mbactor_flow WHERE id = ?"""

_INSERT_GRAPH = "INSERT OR IGNORE INTO mbactor_graph (hash, graph) VALUES (?, ?)"

_TREE = "SELECT id FROM mbactor_flow WHERE id = ? OR root_id = ?"

_PARENT = """SELECT flow_id FROM mbactor_step WHERE id = (SELECT caller_id FROM mbactor_flow WHERE id = ?)"""

_WAITING = f"""SELECT id, token, flow_id, parks FROM mbactor_step WHERE status = 'interrupted' AND flow_id IN ({_TREE})
    ORDER BY updated_at, id"""

_ANSWER = """UPDATE mbactor_step SET status = 'pending', parks = ?, not_before = ?, updated_at = ?
    WHERE id = ? AND status = 'interrupted'"""

# A flow is interrupted as long as a step of its own, or a flow that one of its steps called, is.
_GO_ON = """UPDATE mbactor_flow SET status = 'running', updated_at = ? WHERE id = ? AND status = 'interrupted'
    AND NOT EXISTS (SELECT 1 FROM mbactor_step WHERE flow_id = mbactor_flow.id AND status = 'interrupted')
    AND NOT EXISTS (SELECT 1 FROM mbactor_step AS caller JOIN mbactor_flow AS called ON called.caller_id = caller.id
        WHERE caller.flow_id = mbactor_flow.id AND called.status = 'interrupted')"""


def create(tx: Transaction, new: Create) -> Created:
    """Insert the flow and its entry step, or find the flow that its idempotency key names."""
    if new.idempotency_key is not None:
        query = "SELECT id, token, workflow FROM mbactor_flow WHERE idempotency_key = ?"
        row = tx.db.execute(query, (new.idempotency_key,)).fetchone()
        if row is not None:
            return Created(row[0], row[1], 0, existed=True, workflow=row[2], now=tx.now)
    tx.db.execute(_INSERT_GRAPH, (new.graph_hash, new.graph))
    status, started_at = ("running", tx.now) if new.started else ("created", None)
    values = (
        new.token, status, new.workflow, new.name, new.graph_hash, new.baggage, new.priority, new.fairness_key,
        new.fairness_weight, new.time_budget, new.thread_id, new.idempotency_key, new.trace_parent,
        new.delete_on_completion, new.notify_on_stop, tx.now, started_at, tx.now,
    )  # fmt: skip
    flow_id = tx.db.execute(_INSERT, values).lastrowid
    assert flow_id is not None
    entry = tx.insert(new.entry, flow_id, None, "pending" if new.started else "created")
    return Created(flow_id, new.token, entry.step_id, workflow=new.workflow, now=tx.now)


def insert_child(tx: Transaction, child: Child, parent_id: int, caller_id: int) -> Inserted:
    """Insert the flow that a parked step waits for."""
    tx.db.execute(_INSERT_GRAPH, (child.graph_hash, child.graph))
    values = (child.token, child.workflow, child.name, child.graph_hash, caller_id, tx.now, tx.now, tx.now, parent_id)
    flow_id = tx.db.execute(_INSERT_CHILD, values).lastrowid
    assert flow_id is not None
    return tx.insert(child.entry, flow_id, None)


def interrupt_tree(tx: Transaction, flow_id: int) -> None:
    """A step of this flow waits for an answer: so do the flow, and all above it."""
    query = """UPDATE mbactor_flow SET status = 'interrupted', updated_at = ? WHERE id = ? AND status = 'running'
        RETURNING token, workflow, notify_on_stop"""
    above: int | None = flow_id
    while above is not None:
        for token, workflow, notify in tx.db.execute(query, (tx.now, above)).fetchall():
            tx.stopped.append(Stopped(above, "interrupted", token, workflow, notify))
        row = tx.db.execute(_PARENT, (above,)).fetchone()
        above = row[0] if row else None


def start(tx: Transaction, one: Start) -> Changed:
    """Move a created flow to running and make its entry step due."""
    refused, flows = _tree(tx, one.flow_id, one.token, {"created"})
    if refused is not None:
        return refused
    query = "UPDATE mbactor_flow SET status = 'running', started_at = ?, updated_at = ? WHERE id = ?"
    tx.db.execute(query, (tx.now, tx.now, one.flow_id))
    query = """UPDATE mbactor_step SET status = 'pending', not_before = max(not_before, ?), updated_at = ?
        WHERE flow_id = ? AND status = 'created'"""
    tx.db.execute(query, (tx.now, tx.now, one.flow_id))
    return Changed(True, "running", flows)


def resume(tx: Transaction, one: Resume) -> Changed:
    """Answer one interrupted step of the tree and make it due."""
    refused, flows = _tree(tx, one.flow_id, one.token, {"interrupted"})
    if refused is not None:
        return refused
    waiting = tx.db.execute(_WAITING, (one.flow_id, one.flow_id)).fetchall()
    if one.step_id is not None:
        waiting = [row for row in waiting if (row[0], row[1]) == (one.step_id, one.step_token)]
    if not waiting:
        return Changed(False, "interrupted", flows, "the step waits for no answer")
    step_id, _, flow_id, parks = waiting[0]
    tx.db.execute(_ANSWER, (parks_answered(parks, one.answer), tx.now, tx.now, step_id))
    above: int | None = flow_id
    while above is not None:
        tx.db.execute(_GO_ON, (tx.now, above))
        row = tx.db.execute(_PARENT, (above,)).fetchone()
        above = row[0] if row else None
    return Changed(True, "running", flows)


def cancel(tx: Transaction, one: Cancel) -> Changed:
    """End every flow of the tree that has not ended, steps first."""
    refused, flows = _tree(tx, one.flow_id, one.token, {"created", "running", "interrupted"})
    if refused is not None:
        return refused
    query = """UPDATE mbactor_step SET status = 'cancelled', lease_expires = NULL, updated_at = ?
        WHERE flow_id = ? AND status IN ('created', 'pending', 'running', 'interrupted')"""
    tx.db.executemany(query, [(tx.now, flow_id) for flow_id in flows])
    for flow_id in flows:
        tx.stop_flow(flow_id, "cancelled", reason=one.reason or None)
    return Changed(True, "cancelled", flows)


def delete(tx: Transaction, one: Delete) -> Changed:
    """Remove a tree that rests. One that waits for an answer is ended by it."""
    resting = {"interrupted", "completed", "failed", "cancelled"}
    refused, flows = _tree(tx, one.flow_id, one.token, resting)
    if refused is not None:
        return refused
    delete_tree(tx, one.flow_id)
    return Changed(True, "deleted", flows)


def delete_tree(tx: Transaction, flow_id: int) -> None:
    """Remove a flow, what its steps called, and all their steps."""
    tx.db.execute(f"DELETE FROM mbactor_step WHERE flow_id IN ({_TREE})", (flow_id, flow_id))
    tx.db.execute("DELETE FROM mbactor_flow WHERE id = ? OR root_id = ?", (flow_id, flow_id))
    tx.stopped.append(Stopped(flow_id, "deleted"))


def _tree(tx: Transaction, flow_id: int, token: str, allowed: set[str]) -> tuple[Changed | None, tuple[int, ...]]:
    """The flows of the tree, root first; or the refusal."""
    query = "SELECT status, caller_id FROM mbactor_flow WHERE id = ? AND token = ?"
    row = tx.db.execute(query, (flow_id, token)).fetchone()
    if row is None:
        return Changed(False, None), ()
    status, caller_id = row
    if caller_id is not None:
        return Changed(False, status, (), "another flow called it; address that one", called=True), ()
    if status not in allowed:
        return Changed(False, status), ()
    rows = tx.db.execute(f"{_TREE} ORDER BY id", (flow_id, flow_id)).fetchall()
    return None, tuple(row[0] for row in rows)
