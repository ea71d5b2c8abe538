"""Going on in a flow of its own, in SQL: a fork from a step of a tree that has ended, or another turn of a thread."""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mbactor.foreman.keys import new_token, new_tokens
from mbactor.foreman.model.rewinding import Rewound
from mbactor.foreman.store.dialect import Insert
from mbactor.foreman.store.operations import Changed, ContinueThread, Created, Fork
from mbactor.foreman.store.reads import LATEST
from mbactor.foreman.store.rows import FlowRow, Json, StepRow
from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS
from mbactor.foreman.store.transaction import Transaction
from mbactor.foreman.store.trees import CALLED_ANOTHER, ENDED, has_token, reopened, tree_of

_STEPS = f"SELECT {', '.join(STEP_COLUMNS)} FROM mbactor_step WHERE flow_id IN (<ids>) ORDER BY id"
_ROWS = f"SELECT {', '.join(FLOW_COLUMNS)} FROM mbactor_flow WHERE id IN (<ids>) ORDER BY id"
_INSERT_STEPS = Insert("mbactor_step", STEP_COLUMNS)
_INSERT_FLOWS = Insert("mbactor_flow", FLOW_COLUMNS)

# A turn of a thread lives by the policy of the one before.
_INSERT_TURN = """INSERT INTO mbactor_flow (id, token, status, workflow, name, graph, thread_id, baggage, priority,
    fairness_key, fairness_weight, time_budget, trace_parent, delete_on_completion, notify_on_stop, concurrency_key,
    concurrency_limit, queued, created_at, started_at, updated_at)
    SELECT ?, ?, CASE WHEN concurrency_key IS NULL THEN 'running' ELSE 'created' END, workflow, name, graph, ?, baggage,
    priority, fairness_key, fairness_weight, time_budget, ?, 0, notify_on_stop, concurrency_key, concurrency_limit,
    CASE WHEN concurrency_key IS NULL THEN 0 ELSE 1 END, ?, ?, ? FROM mbactor_flow WHERE id = ?
    RETURNING concurrency_key"""


async def fork(tx: Transaction, one: Fork) -> Created | Changed:
    """Copy what a step rests on into a new flow, and have the step run again there."""
    tree = await tree_of(tx, one.flow_id)
    if tree is None or tree.gone or one.step_id not in tree.steps:
        return Changed(False, None)
    if not await has_token(tx, one.step_id, one.step_token):
        return Changed(False, None)
    if tree.root.status not in ENDED:
        return Changed(False, tree.root.status, (), "only what has ended is forked; cancel it first")
    if tree.root.delete_at is not None:
        return Changed(False, tree.root.status, (), "it is about to be removed")
    rewound = tree.rewound([one.step_id])
    parks = await reopened(tx, rewound.waiting)
    if parks is None:
        return Changed(False, tree.root.status, (), CALLED_ANOTHER)
    copy = _Copy(tx, one, rewound, parks)
    flow_ids = [head.id for head in tree.heads if head.id not in rewound.gone_flows]
    flows = [FlowRow(*row) for row in await tx.db.rows(_ROWS, flow_ids)]
    steps = [StepRow(*row) for row in await tx.db.rows(_STEPS, flow_ids) if row[0] not in rewound.gone_steps]
    if len(flows) > one.flows or len(steps) > one.steps:
        return Changed(False, tree.root.status, (), "it has changed meanwhile; fork it again")
    copy.number(flows, steps)
    await tx.db.insert(_INSERT_FLOWS, [msgspec.structs.astuple(copy.flow(row)) for row in flows])
    await tx.db.insert(_INSERT_STEPS, [msgspec.structs.astuple(copy.step(row)) for row in steps])
    if tree.queue is not None:
        tx.keys.add(tree.queue)
    root = copy.flow(flows[0])
    return Created(root.id, root.token, copy.steps[one.step_id], workflow=root.workflow, now=tx.now)


