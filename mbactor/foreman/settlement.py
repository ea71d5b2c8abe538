"""From a plan to a write: what a step's end puts into the database, and what follows from memory. Pure.

A step row holds what its task changed. The state itself is written down only now and then: so a large document that is
carried along is stored once, and reading an input back stays short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from mbactor import errors
from mbactor.foreman.cohort import Branch, Cohort
from mbactor.foreman.keys import key_text, new_token, new_tokens
from mbactor.foreman.model.advice import hint
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.state import Fields, apply, encode_fields
from mbactor.foreman.parks import decode_parks, parks_waiting, payloads_with
from mbactor.foreman.plan import Plan
from mbactor.foreman.step import Held, budget_of, rate_of, run_of
from mbactor.foreman.store.operations import Arrival, Child, FlowEnd, Inserted, Lease, NewStep, Settle
from mbactor.foreman.store.rows import Json, StepRow

SNAPSHOT_CHAIN = 16
"""A small state is written down again after so many steps of deltas."""
SNAPSHOT_SMALL = 4_096
LONGEST_CHAIN = 256
"""However large the state is: reading it back never walks further."""


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
            graph = held.head.graph
            end = graph.branch_end(held.node)
            around = tuple(_new(held, name, new_token()) for name in end.fan_ins[1:]) if len(end.fan_ins) > 1 else ()
            waits_for_all = graph.join_of(plan.fan_in).needed == "all"
            arrival = Arrival(
                held.spawn_id, held.depth, fan_in=fan_in, around=around, makes_room=end.makes_room,
                waits_for_all=waits_for_all,
            )  # fmt: skip
            return _completed(held, plan, arrival=arrival)
        case "complete":
            final = encode_fields(_live(held, plan))
            return _completed(held, plan, end=FlowEnd("completed", final, delete=held.head.delete_on_completion))
        case "fail":
            return failed(held, plan)
        case "retry":
            return _settle(held, "pending", plan.changes, attempt=held.attempt + 1, delay=plan.delay)
        case "park":
            return _parked(held, plan, child)


def failed(held: Held, plan: Plan) -> Settle:
    """The step failed: so did its branch, or on the trunk its flow."""
    error = encode_error(plan.error, held)
    if held.spawn_id is not None:
        arrival = _failed_arrival(held.spawn_id, held.depth, held.node, held.head.graph, partial(_new, held))
        return _settle(held, "failed", plan.changes, error=error, arrival=arrival, parks=held.parks)
    end = FlowEnd("failed", error=error)
    return _settle(held, "failed", plan.changes, error=error, end=end, parks=held.parks)


def _failed_arrival(spawn_id: int, depth: int, node: str, graph: Graph, new: Callable[[str, str], NewStep]) -> Arrival:
    end = graph.branch_end(node)
    fan_ins = tuple(new(name, new_token()) for name in end.fan_ins)
    return Arrival(spawn_id, depth, True, fan_ins[0] if fan_ins else None, fan_ins[1:], end.makes_room)


def unreadable(row: StepRow, shard: int, graph: Graph | None, error: BaseException) -> Settle:
    """The failure of a step whose row cannot be read, or whose flow's: what it holds stays as it is. `graph` is None
    where that cannot be read either; then its fan-in is not known, and what would go on there fails.
    """
    task = graph.url_of(row.node) if graph is not None and graph.has_node(row.node) else ""
    place = {
        "flow": f"{shard}-{row.flow_id}", "step": f"{shard}-{row.id}", "node": row.node, "task": task,
        "run": run_of(row),
    }  # fmt: skip
    told = _encoded(errors.to_wire(error) | {"at": place})
    arrival, end = None, None
    if row.spawn_id is None:
        end = FlowEnd("failed", error=told)
    elif graph is None:
        arrival = Arrival(row.spawn_id, row.depth, failed=True)
    else:
        arrival = _failed_arrival(row.spawn_id, row.depth, row.node, graph, partial(_beside, row, graph))
    return Settle(
        row.id, row.flow_id, row.lease_number, "failed", row.changes, error=told, parks=row.parks,
        payloads=row.payloads, attempt=row.attempt, depth=row.depth, arrival=arrival, end=end,
    )  # fmt: skip


def _beside(row: StepRow, graph: Graph, node: str, token: str) -> NewStep:
    """A fan-in that others may have made due. Where it is in the graph of steps the cohort's own row says."""
    rate = rate_of(graph, node)
    return NewStep(node, token, row.depth + 1, row.priority, chain=1, fairness_key=row.fairness_key, rate=rate)


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
        state, chain = None, None
        if held.chain + 1 >= SNAPSHOT_CHAIN and _snapshot_pays(held, plan, live := _live(held, plan)):
            state, chain = encode_fields(live), 0
        new = _new(
            held, plan.targets[0].node, new_token(), state=state, chain=chain, delay=plan.delay, lease=lease
        )  # fmt: skip
        return _completed(held, plan, successors=(new,))
    return _branches(held, plan, hand_off.lease, kept)


