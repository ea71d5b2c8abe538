"""Queries of the store. All statements of one see the same moment."""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from mbactor.foreman.model.fold_order import fold_order
from mbactor.foreman.store.dialect import Db, Row
from mbactor.foreman.store.rows import FlowRow, Json, Material, StepRow
from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS

_FLOW = ", ".join(FLOW_COLUMNS)
_STEP = ", ".join(STEP_COLUMNS)

# From each step up to the nearest row that holds its input. A fan-in that has not ended stands for itself: it is
# folded from the step that spawned its cohort.
_CHAINS = """WITH RECURSIVE line (origin, predecessor_id, cohort_id, state, added, changes, needed, distance) AS (
    SELECT id, predecessor_id, cohort_id, state, added, changes, cohort_needed, 0 FROM mbactor_step
    WHERE id IN (<ids>)
    UNION ALL
    SELECT line.origin, step.predecessor_id, step.cohort_id, step.state, step.added, step.changes, step.cohort_needed,
        line.distance + 1
    FROM line JOIN mbactor_step AS step ON step.id = line.predecessor_id
    WHERE line.state IS NULL AND line.cohort_id IS NULL)
    SELECT origin, cohort_id, state, added, changes, needed FROM line ORDER BY origin, distance DESC"""

_MEMBERS = """WITH RECURSIVE member (id, origin) AS (
    SELECT id, spawn_id FROM mbactor_step WHERE spawn_id IN (<ids>)
    UNION ALL
    SELECT step.id, member.origin FROM member JOIN mbactor_step AS step ON step.spawn_id = member.id)
    SELECT member.origin, step.id, step.spawn_id, step.ordinal, step.depth, step.status, step.successor_id,
        step.cohort_id, step.cohort_needed, step.changes
    FROM member JOIN mbactor_step AS step ON step.id = member.id"""


class _Member(NamedTuple):
    """A row of `_MEMBERS`."""

    id: int
    spawn_id: int
    ordinal: int
    depth: int
    status: str
    successor_id: int | None
    cohort_id: int | None
    cohort_needed: int
    changes: Json | None


LATEST = """SELECT id, status FROM mbactor_flow WHERE (id = ? OR thread_id = ?) AND root_id IS NULL
    AND forked_from IS NULL AND delete_at IS NULL AND NOT (delete_on_completion = 1 AND status = 'completed')
    ORDER BY id DESC LIMIT 1"""
"""The flow of a thread that the next one continues, by the id of the flow that it began with, given twice."""


async def graph(db: Db, graph_hash: str) -> Json | None:
    rows = await db.rows("SELECT graph FROM mbactor_graph WHERE hash = ?", graph_hash)
    return rows[0][0] if rows else None


async def flow(db: Db, flow_id: int) -> FlowRow | None:
    rows = await db.rows(f"SELECT {_FLOW} FROM mbactor_flow WHERE id = ?", flow_id)
    return FlowRow(*rows[0]) if rows else None


async def keyed(db: Db, idempotency_key: str) -> FlowRow | None:
    rows = await db.rows(f"SELECT {_FLOW} FROM mbactor_flow WHERE idempotency_key = ?", idempotency_key)
    return FlowRow(*rows[0]) if rows else None


async def statuses(db: Db, flow_ids: Sequence[int]) -> dict[int, str]:
    query = "SELECT id, status FROM mbactor_flow WHERE id IN (<ids>)"
    return {row[0]: row[1] for row in await db.rows(query, flow_ids)}


async def called(db: Db, flow_id: int) -> list[FlowRow]:
    """The flows that steps of this flow called."""
    query = f"""SELECT {_FLOW} FROM mbactor_flow WHERE caller_id IN (SELECT id FROM mbactor_step WHERE flow_id = ?)
        ORDER BY id"""
    return [FlowRow(*row) for row in await db.rows(query, flow_id)]