class _Copy:
    """The rows of a fork: the same flows and steps under new ids and tokens."""

    def __init__(self, tx: Transaction, one: Fork, rewound: Rewound, parks: dict[int, Json]) -> None:
        self._tx = tx
        self._one = one
        self._rewound = rewound
        self._parks = parks
        self.steps: dict[int, int] = {}
        self._flows: dict[int, int] = {}
        self._tokens: dict[int, str] = {}

    def number(self, flows: Sequence[FlowRow], steps: Sequence[StepRow]) -> None:
        """Give new ids in the order of the old ones: a younger step stays the younger one."""
        self._flows = {row.id: self._tx.flow_id() for row in flows}
        self.steps = {row.id: self._tx.step_id() for row in steps}
        self._tokens = dict(zip(self._flows, new_tokens(len(self._flows)), strict=True))

    def flow(self, row: FlowRow) -> FlowRow:
        own = {"id": self._flows[row.id], "token": self._tokens[row.id], "idempotency_key": None, "breakpoints": None}
        own |= {"delete_on_completion": 0, "delete_at": None}
        if row.root_id is None:
            own |= {"thread_id": row.thread_id or row.id, "forked_from": self._one.step_id}
            own |= {"created_at": self._tx.now, "started_at": self._tx.now, "trace_parent": self._one.trace_parent}
            own |= {"queued": int(row.concurrency_key is not None)}
        else:
            assert row.caller_id is not None
            own |= {"root_id": self._flows[row.root_id], "caller_id": self.steps[row.caller_id]}
        if row.id in self._rewound.statuses:
            own |= {"status": self._rewound.statuses[row.id], "updated_at": self._tx.now}
            own |= {"final_state": None, "error": None, "cancel_reason": None}
        return msgspec.structs.replace(row, **own)

    def step(self, row: StepRow) -> StepRow:
        own: dict[str, object] = {
            name: None if (old := getattr(row, name)) is None else self.steps.get(old)
            for name in ("id", "predecessor_id", "successor_id", "spawn_id", "cohort_id")
        }
        own |= {"token": new_token(), "flow_id": self._flows[row.flow_id], "lease_expires": None, "worker": None}
        own |= {"room_id": None, "room_ordinal": None}
        if row.id in self._rewound.counts:
            own["cohort_arrivals"], own["cohort_failures"] = self._rewound.counts[row.id]
        if row.id in self._rewound.again:
            own |= self._forgotten(row) | {
                "status": self._rewound.status_of(row.id),
                "changes": None,
                "parks": None,
                "payloads": None,
            }
            own |= {"attempt": 0, "at_breakpoint": 0, "created_at": self._tx.now, "started_at": None}
            own |= {"not_before": self._tx.now, "lease_number": 1, "unused_leases": 1, "lost_leases": 0}
            if row.id in self._rewound.held:
                spawn_id, ordinal = self._rewound.held[row.id]
                own |= {"room_id": self.steps[spawn_id], "room_ordinal": ordinal}
            if self._one.input is not None and row.id == self._one.step_id:
                own |= {"state": self._one.input, "chain": 0}
        elif row.id in self._rewound.waiting:
            own |= self._forgotten(row) | {"status": "running", "parks": self._parks[row.id]}
            own["changes"] = row.changes if row.status != "completed" else None
        return msgspec.structs.replace(row, **own)

    def _forgotten(self, row: StepRow) -> dict[str, object]:
        return {
            "successor_id": None, "cohort_size": 0, "cohort_arrivals": 0, "cohort_failures": 0, "cohort_depth": 0,
            "cohort_needed": 0, "cohort_at_once": 0, "cancel_reason": None, "error": None, "refused_at": None,
            "slot": None, "lease_number": row.lease_number + 1,
            "unused_leases": row.unused_leases + 1, "updated_at": self._tx.now,
        }  # fmt: skip


async def continue_thread(tx: Transaction, one: ContinueThread) -> Created | Changed:
    """Another flow of the thread, if the latest is still the one that its state was made of."""
    rows = await tx.db.rows(LATEST, one.anchor_id, one.anchor_id)
    if not rows:
        return Changed(False, None)
    latest_id, status = rows[0]
    if latest_id != one.flow_id or status != "completed":
        return Changed(False, status, (), "the latest flow of its thread has to complete first")
    flow_id, now = tx.flow_id(), tx.now
    values = (flow_id, one.token, one.anchor_id, one.trace_parent, now, now, now, latest_id)
    ((key,),) = await tx.db.rows(_INSERT_TURN, *values)
    if key is not None:
        tx.keys.add(key)
    entry = tx.insert(one.entry, flow_id, None, "pending" if key is None else "created")
    return Created(flow_id, one.token, entry.step_id, now=now)
