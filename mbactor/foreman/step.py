"""One step's life: load -> execute -> decide -> settle. Everything here but `execute` is pure.

A `Held` is a step in memory with the lease that makes it ours. What a completing step is followed by is inserted in the
same transaction already leased to the same worker and goes on from memory: no claim, no read.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mbactor import errors
from mbactor.errors import ActorStopped, NoSuchActor, Unavailable
from mbactor.foreman.host import Host
from mbactor.foreman.keys import Key, new_token, new_tokens
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.reducers import fold
from mbactor.foreman.model.state import Fields, apply, decode_fields, encode_fields
from mbactor.foreman.model.transition import Node
from mbactor.foreman.parks import decode_parks, parks_waiting, payloads_with
from mbactor.foreman.plan import Plan
from mbactor.foreman.store.store import (
    Arrival,
    Child,
    FlowEnd,
    FlowRow,
    Inserted,
    Json,
    Lease,
    Material,
    NewStep,
    Settle,
    StepRow,
)

SNAPSHOT_CHAIN = 16
"""A small state is written down again after so many steps of deltas."""
SNAPSHOT_SMALL = 4_096
LONGEST_CHAIN = 256
"""However large the state is: reading it back never walks further."""


class Head:
    """What all steps of a flow share. Made once a flow and worker."""

    __slots__ = (
        "baggage",
        "correlation_id",
        "delete_on_completion",
        "graph",
        "id",
        "key",
        "priority",
        "time_budget",
        "trace_parent",
    )

    def __init__(self, shard: int, row: FlowRow, graph: Graph) -> None:
        key = Key(shard, row.id, row.token)
        self.id = row.id
        self.key = str(key)
        self.correlation_id = key.correlation_id
        self.graph = graph
        self.baggage: Mapping[str, Any] = msgspec.json.decode(row.baggage) if row.baggage else {}
        self.priority = row.priority
        self.time_budget = row.time_budget
        self.trace_parent = row.trace_parent
        self.delete_on_completion = bool(row.delete_on_completion)


class Held:
    """A step that this worker has leased. `state` is its input; None until it has been loaded."""

    __slots__ = (
        "attempt", "before", "cancelled", "chain", "cohort_id", "created_at", "depth", "executing", "head", "key",
        "lease_number",
        "material", "node", "ordinal", "parks", "payloads", "refused_for", "spawn_id", "state", "step_id",
        "streak", "weight",
    )  # fmt: skip

    def __init__(self, head: Head, key: str, step_id: int, new: NewStep, state: Fields | None, now: float) -> None:
        self.head = head
        self.key = key
        self.step_id = step_id
        self.lease_number = 1
        self.node = new.node
        self.depth = new.depth
        self.spawn_id = new.spawn_id
        self.ordinal = new.ordinal
        self.cohort_id = new.cohort_id
        self.chain = new.chain
        self.state = state
        self.material: Material | None = None
        self.weight = 0
        """Bytes of deltas since the last snapshot."""
        self.attempt = 0
        self.before: Fields = {}
        self.parks: Json | None = None
        self.payloads: Json | None = None
        self.refused_for = 0.0
        self.created_at = now
        self.streak = 0
        """How many steps in a row were handed on without a claim."""
        self.executing: asyncio.Task[Any] | None = None
        self.cancelled = False

    @classmethod
    def claimed(cls, head: Head, shard: int, row: StepRow, now: float) -> Held:
        """A step as a claim returned it."""
        new = NewStep(
            row.node, row.token, row.depth, row.priority, chain=row.chain, spawn_id=row.spawn_id, ordinal=row.ordinal,
            cohort_id=row.cohort_id if row.state is None else None,
        )  # fmt: skip
        state = None if row.state is None else decode_fields(row.state)
        held = cls(head, str(Key(shard, row.id, row.token)), row.id, new, state, row.created_at)
        held.lease_number = row.lease_number
        held.attempt = row.attempt
        held.before = decode_fields(row.changes) if row.changes is not None else {}
        held.parks = row.parks
        held.payloads = row.payloads
        held.refused_for = now - row.refused_at if row.refused_at is not None else 0.0
        return held


# --- load ----------------------------------------------------------------------------------------------


def load(held: Held, material: Material) -> None:
    """Fold the step's input. ReducerError where branches do not fit together."""
    state = fold_material(material, held.head.graph)
    held.state, held.material = state, None
    held.weight = sum(len(delta) for delta in material.deltas)


def fold_material(material: Material, graph: Graph) -> Fields:
    """The state that the rows amount to."""
    state = decode_fields(material.snapshot)
    for delta in material.deltas:
        state = apply(state, decode_fields(delta))
    if material.cohort is None:
        return state
    return fold(state, [decode_fields(delta) for delta in material.cohort], graph)


