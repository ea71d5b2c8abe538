"""What a tree allows and hardly anybody means: warnings about specifications. Pure.

    for lint in lints(spec):
        print("/".join(lint.ids), lint.field, lint.text)

Times are the longest that a specification allows: each child uses all of the `shutdown` that it is given, and no jitter
shortens a backoff. Of a supervisor whose children are known only once it is constructed nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mbactor.durations import text_of
from mbactor.errors import InvalidSpec
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.partition import PartitionSupervisor
from mbactor.supervisor.spec import ACTOR_SHUTDOWN, ChildSpec, SupervisorSpec
from mbactor.supervisor.supervisor import Supervisor

MOST_ATTEMPTS = 1000
"""Starts of one child, in all supervisors above it, after which trying again is hardly meant."""


@dataclass(frozen=True, slots=True)
class Lint:
    """One warning: about which child (the ids from below the root, none for the root), and which field of it."""

    ids: tuple[str, ...]
    field: str
    text: str


def lints(root: SupervisorSpec) -> list[Lint]:
    """Everything that is doubtful about a tree."""
    return [*_below(root, (), 1), *_hosts(root)]


def stop_time(spec: ChildSpec, *, unsaid: float = ACTOR_SHUTDOWN) -> float:
    """How long a child may take to stop: `inf` where nothing bounds it. `unsaid` is what an actor counts as that has
    the default time, which is a bound and says nothing of how long it takes.
    """
    inner = spec_of(spec)
    if inner is not None:
        whole = sum(stop_time(child, unsaid=unsaid) for child in inner.children)
        return whole if spec.shutdown is None else min(whole, spec.shutdown)
    if spec.shutdown is None:
        return math.inf if spec.kind == "actor" else 0.0
    return unsaid if spec.kind == "actor" and spec.shutdown == ACTOR_SHUTDOWN else spec.shutdown


def restart_time(spec: SupervisorSpec, place: int, stop_times: tuple[float, float]) -> float:
    """How long the child at `place` may take to be started `max_restarts` times, when it crashes at once each time.

    `stop_times` are those of all children before it and of all behind it.
    """
    before, behind = stop_times
    stopped = {"one_for_one": 0.0, "rest_for_one": behind, "one_for_all": before + behind}[spec.strategy]
    return (spec.max_restarts * stopped if spec.max_restarts else 0.0) + _delays(spec, spec.children[place])


def spec_of(spec: ChildSpec) -> SupervisorSpec | None:
    """What a supervisor supervises; None for an actor, and where it is known only once it is constructed."""
    target = spec.target
    if issubclass(target, PartitionSupervisor):
        return _of_partitions(spec, target)
    if (
        not issubclass(target, Supervisor)
        or target.__init__ is not Supervisor.__init__
        or target.on_start is not Supervisor.on_start
    ):
        return None
    given = {name: spec.args.get(name) for name in SupervisorSpec.__slots__}
    try:
        return SupervisorSpec(
            **{name: getattr(target, name) if value is None else value for name, value in given.items()}
        )
    except InvalidSpec:
        return None


def _of_partitions(spec: ChildSpec, target: type[PartitionSupervisor]) -> SupervisorSpec | None:
    if target.__init__ is not PartitionSupervisor.__init__ or target.on_start is not Supervisor.on_start:
        return None
    try:
        return target(*spec.positional, **spec.args).spec()
    except InvalidSpec:  # told where it is started
        return None


def _delays(spec: SupervisorSpec, child: ChildSpec) -> float:
    if child.backoff is None:
        return 0.0
    grown = min(spec.max_restarts, 64)
    return sum(child.backoff.delay(n, 0.0) for n in range(grown)) + (spec.max_restarts - grown) * child.backoff.maximum


def _below(spec: SupervisorSpec, ids: tuple[str, ...], attempts: int) -> Iterator[Lint]:
    """`attempts`: how many times the supervisors above start this one."""
    yield from _window(spec, ids)
    whole = attempts * (spec.max_restarts + 1)
    told = attempts > MOST_ATTEMPTS
    if attempts > 1 and whole > MOST_ATTEMPTS and not told:
        text = (
            f"a child that always crashes here is started {whole} times before the tree gives up, "
            f"as the supervisors above try again {attempts} times; smaller budgets expected"
        )
        yield Lint(ids, "max_restarts", text)
    for child in spec.children:
        inner = spec_of(child)
        if child.process and child.target is DynamicSupervisor:
            text = (
                "true given, and children are added from within its process, where nobody else is; a supervisor around "
                "it and the actors that add them expected there"
            )
            yield Lint((*ids, child.id), "process", text)
        if inner is not None:
            yield from _supervisor(child, inner, (*ids, child.id))
            yield from _below(inner, (*ids, child.id), 1 if child.restart == "temporary" else whole)


def _window(spec: SupervisorSpec, ids: tuple[str, ...]) -> Iterator[Lint]:
    """Restarts that are never so close to each other that the budget counts them together."""
    times = [stop_time(child, unsaid=0.0) for child in spec.children]
    before, behind = _sums(times), _sums(times[::-1])[::-1]
    total, child = max(
        (
            (restart_time(spec, place, (before[place], behind[place + 1])), child)
            for place, child in enumerate(spec.children)
            if child.restart != "temporary"
        ),
        default=(0.0, None),
        key=lambda one: one[0],
    )
    if child is None or total <= spec.within:
        return
    counted = f"{spec.max_restarts} restarts of {child.id!r}" if spec.max_restarts > 1 else f"a restart of {child.id!r}"
    advice = (
        "a finite `shutdown` of the children that are stopped with it expected"
        if math.isinf(total)
        else f"within: {text_of(math.ceil(total))} or more, or shorter stops and backoffs expected"
    )
    text = (
        f"{counted} may take {_time(total)} (its backoff, and the stops of those that go with it), so more of them "
        f"may never fall within {text_of(spec.within)}, and a crash loop does not end; {advice}"
    )
    yield Lint(ids, "within", text)


def _sums(times: Sequence[float]) -> list[float]:
    return [0.0, *accumulate(times)]


def _supervisor(child: ChildSpec, inner: SupervisorSpec, ids: tuple[str, ...]) -> Iterator[Lint]:
    whole = sum(map(stop_time, inner.children))
    if child.shutdown and child.shutdown < whole:
        text = (
            f"{text_of(child.shutdown)} given, and its children may take {_time(whole)} to stop; what is left of them "
            "then is killed; infinity (the default of a supervisor) expected"
        )
        yield Lint(ids, "shutdown", text)
    if inner.auto_shutdown != "never" and child.restart == "permanent":
        text = (
            f"auto_shutdown: {inner.auto_shutdown} ends it, and as a permanent child it is started again at once; "
            "restart: transient or temporary expected"
        )
        yield Lint(ids, "restart", text)


def _hosts(root: SupervisorSpec) -> Iterator[Lint]:
    """Different classes that are sent each other's messages."""
    first: dict[str, tuple[type, str]] = {}
    for ids, child in _actors(root, ()):
        cls = child.target
        host: str = getattr(cls, "host", None) or cls.__name__
        known, where = first.setdefault(host, (cls, "/".join(ids)))
        if known is not cls:
            text = (
                f"{cls.__qualname__} serves the host {host!r}, as does {where!r} with the class {known.__qualname__}; "
                "each gets every other message for it; hosts of their own expected"
            )
            yield Lint(ids, "actor", text)


def _actors(spec: SupervisorSpec, ids: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ChildSpec]]:
    for child in spec.children:
        inner = spec_of(child)
        if child.kind == "actor":
            yield (*ids, child.id), child
        elif inner is not None:
            yield from _actors(inner, (*ids, child.id))


def _time(seconds: float) -> str:
    return "for ever" if math.isinf(seconds) else text_of(seconds)
