"""Running steps again, in SQL: in place, in a fork, or in another turn of a thread.

What becomes of the other steps is decided by `model.rewinding`; here it is read and written. The whole tree is locked
meanwhile, and a step that runs again has another lease number, so that nothing a former run brings later lands.
"""

# ruff: noqa: S608 - every statement is put together from constants of this module

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from mbactor.foreman.keys import new_token, new_tokens
from mbactor.foreman.model.rewinding import FlowPlace, Rewound, StepPlace, open_failures, rewind
from mbactor.foreman.parks import parks_reopened
from mbactor.foreman.store.dialect import Insert, Update
from mbactor.foreman.store.operations import Changed, ContinueThread, Created, Fork, Rewind
from mbactor.foreman.store.reads import LATEST
from mbactor.foreman.store.rows import FlowRow, Json, StepRow
from mbactor.foreman.store.schema import FLOW_COLUMNS, STEP_COLUMNS
from mbactor.foreman.store.transaction import Transaction

_FLOWS = """SELECT id, status, caller_id, token, root_id, delete_at, delete_on_completion, concurrency_key
    FROM mbactor_flow
    WHERE id = ? OR root_id = ? ORDER BY id"""

_ROOT = "SELECT coalesce(root_id, id) FROM mbactor_flow WHERE id = ?"

_PLACES = """SELECT id, flow_id, status, predecessor_id, successor_id, spawn_id, ordinal, cohort_id, cohort_size,
    cohort_arrivals, cohort_failures, updated_at, cohort_needed, cancel_reason
    FROM mbactor_step WHERE flow_id IN (<ids>) ORDER BY id"""

_FORGET = """successor_id = NULL, cohort_size = 0, cohort_arrivals = 0, cohort_failures = 0, cohort_depth = 0,
    cohort_needed = 0, cancel_reason = NULL, error = NULL, refused_at = NULL, lease_expires = NULL,
    lease_number = lease_number + 1, worker = NULL"""

_AGAIN = Update(
    "mbactor_step",
    f"""status = :status, state = coalesce(:state, state), chain = CASE WHEN :state IS NULL THEN chain ELSE 0 END,
    changes = NULL, parks = NULL, payloads = NULL, attempt = 0, at_breakpoint = 0, not_before = :not_before,
    created_at = :not_before, started_at = NULL, updated_at = :not_before, {_FORGET}""",
    "id = :id",
    ("status", "state", "not_before", "id"),
)

# A run that completed changed more than stood there when it called: the next begins at the top and writes it anew.
_WAIT = Update(
    "mbactor_step",
    f"""status = 'running', parks = :parks, updated_at = :updated_at,
    changes = CASE WHEN status <> 'completed' THEN changes END, {_FORGET}""",
    "id = :id",
    ("parks", "updated_at", "id"),
)

_COUNT = Update(
    "mbactor_step",
    "cohort_arrivals = :cohort_arrivals, cohort_failures = :cohort_failures",
    "id = :id",
    ("cohort_arrivals", "cohort_failures", "id"),
)

_GO_ON = """UPDATE mbactor_flow SET status = ?, final_state = NULL, error = NULL, cancel_reason = NULL, updated_at = ?
    WHERE id IN (<ids>)"""

_ANEW = "UPDATE mbactor_flow SET created_at = ?, started_at = ? WHERE id = ?"

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

ENDED = frozenset({"completed", "failed", "cancelled"})

_ALLOWED = {
    "restart": (ENDED | {"interrupted"}, "cancel it first, or restart a single step"),
    "restart_from": (
        frozenset({"running", "interrupted", "completed", "failed"}),
        "what was cancelled goes on in a fork of the step",
    ),
    "recover": (frozenset({"failed"}), "restart or fork what has not failed"),
    "retry": (frozenset({"failed"}), "restart or fork what has not failed"),
}


_CALLED_ANOTHER = "its caller was tried again since, and called another flow; take a step of that one, or the caller"


class _Head(msgspec.Struct, frozen=True, gc=False):
    """A row of `_FLOWS`."""

    id: int
    status: str
    caller_id: int | None
    token: str
    root_id: int | None
    delete_at: float | None
    delete_on_completion: int
    concurrency_key: str | None


