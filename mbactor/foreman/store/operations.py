"""What can be done to a store, as plain values, and what each comes back with.

    created = await committer.commit(Create(...))

An operation is fenced by what it read (lease number and status), and one whose fence no longer holds says so in its
result: it never fails its batch.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mbactor.foreman.model.outcome import DEFAULT_TIME_BUDGET
from mbactor.foreman.model.rewinding import RewindKind
from mbactor.foreman.store.rows import FlowFilter, FlowRow, Json, StepRow


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
    waits: bool = False
    """It is inserted created: a branch that arrives releases it."""
    fairness_key: str = ""
    rate: str = ""
    """How often its task may be started, and its URL, as `100/s https://...`; empty: as often as it comes."""


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
    time_budget: float = DEFAULT_TIME_BUDGET
    thread_id: int | None = None
    idempotency_key: str | None = None
    trace_parent: str | None = None
    delete_on_completion: bool = False
    notify_on_stop: str | None = None
    concurrency_key: str | None = None
    concurrency_limit: int = 1


class Child(msgspec.Struct, frozen=True, gc=False):
    """The flow that a step calls and waits for: inserted while the step is parked as waiting."""

    token: str
    workflow: str
    name: str
    graph_hash: str
    graph: Json
    entry: NewStep


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A branch reached the end of its fan-out. The last one in inserts `fan_in`, or fails the branch above.

    One that failed has a `fan_in` too: where others are enough, since it ran again, nobody else will bring it.
    """

    spawn_id: int
    depth: int
    failed: bool = False
    fan_in: NewStep | None = None
    around: tuple[NewStep, ...] = ()
    """The fan-ins of the cohorts around its own, innermost first: where it makes its own fail, it arrives there."""
    makes_room: bool = True
    """Whether branches of its cohort may wait for it to begin."""
    waits_for_all: bool = True
    """Whether its fan-in waits for all branches, as far as is known: what says no costs more, a wrong yes twice."""


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
    needed: int = 0
    """So many branches of its cohort must complete; 0: all, whatever fails meanwhile."""
    at_once: int = 0
    """So many of them may be under way; 0: all."""
    depth: int = 0
    successors: tuple[NewStep, ...] = ()
    arrival: Arrival | None = None
    end: FlowEnd | None = None
    child: Child | None = None
    root_id: int | None = None
    """The root of the tree that its flow is in, where another flow called it."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Lease up to `limit` due steps: best priority first, shared by fairness keys, oldest first. A `Claimed`."""

    lease: Lease
    limit: int
    ageing: float | None = None
    """Seconds for which a step has waited that count as much as a priority better by 1."""
    after: str = ""
    """The fairness key behind which to begin, where there are very many."""


class Extend(msgspec.Struct, frozen=True, gc=False):
    """Extend the leases of steps that run. The result is the set of step ids still held."""

    lease: Lease
    steps: tuple[tuple[int, int], ...]
    """(step id, lease number)"""


class Release(msgspec.Struct, frozen=True, gc=False):
    """Give back what a worker holds, at once: these steps, which it has not begun, or all. The result is the number of
    steps.
    """

    worker: str
    steps: tuple[int, ...] | None = None


class Recover(msgspec.Struct, frozen=True, gc=False):
    """Give back what is leased beyond its time. The result is the number of steps.

    `set_back`: the database's clock may have been set back. Then what was due before is due, and no lease is longer
    than when it was taken.
    """

    set_back: bool = False


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
    """Mark a flow that rests for removal, and end it where it has not ended. The result is a `Changed`."""

    flow_id: int
    token: str


class Purge(msgspec.Struct, frozen=True, gc=False):
    """Mark the oldest flows that rest and that `wanted` is about, at most its limit. The result is how many."""

    wanted: FlowFilter
    ended: bool = False
    """Only those that have ended."""


class Reap(msgspec.Struct, frozen=True, gc=False):
    """Remove up to `limit` flows that are marked, with all their steps. The result is how many."""

    limit: int


class Enrol(msgspec.Struct, frozen=True, gc=False):
    """Put shards on the roll, which shard 1 keeps, or (`changing`) give them another state. The result is the roll."""

    states: dict[int, str]
    changing: bool = False