def _branches(held: Held, plan: Plan, lease: Lease, kept: int) -> Settle:
    # A snapshot is written once, on the spawning step, and not on each of its branches.
    due = held.cohort_id is None and held.chain + 1 >= SNAPSHOT_CHAIN and _snapshot_pays(held, plan, held.state or {})
    head = held.head
    tokens = new_tokens(len(plan.targets))
    at_once = len(plan.targets) if plan.at_once is None else plan.at_once
    handed_on = min(kept, at_once)
    depth, chain = held.depth + 1, 1 if due else held.chain + 1
    rates = {node: rate_of(head.graph, node) for node in {target.node for target in plan.targets}}
    successors = tuple(
        NewStep(
            target.node, token, depth, head.priority, None, encode_fields(target.added) if target.added else None,
            chain, held.step_id, ordinal, None, plan.delay, None, lease if ordinal < handed_on else None,
            ordinal >= at_once, head.fairness_key, rates[target.node],
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
        needed=plan.needed,
        at_once=plan.at_once or 0,
        depth=held.depth,
        state=state,
    )


def _live(held: Held, plan: Plan) -> Fields:
    """The state that the step leaves."""
    return apply(held.state or {}, plan.changes)


def _snapshot_pays(held: Held, plan: Plan, live: Fields) -> bool:
    """Whether a state whose chain of deltas is long is to be written down again."""
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
    state: Json | None = None,
    chain: int | None = None,
    cohort_id: int | None = None,
    delay: float = 0.0,
    lease: Lease | None = None,
) -> NewStep:
    """The step that follows, in the branch of this one."""
    head = held.head
    if chain is None:
        # A step that was folded from a cohort writes its input down when it ends: the chain begins there.
        chain = 1 if held.cohort_id is not None else held.chain + 1
    return NewStep(
        node, token, held.depth + 1, head.priority, state, None, chain, held.spawn_id, held.ordinal, cohort_id, delay,
        None, lease, False, head.fairness_key, rate_of(head.graph, node),
    )  # fmt: skip


def _completed(held: Held, plan: Plan, *, state: Json | None = None, **fields: Any) -> Settle:
    error = encode_error(plan.handled, held) if plan.handled is not None else None
    changes = encode_fields(plan.changes) if plan.changes else None
    return Settle(
        held.step_id, held.head.id, held.lease_number, "completed", changes, _snapshot(held, state), error, held.parks,
        held.payloads, held.attempt, root_id=held.head.root_id, **fields,
    )  # fmt: skip


def _settle(held: Held, status: str, changes: Fields, *, attempt: int | None = None, **fields: Any) -> Settle:
    return Settle(
        held.step_id,
        held.head.id,
        held.lease_number,
        status,
        encode_fields(changes) if changes else None,
        attempt=held.attempt if attempt is None else attempt,
        state=_snapshot(held, None),
        payloads=fields.pop("payloads", held.payloads),
        root_id=held.head.root_id,
        **fields,
    )


