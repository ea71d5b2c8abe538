"""Operations on whole flows, in SQL: create, start, resume, cancel.

A flow and the flows its steps called are one tree: cancel takes all of it, an interrupt anywhere in it
interrupts every flow above. Each operation is fenced by the flow's token and status, and says what it found where the
fence did not hold.
"""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections.abc import Sequence

from mbactor.foreman.parks import parks_answered
from mbactor.foreman.store.dialect import Insert, Row
from mbactor.foreman.store.operations import (
    Cancel,
    Changed,
    Child,
    Create,
    Created,
    FlowEnd,
    Inserted,
    Resume,
    Start,
    Stopped,
)
from mbactor.foreman.store.queueing import START_STEPS, join, not_begun
from mbactor.foreman.store.rows import Json
from mbactor.foreman.store.store import StoreTrouble
from mbactor.foreman.store.transaction import Transaction

_INSERT = Insert(
    "mbactor_flow",
    ("id", "token", "status", "workflow", "name", "graph", "baggage", "priority", "fairness_key", "fairness_weight",
     "time_budget", "thread_id", "idempotency_key", "trace_parent", "delete_on_completion", "notify_on_stop",
     "created_at", "started_at", "updated_at"),
    once=True,
    returning="id",
)  # fmt: skip

_INSERT_GRAPH = Insert("mbactor_graph", ("hash", "graph"), once=True)

_NAMED = "SELECT idempotency_key, id, token, workflow FROM mbactor_flow WHERE idempotency_key IN (<texts>)"

# A called flow lives by the policy of its caller.
_INSERT_CHILD = """INSERT INTO mbactor_flow (id, token, status, workflow, name, graph, root_id, caller_id, baggage,
    priority, fairness_key, fairness_weight, time_budget, trace_parent, delete_on_completion, created_at, started_at,
    updated_at)
    SELECT ?, ?, 'running', ?, ?, ?, coalesce(root_id, id), ?, baggage, priority, fairness_key, fairness_weight,
    time_budget, trace_parent, 0, ?, ?, ? FROM mbactor_flow WHERE id = ?"""

_TREE = "SELECT id FROM mbactor_flow WHERE id = ? OR root_id = ?"

# A disposable flow is gone when it has completed, though its row is still there.
FENCED = """SELECT status, caller_id, delete_at FROM mbactor_flow WHERE id = ? AND token = ?
    AND NOT (delete_on_completion = 1 AND status = 'completed')"""

_PARENT = """SELECT flow_id FROM mbactor_step WHERE id = (SELECT caller_id FROM mbactor_flow WHERE id = ?)"""

_WAITING = f"""SELECT id, token, flow_id, parks, at_breakpoint = 1 FROM mbactor_step
    WHERE status = 'interrupted' AND flow_id IN ({_TREE}) ORDER BY updated_at, id"""

_ANSWER = """UPDATE mbactor_step SET status = 'pending', parks = ?, not_before = ?, worker = NULL, updated_at = ?
    WHERE id = ? AND status = 'interrupted'"""

# A flow is interrupted as long as a step of its own, or a flow that one of its steps called, is.
_GO_ON = """UPDATE mbactor_flow SET status = 'running', updated_at = ? WHERE id = ? AND status = 'interrupted'
    AND NOT EXISTS (SELECT 1 FROM mbactor_step WHERE flow_id = mbactor_flow.id AND status = 'interrupted')
    AND NOT EXISTS (SELECT 1 FROM mbactor_step AS caller JOIN mbactor_flow AS called ON called.caller_id = caller.id
        WHERE caller.flow_id = mbactor_flow.id AND called.status = 'interrupted')"""


NOBODY_ASKS = "no step with this key waits for an answer; it has one already, or it is none of this flow's"


async def insert_graphs(tx: Transaction, graphs: dict[str, Json]) -> None:
    """Store what is not stored yet."""
    if graphs:
        await tx.db.insert(_INSERT_GRAPH, sorted(graphs.items()))


async def create_all(tx: Transaction, batch: Sequence[Create]) -> list[Created]:
    """Insert each flow with its entry step, or find the flow that its idempotency key names."""
    ids = [tx.flow_id() for _ in batch]
    rows = [_flow(tx, new, flow_id) for new, flow_id in zip(batch, ids, strict=True)]
    order = sorted(range(len(batch)), key=lambda index: batch[index].idempotency_key or "")
    inserted = {flow_id for (flow_id,) in await tx.db.insert(_INSERT, [rows[index] for index in order])}
    taken = [new.idempotency_key for new, flow_id in zip(batch, ids, strict=True) if flow_id not in inserted]
    named = {row[0]: row[1:] for row in await tx.db.rows(_NAMED, taken)} if taken else {}
    results = []
    for new, flow_id in zip(batch, ids, strict=True):
        if flow_id in inserted:
            entry = tx.insert(new.entry, flow_id, None, "pending" if _begins(new) else "created")
            if new.concurrency_key is not None:
                await join(tx, flow_id, new.concurrency_key, new.concurrency_limit, queued=new.started)
            results.append(Created(flow_id, new.token, entry.step_id, workflow=new.workflow, now=tx.now))
        elif new.idempotency_key in named:
            found_id, token, workflow = named[new.idempotency_key]
            results.append(Created(found_id, token, 0, existed=True, workflow=workflow, now=tx.now))
        else:
            raise StoreTrouble("the flow of an idempotency key was deleted while another was to be created")
    return results