def carrier(held: Held) -> Flow:
    """What the task sees."""
    assert held.state is not None
    return Flow(
        held.state,
        held.before,
        flow_key=held.head.key,
        step_key=held.key,
        attempt=held.attempt,
        step_created_at=dt.datetime.fromtimestamp(held.created_at, dt.UTC),
        baggage=held.head.baggage,
        parks=decode_parks(held.parks),
    )


# --- execute -------------------------------------------------------------------------------------------


async def execute(host: Host, held: Held, flow: Flow) -> BaseException | None:
    """Run the task, and give back what it raised. Cancelling the caller goes through; cancelling the step
    (`held.cancelled`) ends the task and nothing else.
    """
    node = held.head.graph.node(held.node)
    held.executing = asyncio.current_task()
    try:
        if node.subgraph:
            call_workflow(node, flow)
        else:
            await host.execute_task(node.url, flow, node.time_budget or held.head.time_budget)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except asyncio.CancelledError as error:
        if not held.cancelled and _being_cancelled():
            raise
        return error
    except BaseException as error:  # the boundary: whatever a task raises is its outcome
        return error
    finally:
        held.executing = None
        if held.cancelled:
            _uncancel()
    return None


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def call_workflow(node: Node, flow: Flow) -> None:
    """The task of a subgraph node: the named fields go into the called flow, and come back from it."""
    snapshot = flow.snapshot()
    names = snapshot if node.inputs is None else node.inputs
    result = flow.subgraph(node.url, {name: snapshot[name] for name in names if name in snapshot})
    for name in result if node.outputs is None else node.outputs:
        if name in result:
            flow[name] = result[name]


def was_refused(error: BaseException | None) -> bool:
    """Whether the task was certainly not taken, so that offering it again repeats nothing."""
    return isinstance(error, (NoSuchActor, Unavailable, ActorStopped)) and error.taken == "no"


def budget_of(held: Held) -> float:
    return held.head.graph.node(held.node).time_budget or held.head.time_budget


# --- settle --------------------------------------------------------------------------------------------


class HandOff(msgspec.Struct, frozen=True, gc=False):
    """How many of the steps that follow this worker may keep, and under which lease."""

    lease: Lease
    limit: int


def postponed(held: Held, pause: float) -> Settle:
    """The task was not taken: the step goes back as it was, due after the pause."""
    return _settle(held, "pending", held.before, delay=pause, refused=True, parks=held.parks)


def settlement(held: Held, plan: Plan, hand_off: HandOff, child: Child | None = None) -> Settle:
    """The write that carries the plan out."""
    match plan.kind:
        case "advance" | "fan_out" | "fan_in":
            return _onward(held, plan, hand_off)
        case "arrive":
            assert held.spawn_id is not None
            lease = hand_off.lease if hand_off.limit and not plan.delay else None
            fan_in = _new(held, plan.fan_in, new_token(), delay=plan.delay, lease=lease)
            return _completed(held, plan, arrival=Arrival(held.spawn_id, held.depth, fan_in=fan_in))
        case "complete":
            final = encode_fields(apply(held.state or {}, plan.changes))
            return _completed(held, plan, end=FlowEnd("completed", final, delete=held.head.delete_on_completion))
        case "fail":
            return failed(held, plan)
        case "retry":
            return _settle(held, "pending", plan.changes, attempt=held.attempt + 1, delay=plan.delay)
        case "park":
            return _parked(held, plan, child)


def failed(held: Held, plan: Plan) -> Settle:
    """The step failed: so did its branch, or on the trunk its flow."""
    error = encode_error(plan.error)
    if held.spawn_id is not None:
        arrival = Arrival(held.spawn_id, held.depth, failed=True)
        return _settle(held, "failed", plan.changes, error=error, arrival=arrival, parks=held.parks)
    end = FlowEnd("failed", error=error)
    return _settle(held, "failed", plan.changes, error=error, end=end, parks=held.parks)


def _parked(held: Held, plan: Plan, child: Child | None) -> Settle:
    assert plan.park is not None
    parks = parks_waiting(decode_parks(held.parks), plan.park)
    if plan.park.kind == "interrupt":
        payloads = payloads_with(held.payloads, bytes(plan.park.payload))
        return _settle(held, "interrupted", plan.changes, parks=parks, payloads=payloads)
    assert child is not None
    return _settle(held, "running", plan.changes, parks=parks, child=child)


def _onward(held: Held, plan: Plan, hand_off: HandOff) -> Settle:
    kept = 0 if plan.delay else hand_off.limit
    if plan.kind == "fan_in":
        lease = hand_off.lease if kept else None
        new = _new(held, plan.fan_in, new_token(), cohort_id=held.step_id, delay=plan.delay, lease=lease, chain=0)
        return _completed(held, plan, successors=(new,))
    if plan.kind == "advance":
        lease = hand_off.lease if kept else None
        live = apply(held.state or {}, plan.changes)
        if not _snapshot_due(held, plan, live):
            new = _new(held, plan.targets[0].node, new_token(), delay=plan.delay, lease=lease)
        else:
            new = _new(
                held,
                plan.targets[0].node,
                new_token(),
                delay=plan.delay,
                lease=lease,
                state=encode_fields(live),
                chain=0,
            )
        return _completed(held, plan, successors=(new,))
    return _branches(held, plan, hand_off.lease, kept)