class AddShard(msgspec.Struct, frozen=True, gc=False):
    """Put a shard on the roll, open to new flows. The result is the roll; empty where its number is taken."""

    number: int


class Rewind(msgspec.Struct, frozen=True, gc=False):
    """Run steps of a flow again, in place. The result is a `Changed`.

    Each step that spawned a cohort around one of them gets another lease number, which tells whoever remembers what the
    branches wrote that this may not hold any more.

    restart_from: the step that is named. The others: see `model.rewinding.meant`.
    """

    how: RewindKind | Literal["restart_from"]
    flow_id: int
    token: str = ""
    step_id: int = 0
    step_token: str = ""
    inputs: dict[int, Json] | None = None
    """Step -> its input, where it is to have another than before. Then the steps must still be exactly these."""


class Fork(msgspec.Struct, frozen=True, gc=False):
    """A new flow that goes on from a step of one that has ended. The result is a `Created` or a `Changed`."""

    flow_id: int
    step_id: int
    step_token: str
    steps: int
    flows: int
    """How many rows it may insert."""
    input: Json | None = None
    trace_parent: str | None = None


class ContinueThread(msgspec.Struct, frozen=True, gc=False):
    """A new flow of a thread, after its latest has completed. The result is a `Created` or a `Changed`."""

    flow_id: int
    """The latest, of which the entry's state has been made."""
    anchor_id: int
    """The flow that the thread began with; it may be gone."""
    token: str
    entry: NewStep
    trace_parent: str | None = None


class BreakBefore(msgspec.Struct, frozen=True, gc=False):
    """Have a flow, and those it calls, pause before steps of a node, or no longer. The result is a `Changed`."""

    flow_id: int
    token: str
    node: str
    on: bool


class ResumeBreak(msgspec.Struct, frozen=True, gc=False):
    """Let a step go on that waits at a breakpoint. The result is a `Changed`."""

    flow_id: int
    token: str
    step_id: int
    input: Json | None = None


class PutSchedule(msgspec.Struct, frozen=True, gc=False):
    """Write what a schedule is to be. The result is 1 where that is new."""

    name: str
    spec: Json


class DropSchedule(msgspec.Struct, frozen=True, gc=False):
    """Forget a schedule. The result is 0 where there is none."""

    name: str


class PauseSchedule(msgspec.Struct, frozen=True, gc=False):
    """Pause a schedule, or let it go on. The result is 0 where there is none."""

    name: str
    paused: bool


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Move a schedule from its last tick to this one, with the flow that it makes. A `Created` or a `Changed`."""

    name: str
    spec: Json
    last_tick: float
    tick: float
    create: Create | None = None


NAMING = (Settle, Start, Resume, Cancel, Delete, Rewind, Fork, ContinueThread, BreakBefore, ResumeBreak)
"""The operations that are about a flow which they name."""

Operation = (
    Settle | Create | Start | Resume | Cancel | Delete | Claim | Extend | Release | Recover | Purge | Reap | Enrol
    | AddShard | Rewind | Fork | ContinueThread | BreakBefore | ResumeBreak | PutSchedule | DropSchedule | PauseSchedule
    | Tick
)  # fmt: skip


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
    spawn_lease: int = 0
    """Of a fan-in: the lease number of the step that spawned its cohort. It is another one than when that step ended
    once any branch has been made to run again: see `Rewind`.
    """


class Stopped(msgspec.Struct, frozen=True, gc=False):
    """A flow came to rest in this batch; status "deleted" says that it is gone."""

    flow_id: int
    status: str
    token: str = ""
    workflow: str = ""
    notify_on_stop: str | None = None
    final_state: Json | None = None
    error: Json | None = None


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
    after: str = ""
    """For the next claim: the last fairness key that was looked at, where not all were."""


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


Result = Created | Settled | Claimed | Changed | frozenset[int] | int | dict[int, str]


class Committed(msgspec.Struct, frozen=True, gc=False):
    """A committed batch: a result for each operation. `best_due` is the best priority that is due and unclaimed."""

    results: list[Result]
    stopped: tuple[Stopped, ...]
    """The flows that came to rest in this batch."""
    best_due: int | None
    given_up: dict[int, int] = {}
    """Step -> flow, of steps whose fan-in went on, or failed, without them: what runs of them need not any more."""
