"""`Model`: what a store must do, on plain objects in memory and without a thought for speed.

    model = Model()
    committed = model.commit([Create(...), Claim(Lease("w", 60.0), 1)])

It takes and gives what `Store.commit` does. Its time passes by a millisecond a batch, and by `skip`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mbactor.foreman.model.join import ENOUGH, FAILED, NEVER_BEGAN
from mbactor.foreman.store.operations import (
    Arrival,
    Cancel,
    Changed,
    Child,
    Claim,
    Claimed,
    Committed,
    Create,
    Created,
    Delete,
    Extend,
    FlowEnd,
    Inserted,
    NewStep,
    Operation,
    Purge,
    Reap,
    Recover,
    Release,
    Result,
    Resume,
    Settle,
    Settled,
    Start,
    Stopped,
)

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


class Model:
    def __init__(self) -> None:
        self.now = 0.0
        self.flows: dict[int, Flow] = {}
        self.steps: dict[int, Step] = {}
        self._step_id = 0
        self._flow_id = 0
        self._stopped: list[Stopped] = []
        self._given_up: dict[int, int] = {}

    def skip(self, seconds: float) -> None:
        self.now += seconds

    def commit(self, batch: Sequence[Operation]) -> Committed:
        self.now += 0.001
        self._stopped, self._given_up = [], {}
        results: dict[int, Result] = {}
        outcomes = {index: one for index, one in enumerate(batch) if isinstance(one, Settle)}
        results.update(zip(outcomes, self._settle_all(list(outcomes.values())), strict=True))
        for kind, act in self._acts():
            for index, one in enumerate(batch):
                if isinstance(one, kind):
                    results[index] = act(one)
        in_order = [results[index] for index in range(len(batch))]
        return Committed(in_order, tuple(self._stopped), self._best_due(), self._given_up)

    def _acts(self) -> tuple[tuple[type, Callable[[Any], Result]], ...]:
        return (
            (Create, self._create), (Start, self._start), (Resume, self._resume), (Cancel, self._cancel),
            (Delete, self._delete), (Purge, self._purge), (Reap, self._reap), (Extend, self._extend), (Release, self._release), (Recover, self._recover),
            (Claim, self._claim),
        )  # fmt: skip

    # --- outcomes ------------------------------------------------------------------------------------------

    def _settle_all(self, batch: list[Settle]) -> list[Settled]:
        ids = [[self._next_step() for _ in one.successors] for one in batch]
        landed = [self._lands(one) for one in batch]
        inserted: list[list[Inserted]] = [[] for _ in batch]
        ends: dict[int, FlowEnd] = {}
        arrivals: list[tuple[Arrival, int, int]] = []
        for index, one in enumerate(batch):
            if not landed[index]:
                continue
            for new, step_id in zip(one.successors, ids[index], strict=True):
                inserted[index].append(self._insert(new, one.flow_id, one.step_id, step_id=step_id))
                self.steps[one.step_id].successor_id = ids[index][0]
            if one.status == "interrupted":
                self._interrupt(one.flow_id)
            if one.child is not None:
                inserted[index].append(self._call(one.child, one.flow_id, one.step_id))
            if one.end is not None:
                ends.setdefault(one.flow_id, one.end)
            if one.arrival is not None:
                arrivals.append((one.arrival, index, one.step_id))
        for flow_id, end in ends.items():
            if self._stop(flow_id, end) and end.delete:
                self.flows[flow_id].delete_at = self.now + KEPT
                self._stopped.append(Stopped(flow_id, "deleted"))
        self._join(arrivals, inserted)
        left = [[one for one in rows if one.step_id not in self._given_up] for rows in inserted]
        return [Settled(lands, tuple(rows)) for lands, rows in zip(landed, left, strict=True)]

    def _lands(self, one: Settle) -> bool:
        step = self.steps.get(one.step_id)
        if step is None or step.status != "running" or step.lease_number != one.lease_number:
            return False
        step.status, step.changes, step.error = one.status, one.changes, one.error
        step.parks, step.payloads, step.attempt = one.parks, one.payloads, one.attempt
        step.cohort_size, step.cohort_arrivals, step.cohort_depth = one.cohort_size, one.arrivals, one.depth
        step.not_before, step.updated_at, step.lease_expires = self.now + one.delay, self.now, None
        step.cohort_needed, step.cohort_at_once, step.refused = one.needed, one.at_once, one.refused
        if one.state is not None:
            step.state, step.chain = one.state, 0
        if one.status == "pending":
            step.worker = None
        if one.status == "running":
            step.lease_number += 1
        return True

    def _join(self, arrivals: list[tuple[Arrival, int, int]], inserted: list[list[Inserted]]) -> None:
        """The innermost cohort first; whoever of a batch arrived last at it is the one whose fan-in counts."""
        while arrivals:
            spawn_id = max(arrival.spawn_id for arrival, *_ in arrivals)
            mine = [one for one in arrivals if one[0].spawn_id == spawn_id]
            arrivals = [one for one in arrivals if one[0].spawn_id != spawn_id]
            spawn = self.steps[spawn_id]
            spawn.cohort_depth = max([spawn.cohort_depth, *(arrival.depth for arrival, *_ in mine)])
            spawn.cohort_arrivals += len(mine)
            spawn.cohort_failures += sum(arrival.failed for arrival, *_ in mine)
            failure = self._decide(spawn, mine, inserted)
            if failure is not None:
                arrivals.append(failure)

    def _decided(self, spawn: Step) -> bool | None:
        completed = spawn.cohort_arrivals - spawn.cohort_failures
        needed = spawn.cohort_needed or spawn.cohort_size
        if completed >= needed:
            return True
        hopeless = spawn.cohort_size - spawn.cohort_failures < needed
        if hopeless and (spawn.cohort_needed or spawn.cohort_arrivals == spawn.cohort_size):
            return False
        return None

    def _decide(
        self, spawn: Step, mine: list[tuple[Arrival, int, int]], inserted: list[list[Inserted]]
    ) -> tuple[Arrival, int, int] | None:
        decided = self._decided(spawn)
        if decided is None:
            waiting = [s for s in self.steps.values() if s.status == "created" and s.room and s.room[0] == spawn.id]
            branches = sorted({s.room[1] for s in waiting if s.room})[: len(mine)]
            for step in waiting:
                if step.room and step.room[1] in branches:
                    step.status, step.not_before, step.room = "pending", max(step.not_before, self.now), None
                    step.updated_at = self.now
            return None
        failed = [s for s in self._inside(spawn) if s.status == "failed"]
        if spawn.cohort_arrivals < spawn.cohort_size:
            self._give_up(spawn, ENOUGH if decided else FAILED)
        if not decided and spawn.spawn_id is None:
            self._stop(spawn.flow_id, FlowEnd("failed", error=min(failed, key=lambda s: s.id).error))
        elif not decided:
            _, index, step_id = ([one for one in mine if one[0].fan_in] or mine)[-1]
            return Arrival(spawn.spawn_id or 0, spawn.cohort_depth, failed=True), index, step_id
        else:
            arrival, index, step_id = [one for one in mine if one[0].fan_in is not None][-1]
            new = arrival.fan_in
            assert new is not None
            fan_in = NewStep(
                new.node, new.token, spawn.cohort_depth + 1, new.priority, new.state, new.added, new.chain,
                spawn.spawn_id, spawn.ordinal, spawn.id, new.delay, new.due_at, new.lease,
            )  # fmt: skip
            inserted[index].append(self._insert(fan_in, spawn.flow_id, step_id))
        return None

    def _inside(self, spawn: Step) -> list[Step]:
        own = [step for step in self.steps.values() if step.spawn_id == spawn.id]
        return [*own, *(step for one in own for step in self._inside(one))]

    def _give_up(self, spawn: Step, reason: str) -> None:
        steps, flows = self._inside(spawn), list[Flow]()
        while steps:
            for step in steps:
                if step.status not in ENDED:
                    step.cancel_reason = NEVER_BEGAN[reason] if step.status == "created" else reason
                    step.status, step.lease_expires = "cancelled", None
                    step.updated_at = self.now
                    self._given_up[step.id] = step.flow_id
            called = [
                flow for flow in self.flows.values() if flow.caller_id in {step.id for step in steps}
                if flow.status not in ENDED
            ]  # fmt: skip
            flows += called
            steps = self._steps_of([flow.id for flow in called])
        for flow in flows:
            self._stop(flow.id, FlowEnd("cancelled"), reason)
        if self._given_up:
            self._go_on(spawn.flow_id)

    # --- flows ---------------------------------------------------------------------------------------------

    def _create(self, one: Create) -> Created:
        self._flow_id += 1
        for flow in self.flows.values():
            if one.idempotency_key is not None and flow.idempotency_key == one.idempotency_key:
                return Created(flow.id, flow.token, 0, existed=True, workflow=flow.workflow)
        flow = Flow(
            self._flow_id, one.token, "running" if one.started else "created", one.workflow,
            one.delete_on_completion, one.idempotency_key, created_at=self.now, updated_at=self.now,
        )  # fmt: skip
        self.flows[flow.id] = flow
        entry = self._insert(one.entry, flow.id, None, status="pending" if one.started else "created")
        return Created(flow.id, flow.token, entry.step_id, workflow=flow.workflow)

    def _call(self, child: Child, parent_id: int, caller_id: int) -> Inserted:
        self._flow_id += 1
        root_id = self.flows[parent_id].root_id or parent_id
        self.flows[self._flow_id] = Flow(
            self._flow_id, child.token, "running", child.workflow, root_id=root_id, caller_id=caller_id,
            created_at=self.now, updated_at=self.now,
        )  # fmt: skip
        return self._insert(child.entry, self._flow_id, None)

    def _start(self, one: Start) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("created",))
        if refused is not None:
            return refused
        self._move(self.flows[one.flow_id], "running")
        for step in self._steps_of((one.flow_id,)):
            step.status, step.not_before = "pending", max(step.not_before, self.now)
        return Changed(True, "running", self._tree(one.flow_id))

    def _resume(self, one: Resume) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("interrupted",))
        if refused is not None:
            return refused
        tree = self._tree(one.flow_id)
        waiting = [step for step in self._steps_of(tree) if step.status == "interrupted"]
        if one.step_id is not None:
            waiting = [step for step in waiting if (step.id, step.token) == (one.step_id, one.step_token)]
        if not waiting:
            return Changed(False, "interrupted", tree, "the step waits for no answer")
        step = min(waiting, key=lambda step: (step.updated_at, step.id))
        step.status, step.parks = "pending", _answered(step.parks, one.answer, None)
        step.not_before = step.updated_at = self.now
        step.worker = None
        self._go_on(step.flow_id)
        return Changed(True, "running", tree)

    def _go_on(self, flow_id: int) -> None:
        for flow in [self.flows[flow_id], *self._above(flow_id)]:
            below = [called.status for called in self._called_by(flow.id)]
            own = [step.status for step in self._steps_of((flow.id,))]
            if flow.status == "interrupted" and "interrupted" not in [*below, *own]:
                self._move(flow, "running")

    def _cancel(self, one: Cancel) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("created", "running", "interrupted"))
        if refused is not None:
            return refused
        self._end_tree(one.flow_id, one.reason or None)
        return Changed(True, "cancelled", self._tree(one.flow_id))

    def _end_tree(self, flow_id: int, reason: str | None = None) -> None:
        for step in self._steps_of(self._tree(flow_id)):
            if step.status not in ENDED:
                step.status, step.lease_expires, step.updated_at = "cancelled", None, self.now
        for one in self._tree(flow_id):
            self._stop(one, FlowEnd("cancelled"), reason)

    def _delete(self, one: Delete) -> Changed:
        flow = self._found(one.flow_id, one.token)
        if isinstance(flow, Changed):
            return flow
        if flow.status not in RESTING:
            return Changed(False, flow.status, (), "cancel it first")
        self._mark(flow)
        return Changed(True, "deleted")

    def _mark(self, flow: Flow) -> None:
        if flow.delete_at is None:
            self._end_tree(flow.id)
            flow.delete_at, flow.idempotency_key = self.now, None

    def _purge(self, one: Purge) -> int:
        age = one.wanted.older_than
        resting = [
            flow
            for flow in sorted(self.flows.values(), key=lambda flow: (flow.created_at, flow.id))
            if flow.status in (ENDED if one.ended else RESTING) and one.wanted.status in {None, flow.status}
            if flow.root_id is None and flow.delete_at is None
            if age is None or flow.updated_at < self.now - age
        ]
        for flow in resting[: one.wanted.limit]:
            self._mark(flow)
        return len(resting[: one.wanted.limit])

    def _reap(self, one: Reap) -> int:
        due = [
            (flow.delete_at, flow.id) for flow in self.flows.values() if (flow.delete_at or self.now + 1) <= self.now
        ]
        roots = [flow_id for _, flow_id in sorted(due)][: one.limit]
        for root in roots:
            tree = self._tree(root)
            self.flows = {key: flow for key, flow in self.flows.items() if key not in tree}
            self.steps = {key: step for key, step in self.steps.items() if step.flow_id not in tree}
        return len(roots)

    def _stop(self, flow_id: int, end: FlowEnd, reason: str | None = None) -> bool:
        flow = self.flows[flow_id]
        if flow.status in ENDED:
            return False
        self._move(flow, end.status)
        flow.final_state, flow.error, flow.cancel_reason = end.final_state, end.error, reason
        self._stopped.append(Stopped(flow_id, end.status, flow.token, flow.workflow, None, end.final_state))
        caller = self.steps.get(flow.caller_id) if flow.caller_id is not None else None
        waits = caller is not None and caller.status == "running" and caller.lease_expires is None
        if caller is not None and waits and end.status != "cancelled":
            caller.parks = _answered(caller.parks, end.final_state, end.error)
            caller.status, caller.worker, caller.not_before = "pending", None, self.now
        return True

    def _move(self, flow: Flow, status: str) -> None:
        flow.status, flow.updated_at = status, self.now

    def _interrupt(self, flow_id: int) -> None:
        for flow in [self.flows[flow_id], *self._above(flow_id)]:
            if flow.status == "running":
                self._move(flow, "interrupted")
                self._stopped.append(Stopped(flow.id, "interrupted", flow.token, flow.workflow))

    # --- leases --------------------------------------------------------------------------------------------

    def _extend(self, one: Extend) -> frozenset[int]:
        held = set()
        for step_id, lease_number in one.steps:
            step = self.steps.get(step_id)
            if step is None or (step.status, step.lease_number) != ("running", lease_number):
                continue
            if step.worker == one.lease.worker:
                step.lease_expires = self.now + one.lease.seconds
                held.add(step_id)
        return frozenset(held)

    def _release(self, one: Release) -> int:
        return self._give_back(
            [s for s in self._leased() if s.worker == one.worker and (one.steps is None or s.id in one.steps)]
        )

    def _recover(self, _: Recover) -> int:
        return self._give_back([s for s in self._leased() if (s.lease_expires or 0.0) <= self.now])

    def _leased(self) -> list[Step]:
        return [s for s in self.steps.values() if s.status == "running" and s.lease_expires is not None]

    def _give_back(self, steps: list[Step]) -> int:
        for step in steps:
            step.status, step.lease_expires, step.worker, step.updated_at = "pending", None, None, self.now
        return len(steps)

    def _claim(self, one: Claim) -> Claimed:
        due = [step for step in self._pending() if step.not_before <= self.now]
        taken = sorted(due, key=lambda step: (step.priority, step.not_before, step.id))[: max(0, one.limit)]
        for step in taken:
            step.status, step.worker, step.updated_at = "running", one.lease.worker, self.now
            step.lease_expires, step.lease_number = self.now + one.lease.seconds, step.lease_number + 1
        waits = [max(0.0, step.not_before - self.now) for step in self._pending()]
        rows: Any = tuple(taken)
        flows: Any = {step.flow_id: self.flows[step.flow_id] for step in taken}
        return Claimed(rows, flows, min(waits, default=None), self.now)

    def _best_due(self) -> int | None:
        return min((step.priority for step in self._pending() if step.not_before <= self.now), default=None)

    # --- rows ----------------------------------------------------------------------------------------------

    def _next_step(self) -> int:
        self._step_id += 1
        return self._step_id

    def _insert(
        self, new: NewStep, flow_id: int, predecessor_id: int | None, *, step_id: int = 0, status: str = "pending"
    ) -> Inserted:
        step = Step(
            step_id or self._next_step(), new.token, flow_id, new.node, new.depth, status, new.priority, new.state,
            new.added, new.chain, predecessor_id, new.spawn_id, new.ordinal, new.cohort_id, self.now + new.delay,
            self.now,
        )  # fmt: skip
        if new.waits:
            assert new.spawn_id is not None
            step.status, step.room = "created", (new.spawn_id, new.ordinal)
        elif new.lease is not None:
            step.status, step.worker, step.lease_number = "running", new.lease.worker, 1
            step.lease_expires = self.now + new.lease.seconds
        self.steps[step.id] = step
        return Inserted(new, step.id, flow_id)

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
        return None if flow.status in allowed else Changed(False, flow.status)


def _answered(parks: bytes | None, answer: bytes | None, error: bytes | None) -> bytes:
    records = json.loads(parks or b"[]")
    for record in records:
        if "answer" not in record and "error" not in record:
            record["answer" if error is None else "error"] = json.loads((answer or b"{}") if error is None else error)
            break
    return json.dumps(records).encode()
