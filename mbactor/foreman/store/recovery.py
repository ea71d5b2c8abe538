"""Running steps again where they are, in SQL.

What becomes of the other steps is decided by `model.rewinding`; here it is written. The whole tree is locked meanwhile,
and a step that runs again has another lease number, so that nothing a former run brings later lands.
"""

from __future__ import annotations

import msgspec

from mbactor.foreman.model.rewinding import Rewound, meant
from mbactor.foreman.store.dialect import Update
from mbactor.foreman.store.operations import Changed, Rewind
from mbactor.foreman.store.queueing import not_begun
from mbactor.foreman.store.rows import Json
from mbactor.foreman.store.transaction import Transaction
from mbactor.foreman.store.trees import CALLED_ANOTHER, ENDED, Tree, has_token, reopened, tree_of

_FORGET = """successor_id = NULL, cohort_size = 0, cohort_arrivals = 0, cohort_failures = 0, cohort_depth = 0,
    cohort_needed = 0, cohort_at_once = 0, cancel_reason = NULL, error = NULL, refused_at = NULL, slot = NULL,
    lease_expires = NULL, worker = NULL"""

_AGAIN = Update(
    "mbactor_step",
    f"""status = :status, state = coalesce(:state, state), chain = CASE WHEN :state IS NULL THEN chain ELSE 0 END,
    changes = NULL, parks = NULL, payloads = NULL, attempt = 0, at_breakpoint = 0, not_before = :not_before,
    created_at = :not_before, started_at = NULL, updated_at = :not_before, lease_number = lease_number + 1,
    unused_leases = lease_number + 1, lost_leases = 0, room_id = :room_id, room_ordinal = :room_ordinal, {_FORGET}""",
    "id = :id",
    ("status", "state", "not_before", "room_id", "room_ordinal", "id"),
)

# A run that completed changed more than stood there when it called: the next begins at the top and writes it anew.
_WAIT = Update(
    "mbactor_step",
    f"""status = 'running', parks = :parks, updated_at = :updated_at,
    changes = CASE WHEN status <> 'completed' THEN changes END, lease_number = lease_number + 1,
    unused_leases = unused_leases + 1, {_FORGET}""",
    "id = :id",
    ("parks", "updated_at", "id"),
)

_COUNT = Update(
    "mbactor_step",
    "cohort_arrivals = :cohort_arrivals, cohort_failures = :cohort_failures",
    "id = :id",
    ("cohort_arrivals", "cohort_failures", "id"),
)

# Of a step that has ended this fences nothing: it tells that its cohort is not the one that it was.
_REOPEN = """UPDATE mbactor_step SET lease_number = lease_number + 1, unused_leases = unused_leases + 1
    WHERE id IN (<ids>)"""

_GO_ON = """UPDATE mbactor_flow SET status = ?, final_state = NULL, error = NULL, cancel_reason = NULL, updated_at = ?
    WHERE id IN (<ids>)"""

_ANEW = "UPDATE mbactor_flow SET created_at = ?, started_at = ? WHERE id = ?"

_ALLOWED = {
    "restart": (ENDED | {"interrupted"}, "cancel it first, or restart a single step"),
    "restart_from": (
        frozenset({"running", "interrupted", "completed", "failed"}),
        "what was cancelled goes on in a fork of the step",
    ),
    "recover": (frozenset({"failed"}), "restart or fork what has not failed"),
    "retry": (frozenset({"failed"}), "restart or fork what has not failed"),
}


async def rewind_flow(tx: Transaction, one: Rewind) -> Changed:
    """Run steps again where they are."""
    tree = await tree_of(tx, one.flow_id)
    if tree is None or tree.gone or not await _opens(tx, tree, one):
        return Changed(False, None)
    refused = _refusal(tree, one)
    if refused is not None:
        if refused.status == "created" and not refused.called and tree.root.delete_at is None:
            return msgspec.structs.replace(refused, detail=await not_begun(tx, tree.root.id))
        return refused
    own = [step for step in tree.steps.values() if step.flow_id == tree.root.id]
    again = [one.step_id] if one.how == "restart_from" else meant(one.how, own)
    if not again:
        return Changed(False, tree.root.status, (), "no step of it has failed; restart it, or fork it from a step")
    if one.inputs is not None and one.inputs.keys() != set(again):
        return Changed(False, tree.root.status, (), "its steps have changed meanwhile; look at it again")
    rewound = tree.rewound(again)
    parks = await reopened(tx, rewound.waiting)
    if parks is None:
        return Changed(False, tree.root.status, (), CALLED_ANOTHER)
    await _write(tx, rewound, one.inputs or {}, parks)
    if tree.queue is not None:
        await tx.db.count("UPDATE mbactor_flow SET queued = 1 WHERE id = ?", tree.root.id)
        tx.keys.add(tree.queue)
    if one.how == "restart":
        await tx.db.count(_ANEW, tx.now, tx.now, tree.root.id)
    return Changed(True, rewound.statuses[tree.root.id], tuple(flow.id for flow in tree.heads))


async def _opens(tx: Transaction, tree: Tree, one: Rewind) -> bool:
    """Whether who asks has the key to what is named."""
    if one.how != "restart_from":
        return any(head.id == one.flow_id and head.token == one.token for head in tree.heads)
    return await has_token(tx, one.step_id, one.step_token)


def _refusal(tree: Tree, one: Rewind) -> Changed | None:
    if one.how != "restart_from" and one.flow_id != tree.root.id:
        status = tree.above(one.flow_id)[0].status
        return Changed(False, status, (), "another flow called it; address that one", called=True)
    if tree.root.delete_at is not None:
        return Changed(False, tree.root.status, (), "it is about to be removed")
    allowed, advice = _ALLOWED[one.how]
    if one.how == "restart_from":
        step = tree.steps[one.step_id]
        for head in tree.above(step.flow_id):
            if head.status not in allowed:
                return Changed(False, head.status, (), advice)
        if step.status not in ENDED | {"interrupted"}:
            return Changed(False, tree.root.status, (), f"the step is {step.status} and will run by itself")
    elif tree.root.status not in allowed:
        return Changed(False, tree.root.status, (), advice)
    return None


async def _write(tx: Transaction, rewound: Rewound, inputs: dict[int, Json], parks: dict[int, Json]) -> None:
    if rewound.gone_flows:
        gone = sorted(rewound.gone_flows)
        await tx.db.count("DELETE FROM mbactor_step WHERE flow_id IN (<ids>)", gone)
        await tx.db.count("DELETE FROM mbactor_flow WHERE id IN (<ids>)", gone)
    if rewound.gone_steps:
        await tx.db.count("DELETE FROM mbactor_step WHERE id IN (<ids>)", sorted(rewound.gone_steps))
    rows = [
        (rewound.status_of(step_id), inputs.get(step_id), tx.now, *rewound.held.get(step_id, (None, None)), step_id)
        for step_id in rewound.again
    ]
    await tx.db.update(_AGAIN, rows)
    if parks:
        await tx.db.update(_WAIT, [(data, tx.now, step_id) for step_id, data in sorted(parks.items())])
    if rewound.counts:
        await tx.db.update(_COUNT, [(*counts, spawn_id) for spawn_id, counts in sorted(rewound.counts.items())])
    if rewound.reopened:
        await tx.db.count(_REOPEN, sorted(rewound.reopened))
    for status in sorted(set(rewound.statuses.values())):
        flow_ids = sorted(flow_id for flow_id, other in rewound.statuses.items() if other == status)
        await tx.db.count(_GO_ON, status, tx.now, flow_ids)
