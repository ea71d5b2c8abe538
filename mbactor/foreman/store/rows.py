"""Rows of the store's tables as values, and which of them are asked for."""

from __future__ import annotations

import msgspec

Json = bytes
"""JSON as UTF-8 text."""


class FlowRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `mbactor_flow`, in the order of `schema.FLOW_COLUMNS`."""

    id: int
    priority: int
    fairness_weight: float
    time_budget: float
    thread_id: int | None
    root_id: int | None
    caller_id: int | None
    created_at: float
    started_at: float | None
    delete_at: float | None
    forked_from: int | None
    concurrency_limit: int | None
    delete_on_completion: int
    queued: int
    token: str
    workflow: str
    name: str
    graph: str
    baggage: Json | None
    fairness_key: str
    idempotency_key: str | None
    trace_parent: str | None
    notify_on_stop: str | None
    breakpoints: Json | None
    concurrency_key: str | None
    updated_at: float
    status: str
    final_state: Json | None
    error: Json | None
    cancel_reason: str | None


class StepRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `mbactor_step`, in the order of `schema.STEP_COLUMNS`."""

    id: int
    flow_id: int
    predecessor_id: int | None
    spawn_id: int | None
    cohort_id: int | None
    room_id: int | None
    priority: int
    not_before: float
    refused_at: float | None
    lease_expires: float | None
    created_at: float
    started_at: float | None
    slot: float | None
    depth: int
    attempt: int
    chain: int
    ordinal: int
    cohort_size: int
    cohort_arrivals: int
    cohort_failures: int
    cohort_depth: int
    cohort_needed: int
    cohort_at_once: int
    room_ordinal: int | None
    lease_number: int
    unused_leases: int
    lost_leases: int
    at_breakpoint: int
    token: str
    node: str
    state: Json | None
    added: Json | None
    parks: Json | None
    payloads: Json | None
    error: Json | None
    worker: str | None
    fairness_key: str
    rate: str
    cancel_reason: str | None
    successor_id: int | None
    updated_at: float
    status: str
    changes: Json | None


class ScheduleRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `mbactor_schedule`, with what there is of its last flow."""

    name: str
    spec: Json
    paused: int
    last_tick: float
    flow_id: int | None = None
    """The flow that it made last, its token and status, as long as that is kept."""
    flow_token: str | None = None
    flow_status: str | None = None


class FlowFilter(msgspec.Struct, frozen=True, gc=False):
    """Which flows a list or a purge is about: all that is given has to hold. Ages are in seconds."""

    status: str | None = None
    workflow: str | None = None
    thread_id: int | None = None
    node: str | None = None
    fairness_key: str | None = None
    concurrency_key: str | None = None
    priority: int | None = None
    older_than: float | None = None
    newer_than: float | None = None
    search: str | None = None
    subflows: bool = False
    limit: int = 100
    before: tuple[float, int] | None = None
    """(creation, id) that they are below."""
    shard: int = 1
    """Part of the keys that a search looks at."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How far a flow has come: steps that are over, of those known, and the one node it is at, or has failed at."""

    node: str
    done: int
    known: int


class Places(msgspec.Struct, frozen=True, gc=False):
    """Who has the places of a concurrency key: how many flows have begun, and the id and token of the first of them."""

    taken: int
    by: tuple[tuple[int, str], ...]


class Fingerprint(msgspec.Struct, frozen=True, gc=False):
    """What changes whenever something happens in a flow or in one that it called."""

    token: str
    gone: bool
    status: str
    flows: int
    steps: int
    changed_at: float


class Material(msgspec.Struct, frozen=True, gc=False):
    """What a step's input is folded from: a snapshot, the deltas after it in order, and, where it is the
    input of a fan-in, the spawning step's own changes and those of the cohort's members in fold order.
    """

    snapshot: Json
    deltas: tuple[Json, ...] = ()
    cohort: tuple[Json, ...] | None = None
    spawn: str = ""
    """The node that spawned the cohort."""
    spawn_wrote: bool = False
    """Whether the first of the cohort's deltas is that of the spawning step."""