async def step(db: Db, step_id: int) -> StepRow | None:
    rows = await db.rows(f"SELECT {_STEP} FROM mbactor_step WHERE id = ?", step_id)
    return StepRow(*rows[0]) if rows else None


async def latest_of_thread(db: Db, anchor_id: int) -> int | None:
    rows = await db.rows(LATEST, anchor_id, anchor_id)
    return rows[0][0] if rows else None


async def steps(db: Db, flow_id: int) -> list[StepRow]:
    query = f"SELECT {_STEP} FROM mbactor_step WHERE flow_id = ? ORDER BY depth, id"
    return [StepRow(*row) for row in await db.rows(query, flow_id)]


async def interrupted(db: Db, flow_id: int) -> list[StepRow]:
    """The steps of the tree that wait for an answer, in the order in which `resume` answers them."""
    query = f"""SELECT {_STEP} FROM mbactor_step WHERE status = 'interrupted'
        AND flow_id IN (SELECT id FROM mbactor_flow WHERE id = ? OR root_id = ?) ORDER BY updated_at, id"""
    return [StepRow(*row) for row in await db.rows(query, flow_id, flow_id)]


async def materials(db: Db, step_ids: Sequence[int]) -> dict[int, Material]:
    return await _inputs(db, await _lines(db, step_ids))


async def _lines(db: Db, step_ids: Sequence[int]) -> dict[int, list[Row]]:
    """The rows from where its input is written down to each step itself."""
    lines: dict[int, list[Row]] = {}
    for row in await db.rows(_CHAINS, step_ids):
        lines.setdefault(row[0], []).append(row)
    return lines


async def _inputs(db: Db, lines: dict[int, list[Row]]) -> dict[int, Material]:
    # Only a step that was asked for can be a fan-in without its input: all above it have ended.
    spawn_ids = {step_id: lines[step_id][0][1] for step_id in lines if lines[step_id][0][2] is None}
    folded = await cohorts(db, set(spawn_ids.values())) if spawn_ids else {}
    found = {step_id: _along(rows) for step_id, rows in lines.items() if step_id not in spawn_ids}
    return found | {step_id: folded[spawn_id] for step_id, spawn_id in spawn_ids.items() if spawn_id in folded}


async def cohort(db: Db, spawn_id: int, *, joined: bool = True) -> Material | None:
    """The spawning step's input, and the changes that its cohort has made: those of branches that arrived, or, where
    it has not `joined`, all so far.
    """
    return (await cohorts(db, {spawn_id}, joined=joined)).get(spawn_id)


async def cohorts(db: Db, spawn_ids: set[int], *, joined: bool = True) -> dict[int, Material]:
    """The same for each of several."""
    wanted = sorted(spawn_ids)
    lines = await _lines(db, wanted)
    inputs = await _inputs(db, lines)
    own = {step_id: rows[-1][4:] for step_id, rows in lines.items()}
    members: defaultdict[int, list[_Member]] = defaultdict(list)
    for origin, *row in await db.rows(_MEMBERS, wanted):
        members[origin].append(_Member(*row))
    return {
        spawn_id: msgspec.structs.replace(
            material,
            cohort=_written(_folded(members[spawn_id], spawn_id, *own[spawn_id], joined=joined)),
        )
        for spawn_id, material in inputs.items()
    }


def _folded(
    members: list[_Member], spawn_id: int, changes: Json | None, needed: int, *, joined: bool
) -> Iterator[Json | None]:
    yield changes
    for _, one in fold_order(members, spawn_id, arrived_only=joined and needed > 0):
        yield one.changes


def _along(rows: list[Row]) -> Material:
    """The snapshot at the head of a line of steps, and what was changed and added on the way down."""
    deltas: list[Json | None] = []
    for above, below in pairwise(rows):
        deltas += (above[4], below[3])
    return Material(rows[0][2], _written(deltas))


def _written(deltas: Iterable[Json | None]) -> tuple[Json, ...]:
    return tuple(delta for delta in deltas if delta is not None)