class _Tree(msgspec.Struct, frozen=True):
    """A tree of flows as it stands, its root first."""

    heads: tuple[_Head, ...]
    steps: dict[int, StepPlace]

    @property
    def root(self) -> _Head:
        return self.heads[0]

    @property
    def gone(self) -> bool:
        """Whether its users have been told that it is not there any more."""
        return bool(self.root.delete_on_completion) and self.root.status == "completed"

    @property
    def queue(self) -> str | None:
        """The concurrency key in whose queue the tree has to wait before it goes on: it has given up its place."""
        return self.root.concurrency_key if self.root.status in ENDED else None

    def rewound(self, step_ids: Collection[int]) -> Rewound:
        flows = [FlowPlace(one.id, one.status, one.caller_id) for one in self.heads]
        found = rewind(flows, self.steps.values(), step_ids)
        return found if self.queue is None else found.as_queued()

    def above(self, flow_id: int) -> list[_Head]:
        """The flow, its caller, that one's, up to the root."""
        heads = {one.id: one for one in self.heads}
        found = [heads[flow_id]]
        while (caller_id := found[-1].caller_id) is not None:
            found.append(heads[self.steps[caller_id].flow_id])
        return found


async def _tree(tx: Transaction, flow_id: int) -> _Tree | None:
    rows = await tx.db.rows(_ROOT, flow_id)
    if not rows:
        return None
    (root_id,) = rows[0]
    heads = tuple(_Head(*row) for row in await tx.db.rows(_FLOWS, root_id, root_id))
    steps = [StepPlace(*row) for row in await tx.db.rows(_PLACES, [one.id for one in heads])]
    return _Tree(heads, {step.id: step for step in steps})


# --- in place ----------------------------------------------------------------------------------------------


async def rewind_flow(tx: Transaction, one: Rewind) -> Changed:
    """Run steps again where they are."""
    tree = await _tree(tx, one.flow_id)
    if tree is None or tree.gone or not await _opens(tx, tree, one):
        return Changed(False, None)
    refused = _refusal(tree, one)
    if refused is not None:
        return refused
    again = _meant(tree, one)
    if not again or not set(one.inputs) <= set(again) or (one.inputs and set(one.inputs) != set(again)):
        return Changed(False, tree.root.status, (), "its steps have changed meanwhile; look at it again")
    rewound = tree.rewound(again)
    parks = await _reopened(tx, rewound.waiting)
    if parks is None:
        return Changed(False, tree.root.status, (), _CALLED_ANOTHER)
    await _write(tx, rewound, one.inputs, parks)
    if tree.queue is not None:
        await tx.db.count("UPDATE mbactor_flow SET queued = 1 WHERE id = ?", tree.root.id)
        tx.keys.add(tree.queue)
    if one.how == "restart":
        await tx.db.count(_ANEW, tx.now, tx.now, tree.root.id)
    return Changed(True, rewound.statuses[tree.root.id], tuple(flow.id for flow in tree.heads))


async def _opens(tx: Transaction, tree: _Tree, one: Rewind) -> bool:
    """Whether who asks has the key to what is named."""
    if one.how != "restart_from":
        return any(head.id == one.flow_id and head.token == one.token for head in tree.heads)
    return await _has_token(tx, one.step_id, one.step_token)


async def _has_token(tx: Transaction, step_id: int, token: str) -> bool:
    rows = await tx.db.rows("SELECT token FROM mbactor_step WHERE id = ?", step_id)
    return bool(rows) and rows[0][0] == token


def _refusal(tree: _Tree, one: Rewind) -> Changed | None:
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


def _meant(tree: _Tree, one: Rewind) -> list[int]:
    """The steps that are to run again."""
    own = [step for step in tree.steps.values() if step.flow_id == tree.root.id]
    match one.how:
        case "restart":
            return [step.id for step in own if step.predecessor_id is None]
        case "restart_from":
            return [one.step_id]
        case "recover":
            return open_failures(own)
        case "retry":
            failed = open_failures(own)
            last = max(failed, key=lambda step_id: (tree.steps[step_id].updated_at, step_id), default=None)
            return [] if last is None else [last]


