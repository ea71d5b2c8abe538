"""Lists of flows, in SQL: newest first, each filter by an index of its own.

A search reads every flow that the other filters leave: it is meant for people who look for something.
"""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from mbactor.foreman.model.status import FLOW_STATUSES, FlowStatus
from mbactor.foreman.store.dialect import Db
from mbactor.foreman.store.rows import Fingerprint, FlowFilter, FlowRow, Places, Progress
from mbactor.foreman.store.schema import FLOW_COLUMNS

Condition = tuple[str, tuple[Any, ...]]

USUAL_PRIORITY = 100

_LARGE = {"final_state", "baggage"}
"""What no list shows, and may be megabytes."""
_FLOW = ", ".join("NULL" if column in _LARGE else f"flow.{column}" for column in FLOW_COLUMNS)

_OPEN = "('created', 'pending', 'running', 'interrupted')"

# Where a flow is, or has failed: a step, where it is exactly one.
_STANDS = f"(step.status IN {_OPEN} OR (step.status = 'failed' AND flow.status = 'failed'))"
_NODE = f"""(SELECT min(step.node) FROM mbactor_step AS step WHERE step.flow_id = flow.id AND {_STANDS}
    HAVING count(*) = 1)"""

_STANDING: tuple[FlowStatus, ...] = ("created", "running", "interrupted", "failed")
"""The statuses of flows that are anywhere. An index of steps by node would cost each step a fifth of its time."""

# The indexes of steps that wait or run are short, as the flows that run may not be.
_AT_NODE = """flow.id IN (SELECT flow_id FROM mbactor_step WHERE status = 'pending' AND node = ?
    UNION ALL SELECT flow_id FROM mbactor_step WHERE status = 'running' AND node = ?)"""

# Parted by line ends, so that nothing is found across two fields.
_SEARCHED = f"""<position>(<lower>(flow.workflow || '\n' || flow.name || '\n' || coalesce({_NODE}, '') || '\n'
    || coalesce(<error text>, '') || '\n' || coalesce(flow.cancel_reason, '') || '\n'
    || CAST(? AS TEXT) || '-' || CAST(flow.id AS TEXT) || '-' || flow.token), <lower>(?)) > 0"""

_KEPT = "flow.delete_at IS NULL"
_OF_A_KEPT = """NOT EXISTS (SELECT 1 FROM mbactor_flow AS root WHERE root.id = flow.root_id
    AND root.delete_at IS NOT NULL)"""

_PROGRESS = f"""SELECT flow.id, count(*), sum(CASE WHEN step.status IN {_OPEN} THEN 0 ELSE 1 END),
    sum(CASE WHEN {_STANDS} THEN 1 ELSE 0 END), min(CASE WHEN {_STANDS} THEN step.node END)
    FROM mbactor_flow AS flow JOIN mbactor_step AS step ON step.flow_id = flow.id
    WHERE flow.id IN (<ids>) GROUP BY flow.id"""


async def flows(db: Db, wanted: FlowFilter) -> list[FlowRow]:
    """Newest first."""
    if wanted.older_than is None and wanted.newer_than is None:
        return await _newest(db, wanted, [])
    ((now,),) = await db.rows("SELECT <now>")
    then = older(now - wanted.older_than) if wanted.older_than is not None else []
    if wanted.newer_than is None:
        return await _newest(db, wanted, then)
    # All that were created since then come first, by one index; then those that have changed since, by another.
    since = now - wanted.newer_than
    found = await _newest(db, wanted, [*then, ("flow.created_at >= ?", (since,))])
    if len(found) < wanted.limit:
        changed: list[Condition] = [*then, ("flow.created_at < ?", (since,)), (_CHANGED_SINCE, (since,))]
        found += await _page(db, conditions(wanted) + changed, wanted.limit - len(found))
    return found


async def _newest(db: Db, wanted: FlowFilter, more: list[Condition]) -> list[FlowRow]:
    statuses = FLOW_STATUSES if wanted.node is None else _STANDING
    if wanted.status is not None and wanted.status not in statuses:
        return []
    if wanted.status is not None or (wanted.node is None and has_index(wanted)):
        return await _page(db, conditions(wanted) + more, wanted.limit)
    # There is no index of all: it would cost each flow, and PostgreSQL would walk it for a status that is rare.
    found: list[FlowRow] = []
    for status in statuses:
        one = msgspec.structs.replace(wanted, status=status)
        found += await _page(db, conditions(one) + more, wanted.limit)
    return sorted(found, key=lambda row: (row.created_at, row.id), reverse=True)[: wanted.limit]


def has_index(wanted: FlowFilter) -> bool:
    """Whether one of the filters leads to its flows, newest first or few."""
    by_number = wanted.priority not in {None, USUAL_PRIORITY} or wanted.thread_id is not None
    return bool(wanted.workflow or wanted.fairness_key) or by_number


_CHANGED_SINCE = """flow.id IN (SELECT id FROM mbactor_flow WHERE updated_at > created_at AND updated_at >= ?)"""


def older(moment: float) -> list[Condition]:
    """What has not changed since the moment; so it was created before, and that has an index."""
    return [("flow.updated_at < ?", (moment,)), ("flow.created_at < ?", (moment,))]


