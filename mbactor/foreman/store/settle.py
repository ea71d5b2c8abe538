"""Outcomes of steps, in SQL: fenced updates, successors, ends of flows; arrivals are `join`'s part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mbactor.foreman.store import schema
from mbactor.foreman.store.dialect import Row, Update
from mbactor.foreman.store.flows import insert_child, interrupt_tree
from mbactor.foreman.store.join import Joining, add_up, join_all
from mbactor.foreman.store.keeping import expire
from mbactor.foreman.store.operations import FlowEnd, Inserted, Settle, Settled
from mbactor.foreman.store.transaction import Transaction

# The step's own row is one seek by its id. Said as `status = 'running' AND ...` it would invite PostgreSQL to walk the
# index of all running steps instead, for each row of the batch.
FENCE = "id = :id AND CASE WHEN status = 'running' THEN lease_number END = :lease_number"

COMPLETE = Update(
    "mbactor_step",
    "status = 'completed', changes = :changes, successor_id = :successor_id, updated_at = :updated_at",
    FENCE,
    schema.OUTCOME,
)

# The same of a step that fans out, or that writes its input down. What else an outcome may change is as much again.
_COMPLETE_WHOLE = Update(
    "mbactor_step",
    """status = 'completed', changes = :changes, state = coalesce(:state, state),
    chain = CASE WHEN :state IS NULL THEN chain ELSE 0 END, successor_id = :successor_id, cohort_size = :cohort_size,
    cohort_arrivals = :cohort_arrivals, cohort_depth = :cohort_depth, cohort_needed = :cohort_needed,
    cohort_at_once = :cohort_at_once, updated_at = :updated_at""",
    FENCE,
    ("changes", "state", "successor_id", "cohort_size", "cohort_arrivals", "cohort_depth", "cohort_needed",
     "cohort_at_once", "updated_at", "id", "lease_number"),
)  # fmt: skip

# What its rate gave a step is used up by a run, and not by an offer that nobody took.
_SETTLE = Update(
    "mbactor_step",
    """status = :status, changes = :changes, state = coalesce(:state, state),
    chain = CASE WHEN :state IS NULL THEN chain ELSE 0 END, error = :error, parks = :parks, payloads = :payloads,
    attempt = :attempt, not_before = :not_before,
    refused_at = CASE WHEN :refused_at IS NOT NULL THEN coalesce(refused_at, :refused_at) END,
    successor_id = :successor_id, cohort_size = :cohort_size, cohort_arrivals = :cohort_arrivals,
    cohort_depth = :cohort_depth, cohort_needed = :cohort_needed, cohort_at_once = :cohort_at_once,
    lease_expires = NULL, lease_number = lease_number + CASE WHEN :status = 'running' THEN 1 ELSE 0 END,
    unused_leases = unused_leases + CASE WHEN :status = 'running' OR :refused_at IS NOT NULL THEN 1 ELSE 0 END,
    worker = CASE WHEN :status = 'pending' THEN NULL ELSE worker END, updated_at = :updated_at,
    slot = CASE WHEN :refused_at IS NOT NULL THEN slot END""",
    FENCE,
    ("status", "changes", "state", "error", "parks", "payloads", "attempt", "not_before", "refused_at", "successor_id",
     "cohort_size", "cohort_arrivals", "cohort_depth", "cohort_needed", "cohort_at_once", "updated_at", "id",
     "lease_number"),
)  # fmt: skip


async def settle_all(tx: Transaction, batch: Sequence[Settle]) -> list[Settled]:
    """Apply every outcome whose lease still holds; the others land nowhere."""
    ids = [[tx.step_id() for _ in one.successors] if one.successors else () for one in batch]
    landed = await _update(tx, batch, ids)
    inserted: list[list[Inserted] | None] = [None] * len(batch)
    joining: dict[int, Joining] = {}
    ends: dict[int, FlowEnd] = {}
    for index in sorted(landed):
        one = batch[index]
        rows = [
            tx.insert(new, one.flow_id, one.step_id, step_id=step_id)
            for new, step_id in zip(one.successors, ids[index], strict=True)
        ]
        inserted[index] = rows
        if one.status == "interrupted":
            await interrupt_tree(tx, one.flow_id)
        elif one.child is not None:
            rows.append(await insert_child(tx, one.child, one.flow_id, one.step_id))
        elif one.end is not None:
            ends.setdefault(one.flow_id, one.end)
        if one.arrival is not None:
            add_up(joining, one.arrival, one.flow_id, index, one.step_id)
    await _end(tx, ends)
    await join_all(tx, joining, inserted)
    return [Settled(rows is not None, tuple(rows or ()), tx.now) for rows in inserted]


async def _end(tx: Transaction, ends: dict[int, FlowEnd]) -> None:
    stopped = await tx.stop_flows(ends)
    disposable = [flow_id for flow_id in stopped if ends[flow_id].delete]
    if disposable:
        await expire(tx, disposable)


async def _update(tx: Transaction, batch: Sequence[Settle], ids: Sequence[Sequence[int]]) -> set[int]:
    """Write the outcomes' own rows; the indexes of those that landed."""
    plain: dict[int, Row] = {}
    whole: dict[int, Row] = {}
    full: dict[int, Row] = {}
    seen: set[tuple[int, int]] = set()
    for index, one in enumerate(batch):
        fence = (one.step_id, one.lease_number)
        if fence in seen:
            continue  # the first outcome of a run is the one that counts
        seen.add(fence)
        successor_id = ids[index][0] if ids[index] else None
        if one.status == "completed" and one.error is one.parks is None:
            if one.state is None and not one.cohort_size:
                plain[index] = (one.changes, successor_id, tx.now, *fence)
            else:
                whole[index] = (
                    one.changes, one.state, successor_id, one.cohort_size, one.arrivals, one.depth, one.needed,
                    one.at_once, tx.now, *fence,
                )  # fmt: skip
        else:
            full[index] = (
                one.status, one.changes, one.state, one.error, one.parks, one.payloads, one.attempt,
                tx.now + one.delay, tx.now if one.refused else None, successor_id, one.cohort_size, one.arrivals,
                one.depth, one.needed, one.at_once, tx.now, *fence,
            )  # fmt: skip
    written = ((COMPLETE, plain), (_COMPLETE_WHOLE, whole), (_SETTLE, full))
    return {index for statement, rows in written for index in await _landed(tx, statement, rows)}


async def _landed(tx: Transaction, statement: Update, rows: dict[int, Row]) -> Iterable[int]:
    if not rows:
        return ()
    order = list(rows)
    return [order[index] for index in await tx.db.update(statement, list(rows.values()))]
