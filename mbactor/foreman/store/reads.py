"""Queries of the store. All statements of one see the same moment."""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from mbactor.foreman.model.fold_order import fold_order
from mbactor.foreman.store.dialect import Db
from mbactor.foreman.store.rows import FlowRow, Json, Material, StepRow
from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS

_FLOW = ", ".join(FLOW_COLUMNS)
_STEP = ", ".join(STEP_COLUMNS)

# From each step up to the nearest row that holds its input. One that has not ended goes on, where it is a fan-in, with
# the step that spawned its cohort: only a step that was asked for can be that, for all above it have ended.
_LINE = """line (origin, id, above, cohort_id, state, added, changes, needed, node, distance) AS (
    SELECT id, id, CASE WHEN cohort_id IS NULL THEN predecessor_id ELSE cohort_id END, cohort_id, state, added, changes,
        cohort_needed, node, 0
    FROM mbactor_step WHERE id IN (<ids>)
    UNION ALL
    SELECT line.origin, step.id, step.predecessor_id, step.cohort_id, step.state, step.added, step.changes,
        step.cohort_needed, step.node, line.distance + 1
    FROM line JOIN mbactor_step AS step ON step.id = line.above WHERE line.state IS NULL)"""

# The lines, the members of the cohorts, and those of cohorts within them, of which there are mostly none; in one
# statement, so that all are of one moment.
_INPUTS = f"""WITH RECURSIVE {_LINE},
    cohort (id) AS (SELECT {{spawned}} FROM line WHERE distance = 0),
    inner_member (id, origin) AS (
    SELECT step.id, member.spawn_id FROM mbactor_step AS member JOIN mbactor_step AS step ON step.spawn_id = member.id
    WHERE member.spawn_id IN (SELECT id FROM cohort)
    UNION ALL
    SELECT step.id, member.origin FROM inner_member AS member JOIN mbactor_step AS step ON step.spawn_id = member.id)
    SELECT origin, distance, state, added, node, cohort_id, needed, changes,
        NULL, NULL, NULL, NULL, NULL, NULL FROM line
    UNION ALL
    SELECT spawn_id, NULL, NULL, NULL, NULL, cohort_id, cohort_needed, changes,
        id, spawn_id, ordinal, depth, status, successor_id
    FROM mbactor_step WHERE spawn_id IN (SELECT id FROM cohort)
    UNION ALL
    SELECT member.origin, NULL, NULL, NULL, NULL, step.cohort_id, step.cohort_needed, step.changes,
        step.id, step.spawn_id, step.ordinal, step.depth, step.status, step.successor_id
    FROM inner_member AS member JOIN mbactor_step AS step ON step.id = member.id"""
_OF_STEPS = _INPUTS.format(spawned="CASE WHEN state IS NULL THEN cohort_id END")
_OF_COHORTS = _INPUTS.format(spawned="id")


class _Link(NamedTuple):
    """A step on the line from the snapshot to the one that was asked for, by how far above that it is."""

    distance: int
    state: Json | None
    added: Json | None
    node: str
    cohort_id: int | None
    needed: int
    changes: Json | None


class _Member(NamedTuple):
    """A step within a cohort, those within it included."""

    cohort_id: int | None
    cohort_needed: int
    changes: Json | None
    id: int
    spawn_id: int
    ordinal: int
    depth: int
    status: str
    successor_id: int | None


LATEST = """SELECT id, status FROM mbactor_flow WHERE (id = ? OR thread_id = ?) AND root_id IS NULL
    AND forked_from IS NULL AND delete_at IS NULL AND NOT (delete_on_completion = 1 AND status = 'completed')
    ORDER BY id DESC LIMIT 1"""
"""The flow of a thread that the next one continues, by the id of the flow that it began with, given twice."""

_CALLERS = """WITH RECURSIVE above (workflow, caller_id, nesting) AS (
    SELECT workflow, caller_id, 1 FROM mbactor_flow WHERE id = ?
    UNION ALL
    SELECT flow.workflow, flow.caller_id, above.nesting + 1 FROM above
        JOIN mbactor_step AS step ON step.id = above.caller_id
        JOIN mbactor_flow AS flow ON flow.id = step.flow_id WHERE above.nesting < ?)
    SELECT workflow FROM above ORDER BY nesting"""


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


async def callers(db: Db, flow_id: int, most: int) -> list[str]:
    """The workflow of this flow, of the one that called it, and so on to the one it all began with."""
    return [workflow for (workflow,) in await db.rows(_CALLERS, flow_id, most)]


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
    """What each step's input is made of."""
    lines, members = await _inputs(db, _OF_STEPS, step_ids)
    found: dict[int, Material] = {}
    for step_id, (*above, own) in lines.items():
        if own.state is not None or own.cohort_id is None:
            line, cohort = [*above, own], None
        else:
            line, cohort = above, own.cohort_id
        if line and line[0].state is not None:
            found[step_id] = _along(line) if cohort is None else _met(line, members[cohort], cohort, joined=True)
    return found


async def cohort(db: Db, spawn_id: int, *, joined: bool = True) -> Material | None:
    """The spawning step's input, and the changes that its cohort has made: those of branches that arrived, or, where
    it has not `joined`, all so far.
    """
    lines, members = await _inputs(db, _OF_COHORTS, [spawn_id])
    line = lines.get(spawn_id)
    if line is None or line[0].state is None:
        return None
    return _met(line, members[spawn_id], spawn_id, joined=joined)


async def _inputs(
    db: Db, query: str, step_ids: Sequence[int]
) -> tuple[dict[int, list[_Link]], defaultdict[int, list[_Member]]]:
    """The rows from where its input is written down to each step itself, and the members of each cohort."""
    lines: defaultdict[int, list[_Link]] = defaultdict(list)
    members: defaultdict[int, list[_Member]] = defaultdict(list)
    for origin, *row in await db.rows(query, step_ids):
        if row[0] is None:
            members[origin].append(_Member(*row[4:]))
        else:
            lines[origin].append(_Link(*row[:7]))
    for line in lines.values():
        line.sort(key=lambda link: -link.distance)
    return dict(lines), members


def _met(line: list[_Link], members: list[_Member], spawn_id: int, *, joined: bool) -> Material:
    """What a cohort has made of the input of the step that spawned it."""
    own = line[-1]
    deltas = _folded(members, spawn_id, own.changes, own.needed, joined=joined)
    wrote = own.changes is not None
    return msgspec.structs.replace(_along(line), cohort=_written(deltas), spawn=own.node, spawn_wrote=wrote)


def _folded(
    members: list[_Member], spawn_id: int, changes: Json | None, needed: int, *, joined: bool
) -> Iterator[Json | None]:
    yield changes
    for _, one in fold_order(members, spawn_id, arrived_only=joined and needed > 0):
        yield one.changes


def _along(line: list[_Link]) -> Material:
    """The snapshot at the head of a line of steps, and what was changed and added on the way down."""
    deltas: list[Json | None] = []
    for above, below in pairwise(line):
        deltas += (above.changes, below.added)
    snapshot = line[0].state
    assert snapshot is not None
    return Material(snapshot, _written(deltas))


def _written(deltas: Iterable[Json | None]) -> tuple[Json, ...]:
    return tuple(delta for delta in deltas if delta is not None)
