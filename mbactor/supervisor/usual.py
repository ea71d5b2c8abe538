"""The usual restart, decided at a look, of which many may come at once.

    decided = usual(spec, state, event)  # or None: it is for `policy.decide` to say, step by step

A child of a `one_for_one` supervisor that is at nothing else ends by itself; no backoff delays its restart, and the
budget bears it. Then it is started, and that was all there was to do. The policy would come to the same by its general
steps, which a test holds this to; most of them have nothing to do here.
"""

from __future__ import annotations

from msgspec.structs import replace

from mbactor.supervisor import rules
from mbactor.supervisor.spec import SupervisorSpec
from mbactor.supervisor.state import Action, Event, Exited, Job, Operation, Restarting, Start, Started, State

Decided = tuple[State, tuple[Action, ...]]


def usual(spec: SupervisorSpec, state: State, event: Event) -> Decided | None:
    """What follows from an event of the usual restart; None where it is any other."""
    if state.queue or state.phase != "running":
        return None
    if type(event) is Exited:
        return _ended(spec, state, event)
    if type(event) is Started:
        return _is_up(state, event)
    return None


def _ended(spec: SupervisorSpec, state: State, event: Exited) -> Decided | None:
    child, exit = state.children.find(event.id), event.exit
    if state.operation is not None or spec.strategy != "one_for_one" or child is None or child.status != "running":
        return None
    if not rules.restarts(child.spec.restart, exit) or rules.pace(child, charged=not exit.told) is not None:
        return None
    spent = rules.charge(state.spent, event.now, spec.within)
    if len(spent) > spec.max_restarts:
        return None
    starting = replace(
        child,
        status="starting",
        broken=False,
        awaiting=False,
        attempts=rules.attempts(child, event.now) + 1,
        due=None,
        unjudged=None,
        last_exit=exit,
    )
    operation = Operation("restart", (Job("start", event.id),), busy=True)
    decided = State(state.children.with_one(event.id, starting), "running", spent, operation, (), state.kill)
    return decided, (Restarting(event.id, 0.0, child.restarts + 1, exit), Start(event.id, again=True))


def _is_up(state: State, event: Started) -> Decided | None:
    child, operation = state.children.find(event.id), state.operation
    if operation is None or operation.purpose != "restart" or len(operation.jobs) != 1 or not operation.busy:
        return None
    if child is None or child.unjudged is not None or operation.jobs[0].id != event.id:
        return None
    running = replace(child, status="running", held=False, started_at=event.now, restarts=child.restarts + 1)
    children = state.children.with_one(event.id, running)
    return State(children, "running", state.spent, None, (), state.kill), ()