def _snapshot(held: Held, state: Json | None) -> Json | None:
    """What is written down as its input: that of a fan-in always is."""
    return encode_fields(held.state) if held.cohort_id is not None and held.state is not None else state


def successors(held: Held, plan: Plan, inserted: Sequence[Inserted], shard: int, now: float) -> list[Held]:
    """The steps that the write handed to this worker, with their input in memory where it is known."""
    following: list[Held] = []
    weight = _weight(plan.changes) if plan.changes else 0
    branch, met = None, None
    if held.branch is not None or plan.kind != "advance":
        branch, met = _branch_after(held, plan, inserted, weight)
    for index, row in enumerate(inserted):
        new, step_id = row.step, row.step_id
        if new.lease is None:
            continue
        state = None
        if plan.kind in {"advance", "fan_out"} and new.cohort_id is None:
            added = plan.targets[index].added
            changes = {**plan.changes, **added} if added and plan.changes else added or plan.changes
            # Nobody changes a state: what nothing was written to is the same one.
            state = apply(held.state or {}, changes) if changes else held.state or {}
        one = Held(held.head, key_text(shard, step_id, new.token), step_id, new, state, now)
        if new.chain > 1:
            one.weight = held.weight + weight
        one.streak, one.claimed_at = held.streak + 1, held.claimed_at
        if branch is not None:
            one.branch = branch
        if met is not None:
            one.material = met
        following.append(one)
    return following


def _branch_after(
    held: Held, plan: Plan, inserted: Sequence[Inserted], weight: int
) -> tuple[Branch | None, Cohort | None]:
    """Where what follows is in a cohort, and the cohort that it is the fan-in of, as far as both are in memory."""
    match plan.kind:
        case "advance" if held.branch is not None:
            return held.branch.after((plan.changes,), weight) if weight else held.branch, None
        case "fan_out" if not plan.needed and all(row.step.lease is not None for row in inserted):
            return Branch(_cohort(held, plan)), None
        case "fan_in":
            cohort = _cohort(held, plan)
            return cohort.beyond(), cohort
        case "arrive" if held.branch is not None:
            cohort = held.branch.cohort
            end = held.branch.after((plan.changes,), weight) if weight else held.branch
            if end is not None:
                cohort.arrived(held.ordinal, end)
            if inserted and cohort.is_whole(inserted[-1].spawn_lease):
                return cohort.beyond(), cohort
    return None, None


def _cohort(held: Held, plan: Plan) -> Cohort:
    return Cohort(
        held.node, held.state or {}, plan.changes, branches=len(plan.targets), lease_number=held.lease_number,
        weight=held.weight, around=held.branch,
    )  # fmt: skip


def encode_error(error: BaseException | None, held: Held) -> Json | None:
    """The error of a step as it stands in a row: text without control characters, and fields only where they are JSON;
    with the place where it happened, and what may be done.
    """
    if error is None:
        return None
    return _encoded(errors.to_wire(error) | _around(error, held))


def _encoded(wire: dict[str, Any]) -> Json:
    for name in ("error", "trace"):
        if name in wire:
            wire[name] = printable(str(wire[name]))
    try:
        return msgspec.json.encode(wire)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return msgspec.json.encode({**wire, "fields": {}})


def _around(error: BaseException, held: Held) -> dict[str, Any]:
    graph, known = held.head.graph, held.head.graph.has_node(held.node)
    place = {
        "flow": held.head.key.rpartition("-")[0],
        "step": held.key.rpartition("-")[0],
        "node": held.node,
        "task": graph.url_of(held.node) if known else "",
        "run": held.run,
    }
    more = hint(error, held.node, budget_of(held)) if known else ""
    return {"at": place, "hint": more} if more else {"at": place}


def printable(text: str) -> str:
    """The text with each control character but newline and tab, and each half surrogate, replaced."""
    clean = "".join("\ufffd" if ord(c) < 32 and c not in "\n\t" else c for c in text)
    return clean.encode("utf-8", "replace").decode()
