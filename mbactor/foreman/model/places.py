"""Steps and flows of a tree, as far as their places among the others go (pure).

places = Places(flows, steps)
places.below(step_id)               # all that follows from a step
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from mbactor.foreman.model.status import TERMINAL


class StepPlace(msgspec.Struct, frozen=True, gc=False):
    """A step, as far as its place among the others goes."""

    id: int
    flow_id: int
    status: str
    predecessor_id: int | None = None
    spawn_id: int | None = None
    ordinal: int = 0
    cohort_id: int | None = None
    cohort_size: int = 0
    cohort_arrivals: int = 0
    cohort_failures: int = 0
    updated_at: float = 0.0
    cohort_needed: int = 0
    cancel_reason: str | None = None
    """Why its branch was given up."""
    cohort_at_once: int = 0
    room_id: int | None = None
    """The step whose cohort has to make room before it begins."""


class FlowPlace(msgspec.Struct, frozen=True, gc=False):
    """A flow, as far as its place in the tree goes."""

    id: int
    status: str
    caller_id: int | None = None


class Places:
    """The flows and steps of a tree, and who follows, calls and spawned whom."""

    def __init__(self, flows: Iterable[FlowPlace], steps: Iterable[StepPlace]) -> None:
        self.flows = {flow.id: flow for flow in flows}
        self.steps = {step.id: step for step in steps}
        self.after: defaultdict[int, list[int]] = defaultdict(list)
        self.fan_ins: dict[int, int] = {}
        self.called: defaultdict[int, list[int]] = defaultdict(list)
        self.within: defaultdict[int, list[int]] = defaultdict(list)
        for step in self.steps.values():
            if step.predecessor_id is not None:
                self.after[step.predecessor_id].append(step.id)
            self.within[step.flow_id].append(step.id)
            if step.cohort_id is not None:
                self.fan_ins[step.cohort_id] = step.id
        for flow in self.flows.values():
            if flow.caller_id is not None:
                self.called[flow.caller_id].append(flow.id)

    def below(self, step_id: int) -> set[int]:
        """All that follow a step in its flow."""
        found: set[int] = set()
        todo = [step_id]
        while todo:
            for one in self._following(todo.pop()):
                if one not in found:
                    found.add(one)
                    todo.append(one)
        return found

    def _following(self, step_id: int) -> Iterable[int]:
        yield from self.after[step_id]
        # The fan-in of a cohort has one of its branches before it in the chain, and follows from all.
        for spawn_id in self.around(step_id):
            if spawn_id in self.fan_ins:
                yield self.fan_ins[spawn_id]

    def around(self, step_id: int) -> Iterable[int]:
        """The steps that spawned the cohorts that a step is in, innermost first."""
        spawn_id = self.steps[step_id].spawn_id
        while spawn_id is not None:
            yield spawn_id
            spawn_id = self.steps[spawn_id].spawn_id

    def branches(self, step_id: int) -> Iterable[tuple[int, int]]:
        """(the step that spawned it, the branch) of each cohort that a step is in, innermost first: also of those that
        the callers of its flow are in.
        """
        one = self.steps[step_id]
        while True:
            caller_id = self.flows[one.flow_id].caller_id
            if one.spawn_id is not None:
                yield one.spawn_id, one.ordinal
                one = self.steps[one.spawn_id]
            elif caller_id is not None:
                one = self.steps[caller_id]
            else:
                return

    def under_way(self) -> set[tuple[int, int]]:
        """The branches in which something has begun and not ended."""
        called = {flow.caller_id for flow in self.flows.values() if flow.status not in TERMINAL}
        found: set[tuple[int, int]] = set()
        for one in self.steps.values():
            if one.status in TERMINAL or one.id in called:
                continue
            for branch in self.branches(one.id):
                if branch[0] == one.room_id:
                    break  # it has begun in the cohorts within only
                found.add(branch)
        return found

    def callers(self, step_id: int) -> Iterable[tuple[int, int]]:
        """(step, the flow it called) for each flow above that of a step, nearest first."""
        flow = self.flows[self.steps[step_id].flow_id]
        while flow.caller_id is not None:
            yield flow.caller_id, flow.id
            flow = self.flows[self.steps[flow.caller_id].flow_id]

    def with_called(self, flow_ids: Iterable[int]) -> set[int]:
        """These flows, with all that their steps called."""
        found: set[int] = set()
        todo = list(flow_ids)
        while todo:
            flow_id = todo.pop()
            found.add(flow_id)
            todo += (child for step_id in self.within[flow_id] for child in self.called[step_id])
        return found
