"""Breakpoints, in SQL: nodes before whose steps a tree of flows pauses.

A root's row lists them. A step of such a node is not handed off but inserted as due, and whoever claims it makes it
wait instead, in the same transaction: no step passes that was inserted after `break_before`.
"""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mbactor.foreman.parks import payloads_with
from mbactor.foreman.store.dialect import Update
from mbactor.foreman.store.flows import go_on, interrupt_tree, tree
from mbactor.foreman.store.operations import BreakBefore, Changed, ResumeBreak
from mbactor.foreman.store.rows import FlowRow, Json, StepRow
from mbactor.foreman.store.transaction import Transaction, nodes_of

WAITS, PASSED = 1, 2
"""What `at_breakpoint` of a step says."""

AGAIN_SOON = 0.05

_PAUSE = Update(
    "mbactor_step",
    f"""status = 'interrupted', at_breakpoint = {WAITS}, payloads = :payloads, lease_expires = NULL, worker = NULL,
    unused_leases = unused_leases + 1, updated_at = :updated_at""",
    "id = :id",
    ("payloads", "updated_at", "id"),
)

_NOT_YET = """UPDATE mbactor_step SET status = 'pending', lease_expires = NULL, worker = NULL, not_before = ?,
    unused_leases = unused_leases + 1, updated_at = ? WHERE id IN (<ids>)"""

_LOCK = "SELECT id FROM mbactor_flow WHERE id IN (<ids>) <skip locked>"

_GO_ON = f"""UPDATE mbactor_step SET status = 'pending', at_breakpoint = {PASSED}, state = coalesce(?, state),
    chain = CASE WHEN ? = 1 THEN 0 ELSE chain END, not_before = ?, updated_at = ?
    WHERE id = ? AND status = 'interrupted' AND at_breakpoint = {WAITS}"""

_OPEN = {"created", "running", "interrupted"}


async def pause(tx: Transaction, steps: Sequence[StepRow], flows: Mapping[int, FlowRow]) -> set[int]:
    """Have those of the claimed steps wait that stand before a breakpoint; their ids.

    `breakpoints` of each flow are those of its root.
    """
    nodes = {flow.id: nodes_of(flow.breakpoints) for flow in flows.values() if flow.breakpoints is not None}
    before = [step for step in steps if step.at_breakpoint == 0 and step.node in nodes.get(step.flow_id, ())]
    if not before:
        return set()
    roots = {step.flow_id: flows[step.flow_id].root_id or step.flow_id for step in before}
    # A claim waits for nobody: where somebody else has the tree just now, the step is claimed a little later.
    locked = {row[0] for row in await tx.db.rows(_LOCK, sorted(set(roots.values())))}
    mine = [step for step in before if roots[step.flow_id] in locked]
    others = [step.id for step in before if roots[step.flow_id] not in locked]
    if others:
        await tx.db.count(_NOT_YET, tx.now + AGAIN_SOON, tx.now, others)
    if mine:
        await tx.db.update(_PAUSE, [(_asked(step), tx.now, step.id) for step in mine])
    for flow_id in sorted({step.flow_id for step in mine}):
        await interrupt_tree(tx, flow_id)
    return {step.id for step in before}


def _asked(step: StepRow) -> Json:
    return payloads_with(step.payloads, msgspec.json.encode({"breakpoint": step.node}))


async def break_before(tx: Transaction, one: BreakBefore) -> Changed:
    """Add a node to those that the tree pauses before, or take it away."""
    refused, flows = await tree(tx, one.flow_id, one.token, _OPEN)
    if refused is not None:
        return refused
    rows = await tx.db.rows("SELECT breakpoints, status FROM mbactor_flow WHERE id = ?", one.flow_id)
    nodes = set(nodes_of(rows[0][0]))
    nodes = nodes | {one.node} if one.on else nodes - {one.node}
    text = msgspec.json.encode(sorted(nodes)) if nodes else None
    await tx.db.count("UPDATE mbactor_flow SET breakpoints = ? WHERE id = ?", text, one.flow_id)
    return Changed(True, rows[0][1], flows)


async def resume_break(tx: Transaction, one: ResumeBreak) -> Changed:
    """Let the step go on."""
    refused, flows = await tree(tx, one.flow_id, one.token, {"interrupted"})
    if refused is not None:
        return refused
    values = (one.input, int(one.input is not None), tx.now, tx.now, one.step_id)
    if not await tx.db.count(_GO_ON, *values):
        detail = "no step of it waits at a breakpoint; an interrupt is answered by resume"
        return Changed(False, "interrupted", flows, detail)
    ((flow_id,),) = await tx.db.rows("SELECT flow_id FROM mbactor_step WHERE id = ?", one.step_id)
    await go_on(tx, flow_id)
    return Changed(True, "running", flows)
