"""Arrivals at fan-ins, in SQL: whether a cohort goes on or fails, what becomes of the branches it does not wait for,
and which of those that wait may begin.

A cohort is decided by the arrival that makes it so, in the transaction of that arrival: its spawning step's row is
changed under the lock of its tree. From then on no branch of it can arrive, for the others are cancelled with it.
"""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.json import encode

from mbactor.errors import FlowConflict, to_wire
from mbactor.foreman.model.join import ENOUGH, FAILED, NEVER_BEGAN, has_joined
from mbactor.foreman.store.dialect import Row, Update
from mbactor.foreman.store.flows import go_on
from mbactor.foreman.store.operations import Arrival, FlowEnd, Inserted, NewStep
from mbactor.foreman.store.rows import Json
from mbactor.foreman.store.transaction import Transaction

ARRIVE = Update(
    "mbactor_step",
    """cohort_arrivals = cohort_arrivals + :cohort_arrivals, cohort_failures = cohort_failures + :cohort_failures,
    cohort_depth = <greatest>(cohort_depth, :cohort_depth)""",
    "id = :id",
    ("cohort_arrivals", "cohort_failures", "cohort_depth", "id"),
    returning="cohort_size, cohort_arrivals, cohort_failures, cohort_needed, cohort_depth, spawn_id, ordinal, "
    "lease_number",
    assumed="cohort_failures = 0 AND cohort_needed = 0",
)

_WITHIN = """WITH RECURSIVE inside (id) AS (
    SELECT id FROM mbactor_step WHERE spawn_id = ?
    UNION ALL
    SELECT step.id FROM inside JOIN mbactor_step AS step ON step.spawn_id = inside.id)"""

_FIRST_ERROR = f"""{_WITHIN} SELECT error FROM mbactor_step WHERE id IN (SELECT id FROM inside) AND status = 'failed'
    ORDER BY id LIMIT 1"""

_INSIDE = f"{_WITHIN} SELECT id FROM inside"

_CALLED = """SELECT id FROM mbactor_flow WHERE caller_id IN (<ids>)
    AND status IN ('created', 'running', 'interrupted')"""

_GIVE_UP = """UPDATE mbactor_step SET status = 'cancelled', lease_expires = NULL, updated_at = ?,
    cancel_reason = CASE WHEN status = 'created' THEN ? ELSE ? END
    WHERE id IN (<ids>) AND status IN ('created', 'pending', 'running', 'interrupted') RETURNING id, flow_id"""

# All that waits in the first so many branches: more than one step where what runs again had fanned out within one.
_RELEASE = """UPDATE mbactor_step SET status = 'pending', room_id = NULL, room_ordinal = NULL,
    not_before = <greatest>(not_before, ?), updated_at = ?
    WHERE room_id = ? AND status = 'created' AND room_ordinal <= (SELECT max(room_ordinal) FROM
        (SELECT DISTINCT room_ordinal FROM mbactor_step WHERE room_id = ? AND status = 'created'
            ORDER BY room_ordinal LIMIT ?) AS next)"""


class Joining(msgspec.Struct):
    """The arrivals of a batch at one cohort, added up: its row is touched once."""

    flow_id: int
    count: int = 0
    failures: int = 0
    depth: int = 0
    last: int = 0
    """The index of the outcome that arrived last."""
    predecessor_id: int = 0
    fan_in: NewStep | None = None
    around: tuple[NewStep, ...] = ()
    makes_room: bool = False


def add_up(joining: dict[int, Joining], arrival: Arrival, flow_id: int, index: int, step_id: int) -> None:
    """One more arrival at its cohort."""
    join = joining.get(arrival.spawn_id)
    if join is None:
        join = joining[arrival.spawn_id] = Joining(flow_id)
    join.count += 1
    join.failures += arrival.failed
    join.depth = max(join.depth, arrival.depth)
    if not arrival.failed or join.fan_in is None:
        join.last, join.predecessor_id, join.fan_in = index, step_id, arrival.fan_in
    join.around = arrival.around or join.around
    join.makes_room |= arrival.makes_room


