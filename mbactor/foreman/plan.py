"""What follows from one run of a task: the transitions, joins, failures and waits of a flow, decided.

    plan = decide(graph, "intake", in_cohort=False, state=state, run=run)

Pure: no clock, no store, no ids. `step` turns a plan into a write, the store carries it out. A branch ends
with an arrival at its cohort; whether that was the last one is for the store to say, since it alone sees them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from mbactor import errors
from mbactor.errors import InvalidExpression, InvalidState, MbactorError
from mbactor.foreman.model.flow import Outcome
from mbactor.foreman.model.graph import END, Graph, Transition, holds
from mbactor.foreman.model.signals import Park, Signals
from mbactor.foreman.model.state import Fields, apply, decode_value, encode_value, is_null, storable

PlanKind = Literal["advance", "fan_out", "fan_in", "arrive", "complete", "fail", "retry", "park"]

ON_ERROR_FIELD = "on_err"
"""Where the handler of an error finds what happened."""


class Run(msgspec.Struct, frozen=True, gc=False):
    """How a run of a task ended: `changes` is all the step has written, `before` what earlier runs of it had."""

    outcome: Outcome
    changes: Fields
    before: Fields = {}
    signals: Signals = msgspec.field(default_factory=Signals)
    trace_id: str = ""
    """Of the run that failed, where there is one."""


class Target(msgspec.Struct, frozen=True, gc=False):
    """A step to come. `added` are the fields that only its branch has (the element of a for-each)."""

    node: str
    added: Fields | None = None


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What to write for a step.

    advance: completed, `targets` has the one that follows. fan_out: completed, `targets` are the branches of a new
    cohort of `cohort_size`, of which `arrivals` are there already. fan_in: completed, its own cohort is empty and
    `fan_in` follows. arrive: completed, the branch has reached `fan_in`. complete: completed, and so is the flow.
    fail: failed with `error`; so is the branch, or on the trunk the flow. retry: the same step again. park: it waits.
    """

    kind: PlanKind
    changes: Fields
    targets: tuple[Target, ...] = ()
    fan_in: str = ""
    cohort_size: int = 0
    arrivals: int = 0
    needed: int = 0
    """So many branches must complete; 0: all, whatever fails meanwhile."""
    at_once: int | None = None
    """So many of the branches may begin."""
    delay: float = 0.0
    error: BaseException | None = None
    park: Park | None = None
    handled: BaseException | None = None
    """The error that an error transition takes care of."""


class _Unroutable(Exception):
    """The step's task ended well and its flow cannot go on from there."""


def decide(graph: Graph, node: str, *, in_cohort: bool, state: Fields, run: Run) -> Plan:
    """What follows from the run of the task at `node`, whose input was `state`."""
    match run.outcome.kind:
        case "failed":
            assert run.outcome.error is not None
            return _after_error(graph, node, in_cohort, run, run.outcome.error)
        case "parked":
            assert run.signals.park is not None
            return Plan("park", run.changes, park=run.signals.park)
        case "retry":
            delay = (run.signals.retry_delay or 0.0) + run.signals.sleep
            return Plan("retry", run.changes, delay=delay)
        case _:
            return _after_success(graph, node, in_cohort, state, run)


def fail(error: BaseException, before: Fields) -> Plan:
    """The step fails and no error transition is asked: the engine refuses, not the task."""
    return Plan("fail", before, error=error)


def _after_error(graph: Graph, node: str, in_cohort: bool, run: Run, error: BaseException) -> Plan:
    edge = graph.failure_transition(node, status_of(error))
    if edge is None:
        return fail(error, run.before)
    # An error voids what its own run has written.
    changes = {**run.before, ON_ERROR_FIELD: _described(error, run.trace_id)}
    try:
        plan = _route(graph, node, in_cohort, changes, [Target(edge.target)], 0.0, override=True)
    except _Unroutable as reason:
        return fail(MbactorError(str(reason)), run.before)
    return msgspec.structs.replace(plan, handled=error)


def _after_success(graph: Graph, node: str, in_cohort: bool, state: Fields, run: Run) -> Plan:
    goto, delay = run.signals.goto, run.signals.sleep
    try:
        if goto is not None:
            targets = [_goto(graph, node, goto)]
        elif (only := graph.only_way(node)) is not None:
            targets = [Target(only.target)]
        else:
            targets = list(_routed(graph, node, apply(state, run.changes)))
        return _route(graph, node, in_cohort, run.changes, targets, delay, override=goto is not None)
    except (_Unroutable, InvalidState) as reason:
        return fail(MbactorError(str(reason)), run.before)


def status_of(error: BaseException) -> int:
    """The status that decides which error transition is taken."""
    if isinstance(error, MbactorError):
        return error.status
    return 408 if isinstance(error, TimeoutError) else 500


