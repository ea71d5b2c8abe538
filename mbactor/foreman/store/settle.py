"""Outcomes of steps, in SQL: fenced updates, successors, arrivals at joins, ends of flows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mbactor.foreman.store.flows import delete_tree, insert_child, interrupt_tree
from mbactor.foreman.store.store import Arrival, FlowEnd, Inserted, Json, NewStep, Settle, Settled
from mbactor.foreman.store.transaction import Transaction

_COMPLETE = """UPDATE mbactor_step SET status = 'completed', changes = ?, successor_id = ?, updated_at = ?
    WHERE id = ? AND lease_number = ? AND status = 'running'"""

_SETTLE = """UPDATE mbactor_step SET status = ?, changes = ?, state = coalesce(?, state),
    chain = CASE WHEN ? THEN 0 ELSE chain END, error = ?, parks = ?, payloads = ?, attempt = ?, not_before = ?,
    refused_at = CASE WHEN ? THEN coalesce(refused_at, ?) END, successor_id = ?, cohort_size = ?, cohort_arrivals = ?,
    cohort_depth = ?, lease_expires = NULL, lease_number = lease_number + ?,
    worker = CASE WHEN ? THEN NULL ELSE worker END, updated_at = ?
    WHERE id = ? AND lease_number = ? AND status = 'running'"""

_ARRIVE = """UPDATE mbactor_step SET cohort_arrivals = cohort_arrivals + ?, cohort_failures = cohort_failures + ?,
    cohort_depth = max(cohort_depth, ?) WHERE id = ?
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


def settle_all(tx: Transaction, batch: Sequence[Settle]) -> list[Settled]:
    """Apply every outcome whose lease still holds; the others land nowhere."""
    inserted: list[list[Inserted] | None] = []
    joining: dict[int, _Joining] = {}
    for index, one in enumerate(batch):
        inserted.append(_settle(tx, one))
        if one.arrival is not None and inserted[index] is not None:
            _add_up(joining, one.arrival, index, one.step_id)
    _join(tx, joining, inserted)
    return [Settled(rows is not None, tuple(rows or ()), tx.now) for rows in inserted]


def _settle(tx: Transaction, one: Settle) -> list[Inserted] | None:
    successors = [tx.insert(new, one.flow_id, one.step_id) for new in one.successors] if one.successors else []
    successor_id = successors[0].step_id if successors else None
    if not _update(tx, one, successor_id):
        tx.forget(len(successors))
        return None
    if one.status == "interrupted":
        interrupt_tree(tx, one.flow_id)
    elif one.child is not None:
        successors.append(insert_child(tx, one.child, one.flow_id, one.step_id))
    elif one.end is not None:
        _end(tx, one.flow_id, one.end)
    return successors


def _end(tx: Transaction, flow_id: int, end: FlowEnd) -> None:
    if tx.stop_flow(flow_id, end.status, end.final_state, end.error) and end.delete:
        tx.flush()
        delete_tree(tx, flow_id)


def _update(tx: Transaction, one: Settle, successor_id: int | None) -> bool:
    if one.status == "completed" and one.state is one.error is one.parks is None and not one.cohort_size:
        values: tuple[object, ...] = (one.changes, successor_id, tx.now, one.step_id, one.lease_number)
        return tx.db.execute(_COMPLETE, values).rowcount == 1
    values = (
        one.status, one.changes, one.state, one.state is not None, one.error, one.parks,
        one.payloads, one.attempt, tx.now + one.delay, one.refused, tx.now, successor_id, one.cohort_size, one.arrivals,
        one.depth,
        one.status == "running", one.status == "pending", tx.now, one.step_id, one.lease_number,
    )  # fmt: skip
    return tx.db.execute(_SETTLE, values).rowcount == 1


def _add_up(joining: dict[int, _Joining], arrival: Arrival, index: int, step_id: int) -> None:
    join = joining.setdefault(arrival.spawn_id, _Joining())
    join.count += 1
    join.failures += arrival.failed
    join.depth = max(join.depth, arrival.depth)
    join.last, join.predecessor_id = index, step_id
    join.fan_in = arrival.fan_in or join.fan_in


def _join(tx: Transaction, joining: dict[int, _Joining], inserted: list[list[Inserted] | None]) -> None:
    # A spawning step has a lower id than those its branches spawn: going down, a failure that an inner cohort
    # passes on joins the arrivals at the outer one before that row is touched.
    while joining:
        spawn_id = max(joining)
        join = joining.pop(spawn_id)
        rows = tx.db.execute(_ARRIVE, (join.count, join.failures, join.depth, spawn_id)).fetchall()
        flow_id, size, arrivals, failures, depth, outer, ordinal = rows[0]
        if not arrivals - join.count < size <= arrivals:
            continue
        if failures and outer is None:
            tx.stop_flow(flow_id, "failed", error=_first_error(tx, flow_id))
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


def _first_error(tx: Transaction, flow_id: int) -> Json | None:
    row = tx.db.execute(_FIRST_ERROR, (flow_id,)).fetchone()
    return row[0] if row else None
