"""What whoever reads an error may do (pure): said beside what happened, where the error itself cannot know it.

refusal("resume", "running")        # "it asks nothing now: wait until it is interrupted"
hint(error, "pay", budget=20.0)     # "the task, ..., has 20s; set_time_budget('pay', ...) gives it more"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mbactor.durations import text_of
from mbactor.errors import ActorCrashed, BudgetSpent, NoSuchActor, NotAcknowledged, ReducerError
from mbactor.foreman.model.status import TERMINAL

LONGEST_RUN = 900.0
"""Seconds that a run of a task may take at most: as long as any ask. A longer budget is for how long it is offered."""
_REFUSALS: Mapping[tuple[str, str], str] = {
    ("resume", "running"): "it asks nothing now; wait until it is interrupted",
    ("resume", "failed"): "it has failed; recover it, or fork one of its steps to go on from there",
    ("resume", "ended"): "it has ended; fork one of its steps to go on from there",
    ("start", "running"): "it has been started",
    ("start", "interrupted"): "it has been started, and waits for an answer; resume it",
    ("start", "ended"): "it has ended; create another",
    ("cancel", "ended"): "it has ended",
    ("delete", "running"): "cancel it first",
    ("break", "ended"): "it has ended",
    ("resume_break", "running"): "it waits at no breakpoint now; wait until it is interrupted",
    ("resume_break", "ended"): "it has ended; restart it, or fork one of its steps to go on from there",
}


def refusal(verb: str, status: str) -> str:
    """Why a flow of this status does not allow the operation, and what does; empty where there is nothing to add."""
    general = "ended" if status in TERMINAL else status
    return _REFUSALS.get((verb, status)) or _REFUSALS.get((verb, general), "")


def hint(error: BaseException, node: str, budget: float) -> str:
    """What may be done about a step that failed with the error; empty where its own text says it."""
    match error:
        case BudgetSpent() if budget >= LONGEST_RUN:
            more = f", though it has {text_of(budget)}" if budget > LONGEST_RUN else ""
            longest = f"no run of a task takes longer than {text_of(LONGEST_RUN)}{more}"
            return f"{longest}; do it in parts, by several steps or flow.retry"
        case BudgetSpent():
            had = f"the task, with all that it asks, has {text_of(budget)}"
            return f"{had}; set_time_budget({node!r}, ...) gives it more"
        case NoSuchActor() if error.taken != "no":
            return "the task ran and asked for this; run an actor that serves it, on any node"
        case NoSuchActor():
            return "it was offered until its time budget was spent; run an actor that serves it, on any node"
        case ActorCrashed() | NotAcknowledged() if error.taken == "unknown":
            return (
                "how far the task came is not known, so it is not run again unasked; recover does that, by its step_key"
            )
        case ActorCrashed():
            return "an exception that is no MbactorError: its step in the history has the traceback (show --step STEP)"
        case ReducerError() if "reducer" in error.fields and "base_type" not in error.fields:
            return "run a Foreman that knows it, then recover the flow"
        case ReducerError():
            return "what branches wrote does not fit together; set_reducer says how a field is combined"
        case _:
            return ""


def notes(wire: Mapping[str, Any]) -> list[str]:
    """What a recorded error says beside its text: where it happened, and what may be done."""
    place = wire.get("at")
    found = []
    if isinstance(place, Mapping):
        found.append(
            f"flow {place.get('flow')}, step {place.get('step')}: node {place.get('node')!r} ({place.get('task')}),"
            f" run {place.get('run')}"
        )
    if wire.get("hint"):
        found.append(str(wire["hint"]))
    return found
