"""The rows of a store's model, and what is done to them by more than one operation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mbactor.foreman.store.operations import Changed, FlowEnd, Inserted, NewStep, Stopped

ENDED = ("completed", "failed", "cancelled")
KEPT = 60.0
"""How long the row of a disposable flow stays."""
RESTING = (*ENDED, "interrupted", "created")


@dataclass
class Flow:
    id: int
    token: str
    status: str
    workflow: str
    delete_on_completion: bool = False
    idempotency_key: str | None = None
    root_id: int | None = None
    caller_id: int | None = None
    final_state: bytes | None = None
    error: bytes | None = None
    cancel_reason: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    delete_at: float | None = None
    thread_id: int | None = None
    forked_from: int | None = None
    breakpoints: frozenset[str] = frozenset()
    """Nodes; those of a tree are its root's."""
    concurrency_key: str | None = None
    concurrency_limit: int = 1
    queued: bool = False
    fairness_weight: float = 1.0


@dataclass
class Step:
    id: int
    token: str
    flow_id: int
    node: str
    depth: int
    status: str
    priority: int
    state: bytes | None
    added: bytes | None
    chain: int
    predecessor_id: int | None
    spawn_id: int | None
    ordinal: int
    cohort_id: int | None
    not_before: float
    updated_at: float
    lease_expires: float | None = None
    lease_number: int = 0
    unused_leases: int = 0
    lost_leases: int = 0
    worker: str | None = None
    successor_id: int | None = None
    cohort_size: int = 0
    cohort_arrivals: int = 0
    cohort_failures: int = 0
    cohort_depth: int = 0
    cohort_needed: int = 0
    cohort_at_once: int = 0
    room: tuple[int, int] | None = None
    """The step whose cohort has to make room before it begins, and its branch there."""
    attempt: int = 0
    changes: bytes | None = None
    parks: bytes | None = None
    payloads: bytes | None = None
    error: bytes | None = None
    refused: bool = False
    cancel_reason: str | None = None
    at_breakpoint: int = 0
    """1: it waits there; 2: it has been let go on."""
    fairness_key: str = ""
    rate: str = ""
    slot: float | None = None
    """When it may be started, as its rate gave it."""


@dataclass
class Schedule:
    spec: bytes
    last_tick: float
    paused: bool = False