def conditions(wanted: FlowFilter) -> list[Condition]:
    """All of the filter but what depends on the time."""
    found: list[Condition] = [(_KEPT, ())]
    found.append((_OF_A_KEPT, ()) if wanted.subflows else ("flow.root_id IS NULL", ()))
    for column, value in (
        ("status", wanted.status), ("workflow", wanted.workflow), ("fairness_key", wanted.fairness_key),
        ("priority", wanted.priority),
    ):  # fmt: skip
        if value is not None:
            found.append((f"flow.{column} = ?", (value,)))
    found += _partly_indexed(wanted)
    if wanted.thread_id is not None:
        found.append(("(flow.id = ? OR flow.thread_id = ?)", (wanted.thread_id, wanted.thread_id)))
    if wanted.node is not None:
        found.append((f"{_NODE} = ?", (wanted.node,)))
        if wanted.status == "running":
            found.append((_AT_NODE, (wanted.node, wanted.node)))
    if wanted.search:
        found.append((_SEARCHED, (str(wanted.shard), wanted.search)))
    if wanted.before is not None:
        found.append(("(flow.created_at, flow.id) < (?, ?)", wanted.before))
    return found


def _partly_indexed(wanted: FlowFilter) -> Iterator[Condition]:
    """The indexes of these are without the flows of whom nothing was said."""
    if wanted.fairness_key:
        yield "flow.fairness_key <> ''", ()
    if wanted.concurrency_key:
        yield "flow.concurrency_key = ?", (wanted.concurrency_key,)
    elif wanted.concurrency_key is not None:
        yield "flow.concurrency_key IS NULL", ()
    if wanted.priority is not None and wanted.priority != USUAL_PRIORITY:
        yield "flow.priority <> 100", ()


async def _page(db: Db, all_of: Sequence[Condition], limit: int) -> list[FlowRow]:
    query, values = page_query(all_of)
    return [FlowRow(*row) for row in await db.rows(query, *values, limit)]


def page_query(all_of: Sequence[Condition], columns: str = _FLOW) -> tuple[str, list[Any]]:
    """A statement that wants its limit as the last value, and the values before that."""
    query = f"""SELECT {columns} FROM mbactor_flow AS flow WHERE {" AND ".join(text for text, _ in all_of)}
        ORDER BY flow.created_at DESC, flow.id DESC LIMIT ?"""
    return query, [value for _, values in all_of for value in values]


async def progress(db: Db, flow_ids: Sequence[int]) -> dict[int, Progress]:
    """How far each of these flows has come."""
    rows = await db.rows(_PROGRESS, flow_ids)
    return {
        flow_id: Progress(node if standing == 1 else "", int(done), known)
        for flow_id, known, done, standing, node in rows
    }


MOST_NAMED = 8

# Flows that have begun are few, for they are what the key bounds.
_PLACES = f"""SELECT concurrency_key, taken, id, token FROM (
    SELECT concurrency_key, id, token, count(*) OVER (PARTITION BY concurrency_key) AS taken,
    row_number() OVER (PARTITION BY concurrency_key ORDER BY id) AS place
    FROM mbactor_flow WHERE concurrency_key IN (<texts>) AND concurrency_key IS NOT NULL
    AND status IN ('running', 'interrupted')) AS begun WHERE place <= {MOST_NAMED} ORDER BY concurrency_key, id"""


async def places(db: Db, keys: Sequence[str]) -> dict[str, Places]:
    """Who has the places of each of these concurrency keys; one of which no flow has begun is absent."""
    found: dict[str, Places] = {}
    for key, taken, flow_id, token in await db.rows(_PLACES, keys):
        by = found[key].by if key in found else ()
        found[key] = Places(taken, (*by, (flow_id, token)))
    return found


# Only steps that have parked may have called a flow.
_FINGERPRINT = """WITH RECURSIVE tree (id) AS (
    SELECT id FROM mbactor_flow WHERE id = ?
    UNION ALL
    SELECT called.id FROM tree JOIN mbactor_step AS caller ON caller.flow_id = tree.id AND caller.parks IS NOT NULL
    JOIN mbactor_flow AS called ON called.caller_id = caller.id)
    SELECT flow.token, CASE WHEN root.delete_at IS NULL THEN 0 ELSE 1 END,
    flow.status, (SELECT count(*) FROM tree),
    (SELECT count(*) FROM mbactor_step WHERE flow_id IN (SELECT id FROM tree)),
    (SELECT max(updated_at) FROM mbactor_step WHERE flow_id IN (SELECT id FROM tree))
    FROM mbactor_flow AS flow JOIN mbactor_flow AS root ON root.id = coalesce(flow.root_id, flow.id)
    WHERE flow.id = ?"""


async def fingerprint(db: Db, flow_id: int) -> Fingerprint | None:
    """What changes whenever something happens in the flow."""
    rows = await db.rows(_FINGERPRINT, flow_id, flow_id)
    if not rows:
        return None
    token, gone, status, flow_count, step_count, changed_at = rows[0]
    return Fingerprint(token, bool(gone), status, flow_count, step_count, changed_at or 0.0)


async def tokens(db: Db, flow_ids: Sequence[int]) -> dict[int, str]:
    """The token of each flow that is there."""
    query = "SELECT id, token FROM mbactor_flow WHERE id IN (<ids>)"
    return {row[0]: row[1] for row in await db.rows(query, flow_ids)}
