"""Outcomes of steps, in SQL: fenced updates, successors, arrivals at joins, ends of flows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mbactor.foreman.store.dialect import Row, Update
from mbactor.foreman.store.flows import insert_child, interrupt_tree
from mbactor.foreman.store.keeping import expire
from mbactor.foreman.store.operations import Arrival, FlowEnd, Inserted, NewStep, Settle, Settled
from mbactor.foreman.store.rows import Json
from mbactor.foreman.store.transaction import Transaction

# The step's own row is one seek by its id. Said as `status = 'running' AND ...` it would invite PostgreSQL to walk the
# index of all running steps instead, for each row of the batch.
FENCE = "id = :id AND CASE WHEN status = 'running' THEN lease_number END = :lease_number"

_COMPLETE = Update(
    "mbactor_step",
    "status = 'completed', changes = :changes, successor_id = :successor_id, updated_at = :updated_at",
    FENCE,
    ("changes", "successor_id", "updated_at", "id", "lease_number"),
)

_SETTLE = Update(
    "mbactor_step",
    """status = :status, changes = :changes, state = coalesce(:state, state),
    chain = CASE WHEN :state IS NULL THEN chain ELSE 0 END, error = :error, parks = :parks, payloads = :payloads,
    attempt = :attempt, not_before = :not_before,
    refused_at = CASE WHEN :refused_at IS NOT NULL THEN coalesce(refused_at, :refused_at) END,
    successor_id = :successor_id, cohort_size = :cohort_size, cohort_arrivals = :cohort_arrivals,
    cohort_depth = :cohort_depth,
    lease_expires = NULL, lease_number = lease_number + CASE WHEN :status = 'running' THEN 1 ELSE 0 END,
    worker = CASE WHEN :status = 'pending' THEN NULL ELSE worker END, updated_at = :updated_at""",
    FENCE,
    ("status", "changes", "state", "error", "parks", "payloads", "attempt", "not_before", "refused_at", "successor_id",
     "cohort_size", "cohort_arrivals", "cohort_depth", "updated_at", "id", "lease_number"),
)  # fmt: skip

_ARRIVE = """UPDATE mbactor_step SET cohort_arrivals = cohort_arrivals + ?, cohort_failures = cohort_failures + ?,
    cohort_depth = <greatest>(cohort_depth, ?) WHERE id = ?
    RETURNING flow_id, cohort_size, cohort_arrivals, cohort_failures, cohort_depth, spawn_id, ordinal"""

_FIRST_ERROR = "SELECT error FROM mbactor_step WHERE flow_id = ? AND status = 'failed' ORDER BY id LIMIT 1"


class _Joining(msgspec.Struct):
    """The arrivals of a batch at one cohort, added up: its row is touched once."""

    count: int = 0
    failures: int = 0
    depth: int = 0
    last: int = 0
    """The index of the outcome that arrived last."""
    predecessor_id: int = 0
    fan_in: NewStep | None = None


async def settle_all(tx: Transaction, batch: Sequence[Settle]) -> list[Settled]:
    """Apply every outcome whose lease still holds; the others land nowhere."""
    ids = [[tx.step_id() for _ in one.successors] if one.successors else () for one in batch]
    landed = await _update(tx, batch, ids)
    inserted: list[list[Inserted] | None] = [None] * len(batch)
    joining: dict[int, _Joining] = {}
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
            _add_up(joining, one.arrival, index, one.step_id)
    await _end(tx, ends)
    await _join(tx, joining, inserted)
    return [Settled(rows is not None, tuple(rows or ()), tx.now) for rows in inserted]


async def _end(tx: Transaction, ends: dict[int, FlowEnd]) -> None:
    stopped = await tx.stop_flows(ends)
    disposable = [flow_id for flow_id in stopped if ends[flow_id].delete]
    if disposable:
        await expire(tx, disposable)


async def _update(tx: Transaction, batch: Sequence[Settle], ids: Sequence[Sequence[int]]) -> set[int]:
    """Write the outcomes' own rows; the indexes of those that landed."""
    plain: dict[int, Row] = {}
    full: dict[int, Row] = {}
    seen: set[tuple[int, int]] = set()
    for index, one in enumerate(batch):
        fence = (one.step_id, one.lease_number)
        if fence in seen:
            continue  # the first outcome of a run is the one that counts
        seen.add(fence)
        successor_id = ids[index][0] if ids[index] else None
        if one.status == "completed" and one.state is one.error is one.parks is None and not one.cohort_size:
            plain[index] = (one.changes, successor_id, tx.now, *fence)
        else:
            full[index] = (
                one.status, one.changes, one.state, one.error, one.parks, one.payloads, one.attempt,
                tx.now + one.delay, tx.now if one.refused else None, successor_id, one.cohort_size, one.arrivals,
                one.depth, tx.now, *fence,
            )  # fmt: skip
    return {*await _landed(tx, _COMPLETE, plain), *await _landed(tx, _SETTLE, full)}


async def _landed(tx: Transaction, statement: Update, rows: dict[int, Row]) -> Iterable[int]:
    if not rows:
        return ()
    order = list(rows)
    return [order[index] for index in await tx.db.update(statement, list(rows.values()))]


def _add_up(joining: dict[int, _Joining], arrival: Arrival, index: int, step_id: int) -> None:
    join = joining.setdefault(arrival.spawn_id, _Joining())
    join.count += 1
    join.failures += arrival.failed
    join.depth = max(join.depth, arrival.depth)
    join.last, join.predecessor_id = index, step_id
    join.fan_in = arrival.fan_in or join.fan_in


async def _join(tx: Transaction, joining: dict[int, _Joining], inserted: list[list[Inserted] | None]) -> None:
    # A spawning step has a lower id than those its branches spawn: going down, a failure that an inner cohort
    # passes on joins the arrivals at the outer one before that row is touched.
    while joining:
        spawn_id = max(joining)
        join = joining.pop(spawn_id)
        rows = await tx.db.rows(_ARRIVE, join.count, join.failures, join.depth, spawn_id)
        flow_id, size, arrivals, failures, depth, outer, ordinal = rows[0]
        if not arrivals - join.count < size <= arrivals:
            continue
        if failures and outer is None:
            await tx.stop_flows({flow_id: FlowEnd("failed", error=await _first_error(tx, flow_id))})
        elif failures:
            escalated = Arrival(outer, depth, failed=True)
            _add_up(joining, escalated, join.last, join.predecessor_id)
        elif join.fan_in is not None:
            fan_in = msgspec.structs.replace(
                join.fan_in, depth=depth + 1, spawn_id=outer, ordinal=ordinal, cohort_id=spawn_id
            )
            rows_of_last = inserted[join.last]
            assert rows_of_last is not None
            rows_of_last.append(tx.insert(fan_in, flow_id, join.predecessor_id))


async def _first_error(tx: Transaction, flow_id: int) -> Json | None:
    rows = await tx.db.rows(_FIRST_ERROR, flow_id)
    return rows[0][0] if rows else None