class Rows:
    """The tables, and the time. What a batch comes to is gathered meanwhile."""

    def __init__(self) -> None:
        self.now = 0.0
        self.flows: dict[int, Flow] = {}
        self.steps: dict[int, Step] = {}
        self.schedules: dict[str, Schedule] = {}
        self.rates: dict[str, float] = {}
        """Up to when starts have been given out, by task."""
        self._step_id = 0
        self._flow_id = 0
        self._stopped: list[Stopped] = []
        self._given_up: dict[int, int] = {}
        self._keys: set[str] = set()
        """Concurrency keys of which a flow came or went."""

    # --- what becomes of flows -------------------------------------------------------------------------------

    def _stop(self, flow_id: int, end: FlowEnd, reason: str | None = None) -> bool:
        flow = self.flows[flow_id]
        if flow.status in ENDED:
            return False
        self._move(flow, end.status)
        if flow.concurrency_key is not None:
            self._keys.add(flow.concurrency_key)
        flow.final_state, flow.error, flow.cancel_reason = end.final_state, end.error, reason
        self._stopped.append(Stopped(flow_id, end.status, flow.token, flow.workflow, None, end.final_state))
        caller = self.steps.get(flow.caller_id) if flow.caller_id is not None else None
        waits = caller is not None and caller.status == "running" and caller.lease_expires is None
        if caller is not None and waits and end.status != "cancelled":
            caller.parks = answered(caller.parks, end.final_state, end.error)
            caller.status, caller.worker, caller.not_before = "pending", None, self.now
        return True

    def _move(self, flow: Flow, status: str) -> None:
        flow.status, flow.updated_at = status, self.now

    def _interrupt(self, flow_id: int) -> None:
        for flow in [self.flows[flow_id], *self._above(flow_id)]:
            if flow.status == "running":
                self._move(flow, "interrupted")
                self._stopped.append(Stopped(flow.id, "interrupted", flow.token, flow.workflow))

    def _go_on(self, flow_id: int) -> None:
        for flow in [self.flows[flow_id], *self._above(flow_id)]:
            below = [called.status for called in self._called_by(flow.id)]
            own = [step.status for step in self._steps_of((flow.id,))]
            if flow.status == "interrupted" and "interrupted" not in [*below, *own]:
                self._move(flow, "running")

    def _end_tree(self, flow_id: int, reason: str | None = None) -> None:
        for step in self._steps_of(self._tree(flow_id)):
            if step.status not in ENDED:
                step.status, step.lease_expires, step.updated_at = "cancelled", None, self.now
        for one in self._tree(flow_id):
            self._stop(one, FlowEnd("cancelled"), reason)

    # --- rows ----------------------------------------------------------------------------------------------

    def _next_flow(self) -> int:
        self._flow_id += 1
        return self._flow_id

    def _next_step(self) -> int:
        self._step_id += 1
        return self._step_id

    def _inside(self, spawn: Step) -> list[Step]:
        own = [step for step in self.steps.values() if step.spawn_id == spawn.id]
        return [*own, *(step for one in own for step in self._inside(one))]

    def _insert(
        self, new: NewStep, flow_id: int, predecessor_id: int | None, *, step_id: int = 0, status: str = "pending"
    ) -> Inserted:
        step = Step(
            step_id or self._next_step(), new.token, flow_id, new.node, new.depth, status, new.priority, new.state,
            new.added, new.chain, predecessor_id, new.spawn_id, new.ordinal, new.cohort_id, self.now + new.delay,
            self.now, fairness_key=new.fairness_key, rate=new.rate,
        )  # fmt: skip
        if new.lease is not None and (new.rate or new.node in self._breakpoints(flow_id)):
            new = msgspec.structs.replace(new, lease=None)  # a claim looks at it
        if new.waits:
            assert new.spawn_id is not None
            step.status, step.room = "created", (new.spawn_id, new.ordinal)
        elif new.lease is not None:
            step.status, step.worker, step.lease_number = "running", new.lease.worker, 1
            step.lease_expires = self.now + new.lease.seconds
        self.steps[step.id] = step
        return Inserted(new, step.id, flow_id)

    def _breakpoints(self, flow_id: int) -> frozenset[str]:
        return self.flows[self.flows[flow_id].root_id or flow_id].breakpoints

    def _pending(self) -> list[Step]:
        return [step for step in self.steps.values() if step.status == "pending"]

    def _steps_of(self, flow_ids: Sequence[int]) -> list[Step]:
        return [step for step in self.steps.values() if step.flow_id in flow_ids]

    def _tree(self, flow_id: int) -> tuple[int, ...]:
        return tuple(sorted(flow.id for flow in self.flows.values() if flow_id in {flow.id, flow.root_id}))

    def _above(self, flow_id: int) -> list[Flow]:
        caller_id = self.flows[flow_id].caller_id
        if caller_id is None:
            return []
        parent = self.flows[self.steps[caller_id].flow_id]
        return [parent, *self._above(parent.id)]

    def _called_by(self, flow_id: int) -> list[Flow]:
        callers = {step.id for step in self._steps_of((flow_id,))}
        return [flow for flow in self.flows.values() if flow.caller_id in callers]

    def _found(self, flow_id: int, token: str) -> Flow | Changed:
        flow = self.flows.get(flow_id)
        if flow is None or flow.token != token or (flow.delete_on_completion and flow.status == "completed"):
            return Changed(False, None)
        if flow.caller_id is not None:
            return Changed(False, flow.status, (), "another flow called it; address that one", called=True)
        return flow

    def _refused(self, flow_id: int, token: str, allowed: Sequence[str]) -> Changed | None:
        flow = self._found(flow_id, token)
        if isinstance(flow, Changed):
            return flow
        if flow.delete_at is not None:
            return Changed(False, flow.status, (), "it is about to be removed")
        if flow.status in allowed:
            return None
        return Changed(False, flow.status, (), self._not_begun(flow) if flow.status == "created" else "")

    def _not_begun(self, flow: Flow) -> str:
        return (
            f"it waits for a place of {flow.concurrency_key!r}, and begins by itself"
            if flow.queued
            else "start it first"
        )


def answered(parks: bytes | None, answer: bytes | None, error: bytes | None) -> bytes:
    records = json.loads(parks or b"[]")
    for record in records:
        if "answer" not in record and "error" not in record:
            record["answer" if error is None else "error"] = json.loads((answer or b"{}") if error is None else error)
            break
    return json.dumps(records).encode()
