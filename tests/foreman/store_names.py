"""What a store calls the flows and steps of a `Model`."""

from __future__ import annotations

from typing import Any

import msgspec

from mbactor.foreman.store.operations import (
    NAMING,
    Arrival,
    ContinueThread,
    Extend,
    Fork,
    NewStep,
    Operation,
    Release,
    Resume,
    ResumeBreak,
    Rewind,
    Settle,
    Tick,
)


class Names:
    """The ids of a store by those of the model, and back. What both have is told by its token; where a store made that
    itself, by its place among what is new.
    """

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}
        self.flows: dict[int, int] = {}
        self.tokens: dict[str, str] = {}
        self.ticks: dict[float, float] = {}

    def theirs(self, operation: Operation) -> Operation:
        """The operation as it is put to the store."""
        found = self._steps_of(operation)
        if isinstance(operation, NAMING):
            found["flow_id"] = self.flows[operation.flow_id]
        if isinstance(operation, ContinueThread):
            found["anchor_id"] = self.flows.get(operation.anchor_id, 0)
        if isinstance(operation, Tick):
            found["last_tick"] = self.ticks.get(operation.last_tick, operation.last_tick)
        for name in ("token", "step_token"):
            token = getattr(operation, name, None)
            if token in self.tokens:
                found[name] = self.tokens[token]
        return msgspec.structs.replace(operation, **found)

    def _steps_of(self, operation: Operation) -> dict[str, Any]:
        match operation:
            case Extend():
                return {"steps": tuple((self.steps[step_id], number) for step_id, number in operation.steps)}
            case Release():
                return {"steps": operation.steps and tuple(self.steps[step_id] for step_id in operation.steps)}
            case Settle():
                return {
                    "step_id": self.steps[operation.step_id],
                    "successors": tuple(self._new(new) for new in operation.successors),
                    "arrival": operation.arrival and self._arrival(operation.arrival),
                }
            case Resume():
                return {"step_id": None if operation.step_id is None else self.steps[operation.step_id]}
            case Rewind():
                inputs = operation.inputs and {self.steps[one]: given for one, given in operation.inputs.items()}
                return {"step_id": self.steps.get(operation.step_id, 0), "inputs": inputs}
            case Fork() | ResumeBreak():
                return {"step_id": self.steps.get(operation.step_id, 0)}
        return {}

    def _arrival(self, arrival: Arrival) -> Arrival:
        fan_in, around = arrival.fan_in and self._new(arrival.fan_in), tuple(map(self._new, arrival.around))
        return msgspec.structs.replace(arrival, spawn_id=self.steps[arrival.spawn_id], fan_in=fan_in, around=around)

    def _new(self, new: NewStep) -> NewStep:
        spawn_id = None if new.spawn_id is None else self.steps[new.spawn_id]
        cohort_id = None if new.cohort_id is None else self.steps[new.cohort_id]
        return msgspec.structs.replace(new, spawn_id=spawn_id, cohort_id=cohort_id)