async def join_all(tx: Transaction, joining: dict[int, Joining], inserted: Sequence[list[Inserted] | None]) -> None:
    """Let all arrivals of a batch take effect. Rows go into what the outcome that arrived last has `inserted`; what
    is given up again goes out of it.
    """
    counted = await _count(tx, joining)
    # A spawning step has a lower id than those its branches spawn: going down, a failure that an inner cohort passes on
    # joins the arrivals at the outer one before that is judged.
    while joining:
        spawn_id = max(joining)
        join = joining.pop(spawn_id)
        failed = await _judge(tx, spawn_id, join, counted[spawn_id], inserted)
        if failed is not None:
            passed_on: dict[int, Joining] = {}
            for some in (joining, passed_on):
                add_up(some, failed, join.flow_id, join.last, join.predecessor_id)
            counted |= await _count(tx, passed_on)


async def _count(tx: Transaction, joining: Mapping[int, Joining]) -> dict[int, Row]:
    """Add the arrivals to the rows of their cohorts, and tell what stands there now."""
    rows = [(join.count, join.failures, join.depth, spawn_id) for spawn_id, join in sorted(joining.items())]
    found = await tx.db.update(ARRIVE, rows) if rows else {}
    return {rows[index][-1]: row for index, row in found.items()}


async def _judge(
    tx: Transaction, spawn_id: int, join: Joining, row: Row, inserted: Sequence[list[Inserted] | None]
) -> Arrival | None:
    """What becomes of a cohort of which the row says this; its own arrival at the one around it, where it fails."""
    size, arrivals, failures, needed, depth, outer, ordinal, lease = row
    goes_on = has_joined(size, needed, arrivals, failures)
    if goes_on is None:
        if join.makes_room:
            await tx.flush()
            await tx.db.count(_RELEASE, tx.now, tx.now, spawn_id, spawn_id, join.count)
        return None
    goes_on = goes_on and join.fan_in is not None  # else nobody could read which one it is
    error = None if goes_on or outer is not None else await _first_error(tx, spawn_id)
    if arrivals < size:
        await _give_up(tx, spawn_id, join.flow_id, ENOUGH if goes_on else FAILED, inserted)
    if not goes_on and outer is not None:
        first, around = (join.around[0], join.around[1:]) if join.around else (None, ())
        return Arrival(outer, depth, failed=True, fan_in=first, around=around)
    if not goes_on:
        await tx.stop_flows({join.flow_id: FlowEnd("failed", error=error)})
        return None
    assert join.fan_in is not None
    fan_in = msgspec.structs.replace(join.fan_in, depth=depth + 1, spawn_id=outer, ordinal=ordinal, cohort_id=spawn_id)
    rows_of_last = inserted[join.last]
    assert rows_of_last is not None
    row_of_it = tx.insert(fan_in, join.flow_id, join.predecessor_id)
    rows_of_last.append(msgspec.structs.replace(row_of_it, spawn_lease=lease))
    return None


async def _first_error(tx: Transaction, spawn_id: int) -> Json | None:
    rows = await tx.db.rows(_FIRST_ERROR, spawn_id)
    return rows[0][0] if rows else encode(to_wire(FlowConflict(CANCELLED)))


CANCELLED = (
    "branches that the fan-in needs had been cancelled before this flow was forked; fork the step that fans out to them"
)


async def _give_up(
    tx: Transaction, spawn_id: int, flow_id: int, reason: str, inserted: Sequence[list[Inserted] | None]
) -> None:
    """Cancel what is open within a cohort, nested cohorts and called flows included."""
    await tx.flush()
    steps = [row[0] for row in await tx.db.rows(_INSIDE, spawn_id)]
    flows: list[int] = []
    given_up: dict[int, int] = {}
    while steps:
        given_up |= dict(await tx.db.rows(_GIVE_UP, tx.now, NEVER_BEGAN[reason], reason, steps))
        called = [row[0] for row in await tx.db.rows(_CALLED, steps)]
        flows += called
        query = "SELECT id FROM mbactor_step WHERE flow_id IN (<ids>)"
        steps = [row[0] for row in await tx.db.rows(query, called)] if called else []
    await tx.stop_flows({one: FlowEnd("cancelled") for one in flows}, reason)
    tx.given_up |= given_up
    if given_up:
        await go_on(tx, flow_id)
    for rows in inserted:
        if rows:
            rows[:] = [one for one in rows if one.step_id not in given_up]
