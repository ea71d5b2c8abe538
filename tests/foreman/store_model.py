"""`Model`: what a store must do, on plain objects in memory and without a thought for speed.

    model = Model()
    committed = model.commit([Create(...), Claim(Lease("w", 60.0), 1)])

It takes and gives what `Store.commit` does. Its time passes by a millisecond a batch, and by `skip`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from mbactor.errors import FlowConflict, to_wire
from mbactor.foreman.model.join import ENOUGH, FAILED, NEVER_BEGAN
from mbactor.foreman.store.flows import NOBODY_ASKS
from mbactor.foreman.store.join import CANCELLED
from mbactor.foreman.store.operations import (
    Arrival,
    BreakBefore,
    Cancel,
    Changed,
    Child,
    Claim,
    Committed,
    ContinueThread,
    Create,
    Created,
    Delete,
    DropSchedule,
    Extend,
    FlowEnd,
    Fork,
    Inserted,
    Operation,
    PauseSchedule,
    Purge,
    PutSchedule,
    Reap,
    Recover,
    Release,
    Result,
    Resume,
    ResumeBreak,
    Rewind,
    Settle,
    Settled,
    Start,
    Stopped,
    Tick,
)
from tests.foreman.store_model_leases import Leases
from tests.foreman.store_model_queueing import Queueing
from tests.foreman.store_model_rows import ENDED, KEPT, RESTING, Flow, Step, answered

NEEDED_WAS_CANCELLED = msgspec.json.encode(to_wire(FlowConflict(CANCELLED)))


class Model(Leases, Queueing):
    def skip(self, seconds: float) -> None:
        self.now += seconds

    def commit(self, batch: Sequence[Operation]) -> Committed:
        self.now += 0.001
        self._stopped, self._given_up, self._keys = [], {}, set()
        results: dict[int, Result] = {}
        outcomes = {index: one for index, one in enumerate(batch) if isinstance(one, Settle)}
        results.update(zip(outcomes, self._settle_all(list(outcomes.values())), strict=True))
        for kind, act in self._acts():
            for index, one in enumerate(batch):
                if isinstance(one, kind):
                    results[index] = act(one)
        if any(isinstance(one, Recover) for one in batch):
            self._close_up()
        self._admit()
        in_order = [results[index] for index in range(len(batch))]
        return Committed(in_order, tuple(self._stopped), self._best_due(), self._given_up)

    def _acts(self) -> tuple[tuple[type, Callable[[Any], Result]], ...]:
        return (
            (Create, self._create), (Start, self._start), (Resume, self._resume), (Cancel, self._cancel),
            (Delete, self._delete), (Rewind, self._rewind), (Fork, self._fork), (ContinueThread, self._continue),
            (BreakBefore, self._break_before), (ResumeBreak, self._resume_break), (Purge, self._purge),
            (Reap, self._reap), (PutSchedule, self._put), (DropSchedule, self._drop), (PauseSchedule, self._pause),
            (Tick, self._tick), (Extend, self._extend), (Release, self._release), (Recover, self._recover),
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
        if not one.refused:
            step.slot = None
        if one.status == "running":
            step.lease_number += 1
        step.unused_leases += one.status == "running" or one.refused
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
        arrival, index, step_id = _last(mine)
        goes_on = decided and arrival.fan_in is not None  # else nobody could read which one it is
        failed = [s for s in self._inside(spawn) if s.status == "failed"]
        if spawn.cohort_arrivals < spawn.cohort_size:
            self._give_up(spawn, ENOUGH if goes_on else FAILED)
        if not goes_on and spawn.spawn_id is None:
            error = min(failed, key=lambda s: s.id).error if failed else NEEDED_WAS_CANCELLED
            self._stop(spawn.flow_id, FlowEnd("failed", error=error))
        elif not goes_on:
            around = next((one[0].around for one in reversed(mine) if one[0].around), ())
            fan_in = around[0] if around else None
            return Arrival(spawn.spawn_id or 0, spawn.cohort_depth, True, fan_in, around[1:]), index, step_id
        else:
            assert arrival.fan_in is not None
            fan_in = msgspec.structs.replace(
                arrival.fan_in, depth=spawn.cohort_depth + 1, spawn_id=spawn.spawn_id, ordinal=spawn.ordinal,
                cohort_id=spawn.id,
            )  # fmt: skip
            row = self._insert(fan_in, spawn.flow_id, step_id)
            inserted[index].append(msgspec.structs.replace(row, spawn_lease=spawn.lease_number))
        return None

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
        begins = one.started and one.concurrency_key is None
        flow = Flow(
            self._flow_id, one.token, "running" if begins else "created", one.workflow,
            one.delete_on_completion, one.idempotency_key, created_at=self.now, updated_at=self.now,
            concurrency_key=one.concurrency_key, concurrency_limit=one.concurrency_limit,
            queued=one.started and not begins, fairness_weight=one.fairness_weight,
        )  # fmt: skip
        self.flows[flow.id] = flow
        if flow.queued and flow.concurrency_key is not None:
            self._keys.add(flow.concurrency_key)
        entry = self._insert(one.entry, flow.id, None, status="pending" if begins else "created")
        return Created(flow.id, flow.token, entry.step_id, workflow=flow.workflow)

    def _call(self, child: Child, parent_id: int, caller_id: int) -> Inserted:
        self._flow_id += 1
        root_id = self.flows[parent_id].root_id or parent_id
        self.flows[self._flow_id] = Flow(
            self._flow_id, child.token, "running", child.workflow, root_id=root_id, caller_id=caller_id,
            created_at=self.now, updated_at=self.now, fairness_weight=self.flows[parent_id].fairness_weight,
        )  # fmt: skip
        return self._insert(child.entry, self._flow_id, None)

    def _start(self, one: Start) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("created",))
        if refused is not None:
            return refused
        flow = self.flows[one.flow_id]
        if flow.queued:
            detail = f"it is started already, and waits for a place of {flow.concurrency_key!r}"
            return Changed(False, "created", self._tree(flow.id), detail)
        if flow.concurrency_key is not None:
            flow.queued = True
            self._keys.add(flow.concurrency_key)
            return Changed(True, "created", self._tree(flow.id))
        self._begin(flow)
        return Changed(True, "running", self._tree(flow.id))

    def _resume(self, one: Resume) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("interrupted",))
        if refused is not None:
            return refused
        tree = self._tree(one.flow_id)
        asking = [step for step in self._steps_of(tree) if step.status == "interrupted"]
        waiting = [step for step in asking if step.at_breakpoint != 1]
        if one.step_id is not None:
            waiting = [step for step in waiting if (step.id, step.token) == (one.step_id, one.step_token)]
        if not waiting:
            if asking if one.step_id is None else (one.step_id, one.step_token) in {(s.id, s.token) for s in asking}:
                return Changed(False, "interrupted", tree, "it waits at a breakpoint; resume_break lets it go on")
            return Changed(False, "interrupted", tree, NOBODY_ASKS)
        step = min(waiting, key=lambda step: (step.updated_at, step.id))
        step.status, step.parks = "pending", answered(step.parks, one.answer, None)
        step.not_before = step.updated_at = self.now
        step.worker = None
        self._go_on(step.flow_id)
        return Changed(True, "running", tree)

    def _cancel(self, one: Cancel) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("created", "running", "interrupted"))
        if refused is not None:
            return refused
        self._end_tree(one.flow_id, one.reason or None)
        return Changed(True, "cancelled", self._tree(one.flow_id))

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

    def _best_due(self) -> int | None:
        return min((step.priority for step in self._pending() if step.not_before <= self.now), default=None)


def _last(mine: list[tuple[Arrival, int, int]]) -> tuple[Arrival, int, int]:
    """The arrival whose fan-in counts: the last that completed, else the first that has one."""
    completed = [one for one in mine if not one[0].failed]
    with_one = [one for one in mine if one[0].fan_in is not None]
    return completed[-1] if completed else (with_one or mine[-1:])[0]