def _flow(tx: Transaction, new: Create, flow_id: int) -> Row:
    status, started_at = ("running", tx.now) if _begins(new) else ("created", None)
    return (
        flow_id, new.token, status, new.workflow, new.name, new.graph_hash, new.baggage, new.priority,
        new.fairness_key, new.fairness_weight, new.time_budget, new.thread_id, new.idempotency_key, new.trace_parent,
        int(new.delete_on_completion), new.notify_on_stop, tx.now, started_at, tx.now,
    )  # fmt: skip


def _begins(new: Create) -> bool:
    """Whether it runs at once: with a concurrency key it is queued first."""
    return new.started and new.concurrency_key is None


async def insert_child(tx: Transaction, child: Child, parent_id: int, caller_id: int) -> Inserted:
    """Insert the flow that a parked step waits for."""
    flow_id, now = tx.flow_id(), tx.now
    values = (flow_id, child.token, child.workflow, child.name, child.graph_hash, caller_id, now, now, now, parent_id)
    await tx.db.count(_INSERT_CHILD, *values)
    return tx.insert(child.entry, flow_id, None)


async def interrupt_tree(tx: Transaction, flow_id: int) -> None:
    """A step of this flow waits for an answer: so do the flow, and all above it."""
    query = """UPDATE mbactor_flow SET status = 'interrupted', updated_at = ? WHERE id = ? AND status = 'running'
        RETURNING token, workflow, notify_on_stop"""
    above: int | None = flow_id
    while above is not None:
        for token, workflow, notify in await tx.db.rows(query, tx.now, above):
            tx.stopped.append(Stopped(above, "interrupted", token, workflow, notify))
        rows = await tx.db.rows(_PARENT, above)
        above = rows[0][0] if rows else None


async def start(tx: Transaction, one: Start) -> Changed:
    """Move a created flow to running and make its entry step due."""
    refused, flows = await tree(tx, one.flow_id, one.token, {"created"})
    if refused is not None:
        return refused
    ((key, queued),) = await tx.db.rows("SELECT concurrency_key, queued FROM mbactor_flow WHERE id = ?", one.flow_id)
    if queued:
        return Changed(False, "created", flows, f"it is started already, and waits for a place of {key!r}")
    if key is not None:
        await tx.db.count("UPDATE mbactor_flow SET queued = 1 WHERE id = ?", one.flow_id)
        tx.keys.add(key)
        return Changed(True, "created", flows)
    query = "UPDATE mbactor_flow SET status = 'running', started_at = ?, updated_at = ? WHERE id = ?"
    await tx.db.count(query, tx.now, tx.now, one.flow_id)
    await tx.db.count(START_STEPS, tx.now, tx.now, [one.flow_id], [one.flow_id])
    return Changed(True, "running", flows)


async def resume(tx: Transaction, one: Resume) -> Changed:
    """Answer one interrupted step of the tree and make it due."""
    refused, flows = await tree(tx, one.flow_id, one.token, {"interrupted"})
    if refused is not None:
        return refused
    rows = await tx.db.rows(_WAITING, one.flow_id, one.flow_id)
    waiting = [row for row in rows if not row[4]]
    if one.step_id is not None:
        waiting = [row for row in waiting if (row[0], row[1]) == (one.step_id, one.step_token)]
    if not waiting:
        known = {(row[0], row[1]) for row in rows}
        at_breakpoint = bool(known) if one.step_id is None else (one.step_id, one.step_token) in known
        detail = NOBODY_ASKS
        if at_breakpoint:
            detail = "it waits at a breakpoint; resume_break lets it go on"
        return Changed(False, "interrupted", flows, detail)
    step_id, _, flow_id, parks, _ = waiting[0]
    await tx.db.count(_ANSWER, parks_answered(parks, one.answer), tx.now, tx.now, step_id)
    await go_on(tx, flow_id)
    return Changed(True, "running", flows)


async def go_on(tx: Transaction, flow_id: int) -> None:
    """A step of this flow waits no longer: nor do the flow and those above it, where nothing else of theirs does."""
    above: int | None = flow_id
    while above is not None:
        await tx.db.count(_GO_ON, tx.now, above)
        rows = await tx.db.rows(_PARENT, above)
        above = rows[0][0] if rows else None


async def cancel(tx: Transaction, one: Cancel) -> Changed:
    """End every flow of the tree that has not ended, steps first."""
    refused, flows = await tree(tx, one.flow_id, one.token, {"created", "running", "interrupted"})
    if refused is not None:
        return refused
    query = """UPDATE mbactor_step SET status = 'cancelled', lease_expires = NULL, updated_at = ?
        WHERE flow_id IN (<ids>) AND status IN ('created', 'pending', 'running', 'interrupted')"""
    await tx.db.count(query, tx.now, flows)
    await tx.stop_flows({flow_id: FlowEnd("cancelled") for flow_id in flows}, one.reason or None)
    return Changed(True, "cancelled", flows)


async def tree(tx: Transaction, flow_id: int, token: str, allowed: set[str]) -> tuple[Changed | None, tuple[int, ...]]:
    """The flows of the tree, root first; or the refusal."""
    rows = await tx.db.rows(FENCED, flow_id, token)
    if not rows:
        return Changed(False, None), ()
    status, caller_id, delete_at = rows[0]
    if caller_id is not None:
        return Changed(False, status, (), "another flow called it; address that one", called=True), ()
    if delete_at is not None:
        return Changed(False, status, (), "it is about to be removed"), ()
    if status not in allowed:
        detail = await not_begun(tx, flow_id) if status == "created" else ""
        return Changed(False, status, (), detail), ()
    rows = await tx.db.rows(f"{_TREE} ORDER BY id", flow_id, flow_id)
    return None, tuple(row[0] for row in rows)