async def _write(tx: Transaction, rewound: Rewound, inputs: dict[int, Json], parks: dict[int, Json]) -> None:
    if rewound.gone_flows:
        gone = sorted(rewound.gone_flows)
        await tx.db.count("DELETE FROM mbactor_step WHERE flow_id IN (<ids>)", gone)
        await tx.db.count("DELETE FROM mbactor_flow WHERE id IN (<ids>)", gone)
    if rewound.gone_steps:
        await tx.db.count("DELETE FROM mbactor_step WHERE id IN (<ids>)", sorted(rewound.gone_steps))
    if rewound.loose:
        await tx.db.count("UPDATE mbactor_step SET successor_id = NULL WHERE id IN (<ids>)", rewound.loose)
    rows = [(rewound.status_of(step_id), inputs.get(step_id), tx.now, step_id) for step_id in rewound.again]
    await tx.db.update(_AGAIN, rows)
    if parks:
        await tx.db.update(_WAIT, [(data, tx.now, step_id) for step_id, data in sorted(parks.items())])
    if rewound.counts:
        await tx.db.update(_COUNT, [(*counts, spawn_id) for spawn_id, counts in sorted(rewound.counts.items())])
    for status in sorted(set(rewound.statuses.values())):
        flow_ids = sorted(flow_id for flow_id, other in rewound.statuses.items() if other == status)
        await tx.db.count(_GO_ON, status, tx.now, flow_ids)


async def _reopened(tx: Transaction, waiting: dict[int, int]) -> dict[int, Json] | None:
    """The parks of each step that waits again for a flow it called; None where one of them knows that flow no more."""
    if not waiting:
        return {}
    rows = await tx.db.rows("SELECT id, parks FROM mbactor_step WHERE id IN (<ids>)", sorted(waiting))
    query = "SELECT caller_id, id FROM mbactor_flow WHERE caller_id IN (<ids>) ORDER BY id"
    called: dict[int, list[int]] = {}
    for caller_id, flow_id in await tx.db.rows(query, sorted(waiting)):
        called.setdefault(caller_id, []).append(flow_id)
    found: dict[int, Json] = {}
    for step_id, parks in rows:
        reopened = parks_reopened(parks, len(called[step_id]) - called[step_id].index(waiting[step_id]))
        if reopened is None:
            return None
        found[step_id] = reopened
    return found


# --- in a flow of its own ------------------------------------------------------------------------------------


async def fork(tx: Transaction, one: Fork) -> Created | Changed:
    """Copy what a step rests on into a new flow, and have the step run again there."""
    tree = await _tree(tx, one.flow_id)
    if tree is None or tree.gone or one.step_id not in tree.steps:
        return Changed(False, None)
    if not await _has_token(tx, one.step_id, one.step_token):
        return Changed(False, None)
    if tree.root.status not in ENDED:
        return Changed(False, tree.root.status, (), "only what has ended is forked; cancel it first")
    if tree.root.delete_at is not None:
        return Changed(False, tree.root.status, (), "it is about to be removed")
    # What had not ended when the tree was cancelled has stopped there, and nobody waits for it.
    ended = {
        step.id: step if step.status in ENDED else msgspec.structs.replace(step, status="cancelled")
        for step in tree.steps.values()
    }
    rewound = msgspec.structs.replace(tree, steps=ended).rewound([one.step_id])
    parks = await _reopened(tx, rewound.waiting)
    if parks is None:
        return Changed(False, tree.root.status, (), _CALLED_ANOTHER)
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
            own |= {"not_before": self._tx.now, "lease_number": 0}
            if self._one.input is not None and row.id == self._one.step_id:
                own |= {"state": self._one.input, "chain": 0}
        elif row.id in self._rewound.waiting:
            own |= self._forgotten(row) | {"status": "running", "parks": self._parks[row.id]}
            own["changes"] = row.changes if row.status != "completed" else None
        elif row.status not in ENDED:
            own["status"] = "cancelled"
        return msgspec.structs.replace(row, **own)

    def _forgotten(self, row: StepRow) -> dict[str, object]:
        return {
            "successor_id": None, "cohort_size": 0, "cohort_arrivals": 0, "cohort_failures": 0, "cohort_depth": 0,
            "cohort_needed": 0, "cancel_reason": None, "error": None, "refused_at": None,
            "lease_number": row.lease_number + 1, "updated_at": self._tx.now,
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
