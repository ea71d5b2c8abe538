"""What the engine asks of a database: one verb that writes, a few that read.

Every write is an operation, a plain value; `Store.commit` applies a batch of them in one transaction and
gives one result for each. An operation is fenced by what it read (lease number and status), and one whose
fence no longer holds says so in its result: it never fails the batch. `Unstorable` means that an operation
of the batch can never be written (its values are at fault); `StoreTrouble` that nothing was written and the
same batch may be tried again.

Two implementations pass the same contract suite; nothing of a database's dialect shows here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from mbactor.errors import MbactorError

Json = bytes
"""JSON as UTF-8 text."""


class StoreTrouble(MbactorError):
    """The database could not be reached or is busy. Nothing was written; trying again is right."""

    status = 503


class Unstorable(MbactorError):
    """A value of an operation cannot be written. Trying again is pointless. Carries no payload."""

    status = 500


# --- rows ----------------------------------------------------------------------------------------------


class FlowRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `mbactor_flow`, in the order of `schema.FLOW_COLUMNS`."""

    id: int
    token: str
    status: str
    workflow: str
    name: str
    graph: str
    baggage: Json | None
    priority: int
    fairness_key: str
    fairness_weight: float
    time_budget: float
    thread_id: int | None
    root_id: int | None
    caller_id: int | None
    idempotency_key: str | None
    trace_parent: str | None
    delete_on_completion: int
    notify_on_stop: str | None
    final_state: Json | None
    error: Json | None
    cancel_reason: str | None
    created_at: float
    started_at: float | None
    updated_at: float


class StepRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `mbactor_step`, in the order of `schema.STEP_COLUMNS`."""

    id: int
    token: str
    flow_id: int
    node: str
    depth: int
    status: str
    attempt: int
    state: Json | None
    added: Json | None
    changes: Json | None
    chain: int
    predecessor_id: int | None
    successor_id: int | None
    spawn_id: int | None
    ordinal: int
    cohort_id: int | None
    cohort_size: int
    cohort_arrivals: int
    cohort_failures: int
    cohort_depth: int
    parks: Json | None
    payloads: Json | None
    error: Json | None
    priority: int
    not_before: float
    refused_at: float | None
    lease_expires: float | None
    lease_number: int
    worker: str | None
    created_at: float
    started_at: float | None
    updated_at: float


class Material(msgspec.Struct, frozen=True, gc=False):
    """What a step's input is folded from: a snapshot, the deltas after it in order, and, where it is the
    input of a fan-in, the spawning step's own changes and those of the cohort's members in fold order.
    """

    snapshot: Json
    deltas: tuple[Json, ...] = ()
    cohort: tuple[Json, ...] | None = None


# --- operations ------------------------------------------------------------------------------------------


class Lease(msgspec.Struct, frozen=True, gc=False):
    """Who takes a step, and for how many seconds."""

    worker: str
    seconds: float


class NewStep(msgspec.Struct, frozen=True, gc=False):
    """A step to insert. The flow and the predecessor follow from the operation that carries it."""

    node: str
    token: str
    depth: int
    priority: int
    state: Json | None = None
    added: Json | None = None
    chain: int = 0
    spawn_id: int | None = None
    ordinal: int = 0
    cohort_id: int | None = None
    delay: float = 0.0
    due_at: float | None = None
    lease: Lease | None = None
    """With a lease it is inserted running (handed off); without, pending."""


class Create(msgspec.Struct, frozen=True, gc=False):
    """A new flow with its entry step. The result is a `Created`."""

    token: str
    workflow: str
    name: str
    graph_hash: str
    graph: Json
    entry: NewStep
    started: bool = True
    baggage: Json | None = None
    priority: int = 100
    fairness_key: str = ""
    fairness_weight: float = 1.0
    time_budget: float = 20.0
    thread_id: int | None = None
    idempotency_key: str | None = None
    trace_parent: str | None = None
    delete_on_completion: bool = False
    notify_on_stop: str | None = None


class Child(msgspec.Struct, frozen=True, gc=False):
    """The flow that a step calls and waits for: inserted while the step is parked as waiting."""

    token: str
    workflow: str
    name: str
    graph_hash: str
    graph: Json
    entry: NewStep


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A branch reached the end of its fan-out. The last one in inserts `fan_in`, or fails the branch above."""

    spawn_id: int
    depth: int
    failed: bool = False
    fan_in: NewStep | None = None


class FlowEnd(msgspec.Struct, frozen=True, gc=False):
    """The flow comes to rest with this step."""

    status: str
    final_state: Json | None = None
    error: Json | None = None
    delete: bool = False


