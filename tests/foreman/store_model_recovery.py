"""What runs again, in a store's model: in place, in a fork, in another turn of a thread, behind a breakpoint.

Which steps run again and what goes with them is what `model.rewinding` says: here it is carried out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from mbactor.foreman.model.places import FlowPlace, StepPlace
from mbactor.foreman.model.rewinding import Rewound, meant, rewind
from mbactor.foreman.parks import parks_reopened
from mbactor.foreman.store.operations import (
    BreakBefore,
    Changed,
    ContinueThread,
    Created,
    Fork,
    ResumeBreak,
    Rewind,
)
from mbactor.foreman.store.trees import CALLED_ANOTHER
from tests.foreman.store_model_rows import ENDED, Flow, Rows, Step

ALLOWED = {
    "restart": (*ENDED, "interrupted"),
    "restart_from": ("running", "interrupted", "completed", "failed"),
    "recover": ("failed",),
    "retry": ("failed",),
}
ADVICE = {
    "restart": "cancel it first, or restart a single step",
    "restart_from": "what was cancelled goes on in a fork of the step",
    "recover": "restart or fork what has not failed",
    "retry": "restart or fork what has not failed",
}


def place(step: Step) -> StepPlace:
    return StepPlace(
        step.id, step.flow_id, step.status, step.predecessor_id, step.spawn_id,
        step.ordinal, step.cohort_id, step.cohort_size, step.cohort_arrivals, step.cohort_failures, step.updated_at,
        step.cohort_needed, step.cancel_reason, step.cohort_at_once,
        step.room[0] if step.room and step.status == "created" else None,
    )  # fmt: skip


class Recovery(Rows):
    # --- in place --------------------------------------------------------------------------------------------

    def _rewind(self, one: Rewind) -> Changed:
        root = self._root_if_known(one.flow_id)
        if root is None or not self._opens(one):
            return Changed(False, None)
        refused = self._not_allowed(one, root)
        if refused is not None:
            return refused
        tree = self._tree(root.id)
        again = [one.step_id] if one.how == "restart_from" else meant(one.how, map(place, self._steps_of((root.id,))))
        if not again:
            detail = "no step of it has failed; restart it, or fork it from a step"
            return Changed(False, root.status, (), detail)
        if one.inputs is not None and one.inputs.keys() != set(again):
            return Changed(False, root.status, (), "its steps have changed meanwhile; look at it again")
        queued = root.status in ENDED and root.concurrency_key is not None
        rewound = self._rewound(tree, self._places(tree), again, queued=queued)
        parks = self._reopened(rewound)
        if parks is None:
            return Changed(False, root.status, (), CALLED_ANOTHER)
        self._carry_out(rewound, parks, one.inputs or {})
        if queued:
            root.queued = True
            self._keys.add(root.concurrency_key or "")
        if one.how == "restart":
            root.created_at = self.now
        return Changed(True, root.status, tree)

    def _root_if_known(self, flow_id: int) -> Flow | None:
        flow = self.flows.get(flow_id)
        root = None if flow is None else self.flows[flow.root_id or flow.id]
        return None if root is None or (root.delete_on_completion and root.status == "completed") else root

    def _opens(self, one: Rewind) -> bool:
        if one.how == "restart_from":
            step = self.steps.get(one.step_id)
            return step is not None and step.token == one.step_token
        return self.flows[one.flow_id].token == one.token

    def _not_allowed(self, one: Rewind, root: Flow) -> Changed | None:
        if one.how != "restart_from" and one.flow_id != root.id:
            status = self.flows[one.flow_id].status
            return Changed(False, status, (), "another flow called it; address that one", called=True)
        if root.delete_at is not None:
            return Changed(False, root.status, (), "it is about to be removed")
        looked_at = [root]
        if one.how == "restart_from":
            flow_id = self.steps[one.step_id].flow_id
            looked_at = [self.flows[flow_id], *self._above(flow_id)]
        for flow in looked_at:
            if flow.status not in ALLOWED[one.how]:
                advice = self._not_begun(root) if flow.status == "created" else ADVICE[one.how]
                return Changed(False, flow.status, (), advice)
        if one.how == "restart_from":
            status = self.steps[one.step_id].status
            if status not in (*ENDED, "interrupted"):
                return Changed(False, root.status, (), f"the step is {status} and will run by itself")
        return None

    def _places(self, tree: Sequence[int]) -> list[StepPlace]:
        return [place(step) for step in self._steps_of(tree)]

    def _rewound(
        self, tree: Sequence[int], places: Sequence[StepPlace], again: Sequence[int], *, queued: bool
    ) -> Rewound:
        flows = [FlowPlace(one, self.flows[one].status, self.flows[one].caller_id) for one in tree]
        found = rewind(flows, places, again)
        return found.as_queued() if queued else found

    def _reopened(self, rewound: Rewound) -> dict[int, bytes] | None:
        """The parks of the steps that wait again for flows they called."""
        found: dict[int, bytes] = {}
        for step_id, flow_id in rewound.waiting.items():
            called = sorted(flow.id for flow in self.flows.values() if flow.caller_id == step_id)
            parks = parks_reopened(self.steps[step_id].parks, len(called) - called.index(flow_id))
            if parks is None:
                return None
            found[step_id] = parks
        return found

    def _carry_out(self, rewound: Rewound, parks: dict[int, bytes], inputs: dict[int, bytes]) -> None:
        gone = {step.id for step in self._steps_of(tuple(rewound.gone_flows))} | rewound.gone_steps
        self.steps = {key: step for key, step in self.steps.items() if key not in gone}
        self.flows = {key: flow for key, flow in self.flows.items() if key not in rewound.gone_flows}
        for step_id in rewound.again:
            status, held = rewound.status_of(step_id), rewound.held.get(step_id)
            self._run_again(self.steps[step_id], status, held, inputs.get(step_id))
        for step_id, data in parks.items():
            self._wait_again(self.steps[step_id], data)
        for spawn_id, (arrivals, failures) in rewound.counts.items():
            spawn = self.steps[spawn_id]
            spawn.cohort_arrivals, spawn.cohort_failures = arrivals, failures
        for spawn_id in rewound.reopened:
            self.steps[spawn_id].lease_number += 1
            self.steps[spawn_id].unused_leases += 1
        for flow_id, status in rewound.statuses.items():
            self._reopen(self.flows[flow_id], status)

    def _reopen(self, flow: Flow, status: str) -> None:
        self._move(flow, status)
        flow.final_state = flow.error = flow.cancel_reason = None

    def _run_again(self, step: Step, status: str, held: tuple[int, int] | None, given: bytes | None) -> None:
        self._forget(step)
        step.status, step.room = status, held
        step.changes = step.parks = step.payloads = None
        step.attempt = step.at_breakpoint = 0
        step.not_before = step.updated_at = self.now
        step.lease_number += 1
        step.unused_leases, step.lost_leases = step.lease_number, 0
        if given is not None:
            step.state, step.chain = given, 0

    def _wait_again(self, step: Step, parks: bytes) -> None:
        self._forget(step)
        step.changes = None if step.status == "completed" else step.changes
        step.status, step.parks, step.updated_at = "running", parks, self.now
        step.lease_number += 1
        step.unused_leases += 1

    def _forget(self, step: Step) -> None:
        step.successor_id = step.cancel_reason = step.error = step.lease_expires = step.worker = None
        step.cohort_size = step.cohort_arrivals = step.cohort_failures = step.cohort_depth = step.cohort_needed = 0
        step.cohort_at_once, step.refused, step.slot = 0, False, None

    # --- as another flow -------------------------------------------------------------------------------------

    def _fork(self, one: Fork) -> Created | Changed:
        root, step = self._root_if_known(one.flow_id), self.steps.get(one.step_id)
        if root is None or step is None or step.token != one.step_token:
            return Changed(False, None)
        if root.status not in ENDED:
            return Changed(False, root.status, (), "only what has ended is forked; cancel it first")
        if root.delete_at is not None:
            return Changed(False, root.status, (), "it is about to be removed")
        tree = self._tree(root.id)
        rewound = self._rewound(tree, self._places(tree), [one.step_id], queued=root.concurrency_key is not None)
        parks = self._reopened(rewound)
        if parks is None:
            return Changed(False, root.status, (), CALLED_ANOTHER)
        flows = [self.flows[flow_id] for flow_id in tree if flow_id not in rewound.gone_flows]
        steps = [step for step in self._steps_of([flow.id for flow in flows]) if step.id not in rewound.gone_steps]
        if len(flows) > one.flows or len(steps) > one.steps:
            return Changed(False, root.status, (), "it has changed meanwhile; fork it again")
        made = self._copied(root, flows, sorted(steps, key=lambda step: step.id), one, rewound, parks)
        if root.concurrency_key is not None:
            self._keys.add(root.concurrency_key)
        return made

    def _copied(
        self, root: Flow, flows: list[Flow], steps: list[Step], one: Fork, rewound: Rewound, parks: dict[int, bytes]
    ) -> Created:
        ids = Copies({flow.id: self._next_flow() for flow in flows}, {step.id: self._next_step() for step in steps})
        for flow in flows:
            copy = ids.flow(flow)
            if flow is root:
                copy.thread_id, copy.forked_from = flow.thread_id or flow.id, one.step_id
                copy.created_at, copy.queued = self.now, flow.concurrency_key is not None
            if flow.id in rewound.statuses:
                self._reopen(copy, rewound.statuses[flow.id])
            self.flows[copy.id] = copy
        for step in steps:
            again = ids.step(step)
            if step.id in rewound.counts:
                again.cohort_arrivals, again.cohort_failures = rewound.counts[step.id]
            if step.id in rewound.again:
                given = one.input if step.id == one.step_id else None
                self._run_again(again, rewound.status_of(step.id), ids.branch(rewound.held.get(step.id)), given)
                again.lease_number = again.unused_leases = 1
            elif step.id in rewound.waiting:
                self._wait_again(again, parks[step.id])
            self.steps[again.id] = again
        made = self.flows[ids.flows[root.id]]
        return Created(made.id, made.token, ids.steps[one.step_id], workflow=made.workflow)

    def _continue(self, one: ContinueThread) -> Created | Changed:
        turns = [
            flow
            for flow in self.flows.values()
            if one.anchor_id in {flow.id, flow.thread_id} and flow.root_id is None and flow.forked_from is None
            if flow.delete_at is None and not (flow.delete_on_completion and flow.status == "completed")
        ]
        latest = max(turns, key=lambda flow: flow.id, default=None)
        if latest is None:
            return Changed(False, None)
        if latest.id != one.flow_id or latest.status != "completed":
            return Changed(False, latest.status, (), "the latest flow of its thread has to complete first")
        queued = latest.concurrency_key is not None
        flow = Flow(
            self._next_flow(), one.token, "created" if queued else "running", latest.workflow, created_at=self.now,
            updated_at=self.now, thread_id=one.anchor_id, concurrency_key=latest.concurrency_key,
            concurrency_limit=latest.concurrency_limit, queued=queued, fairness_weight=latest.fairness_weight,
        )  # fmt: skip
        self.flows[flow.id] = flow
        if flow.concurrency_key is not None:
            self._keys.add(flow.concurrency_key)
        entry = self._insert(one.entry, flow.id, None, status=flow.status if queued else "pending")
        return Created(flow.id, flow.token, entry.step_id)

    # --- breakpoints -----------------------------------------------------------------------------------------

    def _break_before(self, one: BreakBefore) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("created", "running", "interrupted"))
        if refused is not None:
            return refused
        flow = self.flows[one.flow_id]
        flow.breakpoints = flow.breakpoints | {one.node} if one.on else flow.breakpoints - {one.node}
        return Changed(True, flow.status, self._tree(flow.id))

    def _pause_before(self, step: Step) -> None:
        asked = [*json.loads(step.payloads or b"[]"), {"breakpoint": step.node}]
        step.status, step.at_breakpoint, step.payloads = "interrupted", 1, json.dumps(asked).encode()
        step.lease_expires = step.worker = None
        step.unused_leases += 1

    def _resume_break(self, one: ResumeBreak) -> Changed:
        refused = self._refused(one.flow_id, one.token, ("interrupted",))
        if refused is not None:
            return refused
        step, tree = self.steps.get(one.step_id), self._tree(one.flow_id)
        if step is None or step.status != "interrupted" or step.at_breakpoint != 1:
            detail = "no step of it waits at a breakpoint; an interrupt is answered by resume"
            return Changed(False, "interrupted", tree, detail)
        step.status, step.at_breakpoint, step.not_before, step.updated_at = "pending", 2, self.now, self.now
        if one.input is not None:
            step.state, step.chain = one.input, 0
        self._go_on(step.flow_id)
        return Changed(True, "running", tree)


class Copies:
    """The ids of a fork by those of what it was made of."""

    def __init__(self, flows: dict[int, int], steps: dict[int, int]) -> None:
        self.flows = flows
        self.steps = steps

    def flow(self, flow: Flow) -> Flow:
        new_id = self.flows[flow.id]
        return replace(
            flow, id=new_id, token=f"fork-of-flow-{new_id}", root_id=self.flows.get(flow.root_id or 0),
            caller_id=self.steps.get(flow.caller_id or 0), idempotency_key=None, breakpoints=frozenset(),
            delete_at=None, delete_on_completion=False,
        )  # fmt: skip

    def step(self, step: Step) -> Step:
        new_id = self.steps[step.id]
        return replace(
            step, id=new_id, token=f"fork-of-step-{new_id}", flow_id=self.flows[step.flow_id], lease_expires=None,
            worker=None, room=None, predecessor_id=self.steps.get(step.predecessor_id or 0),
            successor_id=self.steps.get(step.successor_id or 0), spawn_id=self.steps.get(step.spawn_id or 0),
            cohort_id=self.steps.get(step.cohort_id or 0),
        )  # fmt: skip

    def branch(self, held: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if held is None else (self.steps[held[0]], held[1])