def _branches(held: Held, plan: Plan, lease: Lease, kept: int) -> Settle:
    # A snapshot is written once, on the spawning step, and not on each of its branches.
    due = held.cohort_id is None and _snapshot_due(held, plan, held.state or {})
    tokens = new_tokens(len(plan.targets))
    successors = tuple(
        _new(
            held, target.node, token, added=encode_fields(target.added) if target.added else None,
            spawn_id=held.step_id, ordinal=ordinal, delay=plan.delay, lease=lease if ordinal < kept else None,
            chain=1 if due else held.chain + 1,
        )
        for ordinal, (target, token) in enumerate(zip(plan.targets, tokens, strict=True))
    )  # fmt: skip
    state = encode_fields(held.state or {}) if due else None
    return _completed(
        held,
        plan,
        successors=successors,
        cohort_size=plan.cohort_size,
        arrivals=plan.arrivals,
        depth=held.depth,
        state=state,
    )


def _snapshot_due(held: Held, plan: Plan, live: Fields) -> bool:
    if held.chain + 1 < SNAPSHOT_CHAIN:
        return False
    if held.chain + 1 >= LONGEST_CHAIN:
        return True
    size = sum(len(raw) + len(name) for name, raw in live.items())
    # A large document that hardly changes is not written down again and again: deltas must have outgrown it.
    return size <= SNAPSHOT_SMALL or held.weight + _weight(plan.changes) >= size


def _weight(changes: Fields) -> int:
    return sum(len(raw) + len(name) for name, raw in changes.items())


def _new(
    held: Held,
    node: str,
    token: str,
    *,
    chain: int | None = None,
    spawn_id: int | None = None,
    ordinal: int | None = None,
    **fields: Any,
) -> NewStep:
    # A step that was folded from a cohort writes its input down when it ends: the chain begins there.
    below = 1 if held.cohort_id is not None else held.chain + 1
    return NewStep(
        node,
        token,
        held.depth + 1,
        held.head.priority,
        chain=below if chain is None else chain,
        spawn_id=held.spawn_id if spawn_id is None else spawn_id,
        ordinal=held.ordinal if ordinal is None else ordinal,
        **fields,
    )


def _completed(held: Held, plan: Plan, **fields: Any) -> Settle:
    error = encode_error(plan.handled) if plan.handled is not None else None
    return _settle(held, "completed", plan.changes, error=error, parks=held.parks, **fields)


def _settle(
    held: Held, status: str, changes: Fields, *, attempt: int | None = None, state: Json | None = None, **fields: Any
) -> Settle:
    if held.cohort_id is not None and held.state is not None:
        state = encode_fields(held.state)
    return Settle(
        held.step_id,
        held.head.id,
        held.lease_number,
        status,
        encode_fields(changes) if changes else None,
        attempt=held.attempt if attempt is None else attempt,
        state=state,
        payloads=fields.pop("payloads", held.payloads),
        **fields,
    )


def successors(held: Held, plan: Plan, inserted: Sequence[Inserted], shard: int, now: float) -> list[Held]:
    """The steps that the write handed to this worker, with their input in memory where it is known."""
    following = []
    for index, (new, step_id) in enumerate((one.step, one.step_id) for one in inserted):
        if new.lease is None:
            continue
        state = None
        if plan.kind in {"advance", "fan_out"} and new.cohort_id is None:
            state = apply(held.state or {}, {**plan.changes, **(plan.targets[index].added or {})})
        key = str(Key(shard, step_id, new.token))
        one = Held(held.head, key, step_id, new, state, now)
        one.weight = 0 if new.chain <= 1 else held.weight + _weight(plan.changes)
        one.streak = held.streak + 1
        following.append(one)
    return following


def encode_error(error: BaseException | None) -> Json | None:
    """The error as it stands in a row: text without control characters, and fields only where they are JSON."""
    if error is None:
        return None
    wire = errors.to_wire(error)
    for name in ("error", "trace"):
        if name in wire:
            wire[name] = printable(str(wire[name]))
    try:
        return msgspec.json.encode(wire)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return msgspec.json.encode({**wire, "fields": {}})


def printable(text: str) -> str:
    """The text with each control character but newline and tab, and each half surrogate, replaced."""
    clean = "".join("\ufffd" if ord(c) < 32 and c not in "\n\t" else c for c in text)
    return clean.encode("utf-8", "replace").decode()