def _described(error: BaseException, trace_id: str) -> msgspec.Raw:
    wire = {name: value for name, value in errors.to_wire(error).items() if name != "trace"}
    if trace_id:
        wire["trace_id"] = trace_id
    try:
        return encode_value(wire, ON_ERROR_FIELD)
    except InvalidState:
        # Its own fields cannot be stored: the message and the status still tell what happened.
        return encode_value({**wire, "error": storable(wire["error"]), "fields": {}}, ON_ERROR_FIELD)


# --- which edges are taken --------------------------------------------------------------------------------


def _goto(graph: Graph, node: str, target: str) -> Target:
    if any(edge.kind == "goto" and edge.target == target for edge in graph.out(node)):
        return Target(target)
    known = [edge.target for edge in graph.out(node) if edge.kind == "goto"]
    raise _Unroutable(
        f"{node!r} called goto({target!r}), and the graph has no such goto transition; "
        f"those from {node!r} lead to {', '.join(known) or 'nowhere'}"
    )


def _routed(graph: Graph, node: str, live: Fields) -> Iterator[Target]:
    edges = graph.out(node)
    switch = [edge for edge in edges if edge.kind == "switch"]
    if switch:
        taken = next((edge for edge in switch if _holds(edge, live)), None)
        if taken is not None:
            yield Target(taken.target)
        return
    for edge in edges:
        if not edge.routes or (edge.when is not None and not _holds(edge, live)):
            continue
        if edge.kind == "for_each":
            yield from _each(edge, live)
        else:
            yield Target(edge.target)


def _holds(edge: Transition, live: Fields) -> bool:
    try:
        return holds(edge.when or "", live)
    except InvalidExpression as error:
        raise _Unroutable(f"{edge}: its condition {edge.when!r} cannot be evaluated: {error}") from None


def _each(edge: Transition, live: Fields) -> Iterator[Target]:
    name = edge.for_each or ""
    raw = live.get(name)
    if raw is None or is_null(raw):
        return
    try:
        elements = decode_value(raw, list[msgspec.Raw])
    except InvalidState as error:
        raise _Unroutable(f"{edge}: for_each needs an array in the field {name!r}: {error}") from None
    item, index, count = edge.branch_fields
    length = _number(len(elements))
    for position, element in enumerate(elements):
        # The element is a view into the whole array, which must not be kept alive by each branch.
        yield Target(edge.target, {item: element.copy(), index: _number(position), count: length})


def _number(value: int) -> msgspec.Raw:
    return msgspec.Raw(b"%d" % value)


# --- where they lead ----------------------------------------------------------------------------------------


def _route(
    graph: Graph,
    node: str,
    in_cohort: bool,
    changes: Fields,
    targets: Sequence[Target],
    delay: float,
    *,
    override: bool,
) -> Plan:
    steps = tuple(target for target in targets if target.node != END)
    own_fan_in = graph.fan_in_of(node) if graph.is_fan_out_source(node) else None
    if own_fan_in is not None:
        to_end = len(steps) < len(targets)
        if all(target.node == own_fan_in for target in steps) and (steps or not to_end):
            _check_enough(graph, node, own_fan_in, len(steps), override=override)
            return Plan("fan_in", changes, fan_in=own_fan_in, delay=delay)
        if steps and not override:
            return _fan_out(graph, node, own_fan_in, changes, steps, delay)
    return _one_way(graph, node, in_cohort, changes, steps, delay)


def _fan_out(graph: Graph, node: str, fan_in: str, changes: Fields, steps: tuple[Target, ...], delay: float) -> Plan:
    branches = tuple(target for target in steps if target.node != fan_in)
    size = len(steps)
    arrivals = size - len(branches)
    _check_enough(graph, node, fan_in, size)
    needed = graph.join_of(fan_in).of(size)
    if 0 < needed <= arrivals:
        return Plan("fan_in", changes, fan_in=fan_in, delay=delay)
    return Plan("fan_out", changes, branches, fan_in, size, arrivals, needed, graph.max_parallel_of(node), delay)


def _check_enough(graph: Graph, node: str, fan_in: str, size: int, *, override: bool = False) -> None:
    needed = graph.join_of(fan_in).needed
    if isinstance(needed, int) and size < needed and not override:
        raise _Unroutable(
            f"the fan-out of {node!r} has {size} branches here and its fan-in {fan_in!r} needs {needed}; "
            "route such a case elsewhere: with goto, or raise in its task and add an on_error transition"
        )


def _one_way(
    graph: Graph, node: str, in_cohort: bool, changes: Fields, steps: tuple[Target, ...], delay: float
) -> Plan:
    if not steps:
        if in_cohort:
            raise _Unroutable(
                f"{node!r} is inside a fan-out and matched no onward transition; "
                "every branch must reach the fan-in (a switch edge with 'true' is the default)"
            )
        return Plan("complete", changes)
    target = steps[0].node
    if not graph.is_fan_in(target):
        return Plan("advance", changes, steps, delay=delay)
    if not in_cohort:
        raise _Unroutable(f"{node!r} -> {target!r}: a fan-in can be reached only from inside a fan-out")
    return Plan("arrive", changes, fan_in=target, delay=delay)
