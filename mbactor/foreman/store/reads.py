"""Queries of the SQLite store. Each runs in the driver's thread, on a connection that only reads."""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS
from mbactor.foreman.store.store import FlowFilter, FlowRow, Json, Material, StepRow

_FLOW = ", ".join(FLOW_COLUMNS)
_STEP = ", ".join(STEP_COLUMNS)

# From a step up to the nearest row that holds its input. A fan-in that has not ended stands for itself: it is folded
# from the step that spawned its cohort.
_CHAIN = """WITH RECURSIVE line (id, predecessor_id, cohort_id, state, added, changes, distance) AS (
    SELECT id, predecessor_id, cohort_id, state, added, changes, 0 FROM mbactor_step WHERE id = ?
    UNION ALL
    SELECT step.id, step.predecessor_id, step.cohort_id, step.state, step.added, step.changes, line.distance + 1
    FROM line JOIN mbactor_step AS step ON step.id = line.predecessor_id
    WHERE line.state IS NULL AND line.cohort_id IS NULL)
    SELECT cohort_id, state, added, changes FROM line ORDER BY distance DESC"""

_MEMBERS = """WITH RECURSIVE member (id) AS (
    SELECT id FROM mbactor_step WHERE spawn_id = ?
    UNION ALL
    SELECT step.id FROM member JOIN mbactor_step AS step ON step.spawn_id = member.id)
    SELECT id, spawn_id, ordinal, depth, status, changes FROM mbactor_step WHERE id IN (SELECT id FROM member)"""


def graph(db: sqlite3.Connection, graph_hash: str) -> Json | None:
    row = db.execute("SELECT graph FROM mbactor_graph WHERE hash = ?", (graph_hash,)).fetchone()
    return row[0] if row else None


def flow(db: sqlite3.Connection, flow_id: int) -> FlowRow | None:
    row = db.execute(f"SELECT {_FLOW} FROM mbactor_flow WHERE id = ?", (flow_id,)).fetchone()
    return FlowRow(*row) if row else None


def flows(db: sqlite3.Connection, wanted: FlowFilter) -> list[FlowRow]:
    """Newest first; only flows that nobody called."""
    conditions, values = ["root_id IS NULL"], []
    for column, operator, value in (
        ("status", "=", wanted.status),
        ("workflow", "=", wanted.workflow),
        ("id", "<", wanted.before),
    ):
        if value is not None:
            conditions.append(f"{column} {operator} ?")
            values.append(value)
    query = f"SELECT {_FLOW} FROM mbactor_flow WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"
    return [FlowRow(*row) for row in db.execute(query, (*values, wanted.limit)).fetchall()]


def statuses(db: sqlite3.Connection, flow_ids: Sequence[int]) -> dict[int, str]:
    query = "SELECT id, status FROM mbactor_flow WHERE id IN (SELECT value FROM json_each(?))"
    return dict(db.execute(query, (msgspec.json.encode(flow_ids).decode(),)).fetchall())


def called(db: sqlite3.Connection, flow_id: int) -> list[FlowRow]:
    """The flows that steps of this flow called."""
    query = f"""SELECT {_FLOW} FROM mbactor_flow WHERE caller_id IN (SELECT id FROM mbactor_step WHERE flow_id = ?)
        ORDER BY id"""
    return [FlowRow(*row) for row in db.execute(query, (flow_id,)).fetchall()]


def nodes_at(db: sqlite3.Connection, flow_ids: Sequence[int]) -> dict[int, str]:
    query = """SELECT flow_id, min(node) FROM mbactor_step WHERE flow_id IN (SELECT value FROM json_each(?))
        AND status IN ('created', 'pending', 'running', 'interrupted') GROUP BY flow_id HAVING count(*) = 1"""
    return dict(db.execute(query, (msgspec.json.encode(flow_ids).decode(),)).fetchall())


def step(db: sqlite3.Connection, step_id: int) -> StepRow | None:
    row = db.execute(f"SELECT {_STEP} FROM mbactor_step WHERE id = ?", (step_id,)).fetchone()
    return StepRow(*row) if row else None


def steps(db: sqlite3.Connection, flow_id: int) -> list[StepRow]:
    query = f"SELECT {_STEP} FROM mbactor_step WHERE flow_id = ? ORDER BY depth, id"
    return [StepRow(*row) for row in db.execute(query, (flow_id,)).fetchall()]


def interrupted(db: sqlite3.Connection, flow_id: int) -> list[StepRow]:
    """The steps of the tree that wait for an answer, in the order in which `resume` answers them."""
    query = f"""SELECT {_STEP} FROM mbactor_step WHERE status = 'interrupted'
        AND flow_id IN (SELECT id FROM mbactor_flow WHERE id = ? OR root_id = ?) ORDER BY updated_at, id"""
    return [StepRow(*row) for row in db.execute(query, (flow_id, flow_id)).fetchall()]


def materials(db: sqlite3.Connection, step_ids: Sequence[int]) -> dict[int, Material]:
    found = ((step_id, _material(db, step_id)) for step_id in step_ids)
    return {step_id: material for step_id, material in found if material is not None}


def cohort(db: sqlite3.Connection, spawn_id: int) -> Material | None:
    """The spawning step's input, and the changes that its cohort has made so far."""
    spawned = _material(db, spawn_id)
    if spawned is None:
        return None
    (own,) = db.execute("SELECT changes FROM mbactor_step WHERE id = ?", (spawn_id,)).fetchone()
    changes = (own, *_changes_of(db, spawn_id))
    return msgspec.structs.replace(spawned, cohort=tuple(delta for delta in changes if delta is not None))


def _material(db: sqlite3.Connection, step_id: int) -> Material | None:
    rows = db.execute(_CHAIN, (step_id,)).fetchall()
    if not rows:
        return None
    cohort_id, snapshot, _, _ = rows[0]
    if snapshot is None:
        # Only the step that was asked for can be a fan-in without its input: all above it have ended.
        return cohort(db, cohort_id)
    deltas: list[Json | None] = []
    for above, below in pairwise(rows):
        deltas += (above[3], below[2])
    return Material(snapshot, tuple(delta for delta in deltas if delta is not None))


def _changes_of(db: sqlite3.Connection, spawn_id: int) -> Iterator[Json | None]:
    members = defaultdict(list)
    for row in db.execute(_MEMBERS, (spawn_id,)).fetchall():
        members[row[1]].append(row)
    yield from _in_order(members, spawn_id)


def _in_order(
    members: dict[int, list[tuple[int, int, int, int, str, Json | None]]], spawn_id: int
) -> Iterator[Json | None]:
    """Completed members by (ordinal, depth, id); what a nested cohort changed follows the step that spawned it."""
    for step_id, _, _, _, status, changes in sorted(
        members.get(spawn_id, ()), key=lambda row: (row[2], row[3], row[0])
    ):
        if status == "completed":
            yield changes
            yield from _in_order(members, step_id)