class Settle(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one run of a step, fenced by its lease. The result is a `Settled`."""

    step_id: int
    flow_id: int
    lease_number: int
    status: str
    changes: Json | None
    state: Json | None = None
    """The input, written down as a snapshot."""
    error: Json | None = None
    parks: Json | None = None
    payloads: Json | None = None
    """The questions of its interrupts, the one that waits last."""
    attempt: int = 0
    delay: float = 0.0
    refused: bool = False
    """The task was certainly not taken: the step goes back as it was, and the time of the first refusal is noted."""
    cohort_size: int = 0
    arrivals: int = 0
    depth: int = 0
    successors: tuple[NewStep, ...] = ()
    arrival: Arrival | None = None
    end: FlowEnd | None = None
    child: Child | None = None


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Lease up to `limit` due steps, best priority first, oldest first. The result is a `Claimed`."""

    lease: Lease
    limit: int


class Extend(msgspec.Struct, frozen=True, gc=False):
    """Extend the leases of steps that run. The result is the set of step ids still held."""

    lease: Lease
    steps: tuple[tuple[int, int], ...]
    """(step id, lease number)"""


class Release(msgspec.Struct, frozen=True, gc=False):
    """Give back what a worker holds, at once: these steps, or all. The result is the number of steps."""

    worker: str
    steps: tuple[int, ...] | None = None


class Recover(msgspec.Struct, frozen=True, gc=False):
    """Give back what is leased beyond its time. The result is the number of steps."""


class Start(msgspec.Struct, frozen=True, gc=False):
    """Start a flow that was created unstarted. The result is a `Changed`."""

    flow_id: int
    token: str


class Resume(msgspec.Struct, frozen=True, gc=False):
    """Answer an interrupt: that of `step_id`, else the earliest. The result is a `Changed`."""

    flow_id: int
    token: str
    answer: Json
    step_id: int | None = None
    step_token: str | None = None


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """End a flow that has not ended, and all its steps. The result is a `Changed`."""

    flow_id: int
    token: str
    reason: str = ""


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove a flow that rests, with all its steps. The result is a `Changed`."""

    flow_id: int
    token: str


Operation = Settle | Create | Start | Resume | Cancel | Delete | Claim | Extend | Release | Recover


# --- results ---------------------------------------------------------------------------------------------


class Created(msgspec.Struct, frozen=True, gc=False):
    """The flow's key material. `existed`: the idempotency key named a flow that was there already."""

    flow_id: int
    token: str
    step_id: int
    existed: bool = False
    workflow: str = ""
    now: float = 0.0


class Inserted(msgspec.Struct, frozen=True, gc=False):
    """A step that the batch inserted for this operation, in the order of its `successors`, a fan-in last."""

    step: NewStep
    step_id: int
    flow_id: int


class Stopped(msgspec.Struct, frozen=True, gc=False):
    """A flow came to rest in this batch; status "deleted" says that it is gone."""

    flow_id: int
    status: str
    token: str = ""
    workflow: str = ""
    notify_on_stop: str | None = None
    final_state: Json | None = None


class Settled(msgspec.Struct, frozen=True, gc=False):
    """`landed` False: the lease was lost, and nothing of the operation was written."""

    landed: bool
    inserted: tuple[Inserted, ...] = ()
    now: float = 0.0


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """The leased steps in order, their flows by id, and the seconds until the next step is due (None: none is)."""

    steps: tuple[StepRow, ...]
    flows: dict[int, FlowRow]
    next_due: float | None
    now: float


class Changed(msgspec.Struct, frozen=True, gc=False):
    """What an operation on a flow did. `status` is the flow's, after it, or as it was where it was refused; None says
    that there is no such flow.
    """

    done: bool
    status: str | None
    flows: tuple[int, ...] = ()
    detail: str = ""
    called: bool = False
    """Refused because another flow called this one."""


Result = Created | Settled | Claimed | Changed | frozenset[int] | int


class Committed(msgspec.Struct, frozen=True, gc=False):
    """A committed batch: a result for each operation. `best_due` is the best priority that is due and unclaimed."""

    results: list[Result]
    stopped: tuple[Stopped, ...]
    """The flows that came to rest in this batch."""
    best_due: int | None


class FlowFilter(msgspec.Struct, frozen=True, gc=False):
    """Which flows `Store.flows` lists: newest first, ids below `before`."""

    status: str | None = None
    workflow: str | None = None
    limit: int = 100
    before: int | None = None


class Store(Protocol):
    """A shard's database. Used from one event loop. Every method may raise `StoreTrouble`."""

    shard: int

    async def commit(self, batch: Sequence[Operation]) -> Committed:
        """Apply the batch in one durable transaction, or nothing of it (`StoreTrouble`, `Unstorable`)."""
        ...

    async def graph(self, graph_hash: str) -> Json | None:
        """The frozen graph's JSON."""
        ...

    async def flow(self, flow_id: int) -> FlowRow | None: ...

    async def flows(self, wanted: FlowFilter) -> list[FlowRow]: ...

    async def statuses(self, flow_ids: Sequence[int]) -> dict[int, str]:
        """The status of each of these flows; one that is not there is absent."""
        ...

    async def step(self, step_id: int) -> StepRow | None: ...

    async def nodes_at(self, flow_ids: Sequence[int]) -> dict[int, str]:
        """The node of each flow that is at exactly one."""
        ...

    async def steps(self, flow_id: int) -> list[StepRow]:
        """All steps of a flow, by depth and id."""
        ...

    async def materials(self, step_ids: Sequence[int]) -> dict[int, Material]:
        """What the inputs of these steps are folded from; a step that is gone is absent."""
        ...

    async def cohort(self, spawn_id: int) -> Material | None:
        """What the fold of a cohort is made of, whether or not it is complete."""
        ...

    async def interrupted(self, flow_id: int) -> list[StepRow]:
        """The steps of the flow, and of the flows it called, that wait for an answer, earliest first."""
        ...

    async def called(self, flow_id: int) -> list[FlowRow]:
        """The flows that steps of this flow called."""
        ...

    async def close(self) -> None:
        """Finish what is under way and close. Idempotent."""
