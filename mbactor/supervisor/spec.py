"""Specifications of children and supervisors: plain values, checked when they are made.

    child(Orders, args={"channel": "web"}, restart="transient", backoff=Backoff("100ms", "10s"))

A specification that exists is valid: whatever is wrong raises `InvalidSpec` that names the field and
the value, before anything is started.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from mbactor.durations import Duration, seconds, text_of
from mbactor.errors import InvalidSpec
from mbactor.kernel.actor import Actor
from mbactor.kernel.properties import properties_of
from mbactor.mailbox import Mailbox

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
Restart = Literal["permanent", "transient", "temporary"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]
Kind = Literal["actor", "supervisor"]
Unset = Literal["unset"]

STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)
RESTARTS: Final[tuple[str, ...]] = get_args(Restart)
AUTO_SHUTDOWNS: Final[tuple[str, ...]] = get_args(AutoShutdown)
ACTOR_SHUTDOWN = 5.0
"""Seconds that an actor has to stop where nothing is said."""
MOST_REPLICAS = 10_000
"""More than this in one supervisor is a slip of the pen."""
_ID = re.compile(r"[^\s/\x00-\x1f\x7f-\x9f]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})
"""One for all children without any: there may be a hundred thousand of them."""


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """How long to wait before a restart: `initial`, then `factor` times as long each time, up to `maximum`.

        Backoff(initial="100ms", maximum="10s")

    The delay is less up to `jitter` (a share of it) at random, so that many children do not come back at
    the same instant. It starts again from `initial` once the child has run for `maximum`.
    """

    initial: float
    maximum: float
    factor: float
    jitter: float

    def __init__(self, initial: Duration, maximum: Duration, factor: float = 2.0, jitter: float = 0.2) -> None:
        first = checked_duration("backoff.initial", initial, above_0=True)
        most = checked_duration("backoff.maximum", maximum)
        if most < first:
            raise InvalidSpec(f"backoff.maximum: {text_of(most)} given, at least initial ({text_of(first)}) expected")
        if not factor >= 1:
            raise InvalidSpec(f"backoff.factor: {factor!r} given, a number >= 1 expected")
        if not 0 <= jitter <= 1:
            raise InvalidSpec(f"backoff.jitter: {jitter!r} given, a number from 0 to 1 expected")
        _set(self, initial=first, maximum=most, factor=float(factor), jitter=float(jitter))

    def delay(self, attempt: int, sample: float) -> float:
        """Seconds before restart number `attempt` (from 0); `sample`, in [0, 1), is the chance in it."""
        grown = self.maximum
        with suppress(OverflowError):  # a power that no float holds is long beyond the maximum
            grown = min(self.maximum, self.initial * self.factor**attempt)
        return grown * (1 - self.jitter * sample)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child as its supervisor is told of it. Made by `child(...)`, which checks it."""

    id: str
    target: type
    kind: Kind
    args: Mapping[str, Any]
    positional: tuple[Any, ...]
    restart: Restart
    shutdown: float | None
    """Seconds it is given to stop: 0 kills at once, None waits for as long as it takes."""
    backoff: Backoff | None
    replicas: int
    mailbox: Mailbox | None
    config: Mapping[str, Any] | None
    """What is given of the properties that the class declares, as it reads them; None: nothing."""
    significant: bool
    process: bool = False
    """It runs in an OS process of its own, with all that is under it."""
    after: tuple[str, ...] = ()
    """Siblings that are started before it, wherever they stand in the list."""

    def expand(self) -> tuple[ChildSpec, ...]:
        """The replicas as children of their own: `orders` with `replicas=2` is `orders-1`, `orders-2`."""
        if self.replicas == 1:
            return (self,)
        return tuple(replace(self, id=f"{self.id}-{n}", replicas=1) for n in range(1, self.replicas + 1))


def child(
    target: type,
    *,
    id: str | None = None,
    args: Mapping[str, Any] | None = None,
    restart: Restart = "permanent",
    shutdown: Duration | Literal["brutal"] | Unset | None = "unset",
    backoff: Backoff | None = None,
    replicas: int = 1,
    mailbox: Mailbox | None = None,
    config: Mapping[str, Any] | None = None,
    significant: bool = False,
    process: bool = False,
    after: Iterable[str] = (),
    positional: tuple[Any, ...] = (),
) -> ChildSpec:
    """A child for `Supervisor.children` or `start_child`.

        child(Orders, args={"channel": "web"}, restart="transient", shutdown="5s")

    `target` is an Actor or Supervisor class, `args` (and `positional`) the arguments of its constructor: the same
    objects for each replica and each incarnation, unlike those of a topology file, of which each has copies.
    `id` defaults to the class name in kebab-case. `shutdown` is the time it gets to stop: a duration,
    "brutal" (none), or None (as long as it takes); 5 s for an actor and None for a supervisor by default.
    `config` has the values of the properties that the class declares (`config()`).
    `process` runs it in an OS process of its own. `after` names siblings that are started, and ready, before it; one
    with replicas by its id without the number. A child is ready when its `on_start` has returned. `mailbox` is for
    actors only.
    `InvalidSpec` names the field and the value that are wrong.
    """
    kind = kind_of(target)
    name = kebab_case(target.__name__) if id is None else id
    if not _is_id(name):
        raise InvalidSpec(f"id: {name!r} given, a text without spaces, slashes and control characters expected")
    _one_of("restart", restart, RESTARTS, of=name)
    _check_replicas(name, replicas)
    if backoff is not None and not isinstance(backoff, Backoff):
        raise InvalidSpec(f"child {name!r}: backoff: {backoff!r} given, a Backoff or None expected")
    if mailbox is not None and not isinstance(mailbox, Mailbox):
        raise InvalidSpec(f"child {name!r}: mailbox: {mailbox!r} given, a Mailbox or None expected")
    if mailbox is not None and kind == "supervisor":
        text = f"{mailbox!r} given for a supervisor, which has none; an actor under it is given one"
        raise InvalidSpec(f"child {name!r}: mailbox: {text}")
    check_significance(name, restart, significant)
    if not isinstance(process, bool):
        raise InvalidSpec(f"child {name!r}: process: {process!r} given, True or False expected")
    before = _after(name, after)
    if args is not None and not isinstance(args, Mapping):
        raise InvalidSpec(f"child {name!r}: args: {args!r} given, a mapping of argument names to values expected")
    arguments = dict(args) if args else _NO_ARGUMENTS
    _check_arguments(name, target, positional, arguments)
    return ChildSpec(
        id=name,
        target=target,
        kind=kind,
        args=arguments,
        positional=tuple(positional),
        restart=restart,
        shutdown=_shutdown(name, kind, shutdown),
        backoff=backoff,
        replicas=replicas,
        mailbox=mailbox,
        config=_configuration(name, target, config),
        significant=significant,
        process=process,
        after=before,
    )


def check_significance(name: str | None, restart: Restart, significant: bool) -> None:
    """Refuse a significant child that cannot end by itself."""
    if significant and restart == "permanent":
        raise InvalidSpec(
            f"child {name!r}: significant: True given with restart 'permanent'; "
            "only a transient or temporary child can end by itself, which is what significance is about"
        )


@dataclass(frozen=True, slots=True, init=False)
class SupervisorSpec:
    """What a supervisor supervises, and how. Replicas are expanded, ids are unique, and each child stands behind
    those that it is to be started `after`; else the order is as given.
    """

    strategy: Strategy
    max_restarts: int
    within: float
    auto_shutdown: AutoShutdown
    children: tuple[ChildSpec, ...]

    def __init__(
        self,
        strategy: Strategy = "one_for_one",
        max_restarts: int = 3,
        within: Duration = 5.0,
        auto_shutdown: AutoShutdown = "never",
        children: Iterable[ChildSpec] = (),
    ) -> None:
        _one_of("strategy", strategy, STRATEGIES)
        _one_of("auto_shutdown", auto_shutdown, AUTO_SHUTDOWNS)
        if not is_whole(max_restarts, 0):
            raise InvalidSpec(f"max_restarts: {max_restarts!r} given, a whole number >= 0 expected")
        window = checked_duration("within", within, above_0=True)
        expanded = in_order(tuple(_specs(children)))
        _set(
            self,
            strategy=strategy,
            max_restarts=max_restarts,
            within=window,
            auto_shutdown=auto_shutdown,
            children=expanded,
        )
        seen: set[str] = set()
        for spec in expanded:
            self.check_child(spec)
            if spec.id in seen:
                raise InvalidSpec(f"children: the id {spec.id!r} is given twice; ids must be unique here")
            seen.add(spec.id)

    def check_child(self, spec: ChildSpec) -> None:
        """Refuse a child that cannot be under this supervisor."""
        if spec.significant and self.auto_shutdown == "never":
            raise InvalidSpec(
                f"child {spec.id!r}: significant: True given while auto_shutdown is 'never'; "
                "'any_significant' or 'all_significant' expected of the supervisor"
            )


def check_added(spec: ChildSpec, siblings: Collection[str]) -> None:
    """Refuse a child that is added behind its siblings, where one that it is to start `after` is not among them."""
    unknown = next((name for name in spec.after if name not in siblings and f"{name}-1" not in siblings), None)
    if unknown is not None:
        known = ", ".join(siblings) or "none"
        raise InvalidSpec(f"child {spec.id!r}: after: {unknown!r} given, one of its siblings expected: {known}")


def in_order(children: tuple[ChildSpec, ...]) -> tuple[ChildSpec, ...]:
    """The children with their replicas in the order in which they start: as given, but each behind those that it is
    to be started `after`. InvalidSpec where one of those is unknown, or they wait for each other in a circle.
    """
    expanded = [one for spec in children for one in spec.expand()]
    if not any(spec.after for spec in children):
        return tuple(expanded)
    named = _places(children, expanded)
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for place, one in enumerate(expanded):
        unknown = next((name for name in one.after if name not in named), None)
        if unknown is not None:
            known = ", ".join(id for id in named if id != one.id) or "none"
            raise InvalidSpec(f"child {one.id!r}: after: {unknown!r} given, one of its siblings expected: {known}")
        earlier = list(dict.fromkeys(before for name in one.after for before in sorted(named[name])))
        sorter.add(place, *earlier)
        if one.after:
            # By the ids that they have from now on, so that the order is found again where this is read once more.
            expanded[place] = replace(one, after=tuple(expanded[before].id for before in earlier))
    try:
        sorter.prepare()
    except CycleError as error:
        circle = [expanded[place].id for place in reversed(error.args[1])]
        raise InvalidSpec(
            f"child {circle[0]!r}: after: they are started after each other: {' after '.join(circle)}"
        ) from None
    ordered, ready = list[ChildSpec](), list(sorter.get_ready())
    heapify(ready)
    while ready:
        place = heappop(ready)
        ordered.append(expanded[place])
        sorter.done(place)
        for other in sorter.get_ready():
            heappush(ready, other)
    return tuple(ordered)


def _places(children: tuple[ChildSpec, ...], expanded: list[ChildSpec]) -> dict[str, set[int]]:
    """Where each id stands; that of replicas, without the number, is all of them."""
    named: dict[str, set[int]] = {}
    for place, one in enumerate(expanded):
        named.setdefault(one.id, set()).add(place)
    for spec in children:
        if spec.replicas > 1:
            replicas = {place for one in spec.expand() for place in named[one.id]}
            named[spec.id] = named.get(spec.id, set()) | replicas
    return named


def check_spec(spec: Any) -> None:
    """Refuse what is no child specification, with what is meant instead."""
    if not isinstance(spec, ChildSpec):
        name = getattr(spec, "__name__", None)
        raise InvalidSpec(f"{spec!r} given, child({name or '...'}) expected")


@lru_cache(maxsize=1024)
def kebab_case(name: str) -> str:
    """`HTTPServer` as `http-server`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_", "-", name).strip("-").lower()


def kind_of(target: Any) -> Kind:
    """Whether `target` is an Actor or a Supervisor class; `InvalidSpec` where it is neither."""
    if not isinstance(target, type):
        raise _no_target(target)
    return _kind_of_class(target)


@lru_cache(maxsize=1024)
def _kind_of_class(target: type) -> Kind:
    from mbactor.supervisor.supervisor import Supervisor  # which imports this module

    if issubclass(target, Supervisor):
        return "supervisor"
    if issubclass(target, Actor):
        return "actor"
    raise _no_target(target)


def _no_target(target: Any) -> InvalidSpec:
    hint = "" if isinstance(target, type) else "; its constructor's arguments are given beside it"
    return InvalidSpec(f"target: {target!r} given, an Actor or Supervisor class expected{hint}")


def _set(value: Any, **fields: Any) -> None:
    for name, content in fields.items():
        object.__setattr__(value, name, content)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def has_controls(text: str) -> bool:
    """Whether it holds what a terminal takes for an order, or a log for the end of a line."""
    return _CONTROL.search(text) is not None


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_replicas(name: str, replicas: Any) -> None:
    if not is_whole(replicas, 1):
        raise InvalidSpec(f"child {name!r}: replicas: {replicas!r} given, a whole number >= 1 expected")
    if replicas > MOST_REPLICAS:
        raise InvalidSpec(f"child {name!r}: replicas: {replicas!r} given, at most {MOST_REPLICAS} expected")


def _after(name: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise InvalidSpec(f"child {name!r}: after: {given!r} given, a list of the ids of siblings expected")
    return tuple(given)


def _one_of(field: str, value: Any, allowed: tuple[str, ...], *, of: str | None = None) -> None:
    if value not in allowed:
        where = field if of is None else f"child {of!r}: {field}"
        raise InvalidSpec(f"{where}: {value!r} given, one of {', '.join(allowed)} expected")


def checked_duration(field: str, value: Duration, *, above_0: bool = False) -> float:
    """The seconds of a duration; InvalidSpec names the field."""
    try:
        found = seconds(value)
    except (TypeError, ValueError) as error:
        raise InvalidSpec(f"{field}: {error}") from error
    if above_0 and found <= 0:
        raise InvalidSpec(f"{field}: {value!r} given, a duration above 0 expected")
    return found


def _shutdown(name: str, kind: Kind, value: Duration | None) -> float | None:
    if value == "unset":
        return ACTOR_SHUTDOWN if kind == "actor" else None
    if value is None:
        return None
    if value == "brutal":
        return 0.0
    return checked_duration(f"child {name!r}: shutdown", value)


def _configuration(name: str, target: type, given: Any) -> Mapping[str, Any] | None:
    properties = properties_of(target)
    if not given and not properties:
        return None
    if given is not None and not isinstance(given, Mapping):
        raise InvalidSpec(f"child {name!r}: config: {given!r} given, a mapping of property names to values expected")
    values, faults = properties.read(given or {})
    if faults:
        told = "; ".join(f"{one}: {fault}" for one, fault in faults.items())
        raise InvalidSpec(f"child {name!r}: config: {told}")
    return values or None


def _specs(children: Iterable[ChildSpec]) -> Iterable[ChildSpec]:
    for position, spec in enumerate(children):
        if not isinstance(spec, ChildSpec):
            raise InvalidSpec(f"children[{position}]: {spec!r} given, child(...) expected")
        yield spec


@lru_cache(maxsize=1024)
def _signature_of(target: type) -> inspect.Signature:
    # For a class without a constructor of its own it is read from source text: 100 us each time.
    return inspect.signature(target)


@lru_cache(maxsize=4096)
def _misfit(target: type, count: int, names: tuple[str, ...]) -> str | None:
    """What is wrong with so many arguments by position and these by name; None where the constructor takes them.

    Their values do not matter, so it is found out once for all children that are made alike.
    """
    try:
        _signature_of(target).bind(*(None,) * count, **dict.fromkeys(names))
    except TypeError as error:
        return str(error)
    return None


def _check_arguments(name: str, target: type, positional: tuple[Any, ...], args: Mapping[str, Any]) -> None:
    error = _misfit(target, len(positional), tuple(args))
    if error is not None:
        shown = [*map(repr, positional), *(f"{key}={value!r}" for key, value in args.items())]
        given = f"{target.__qualname__}({', '.join(shown)})"
        takes = ", ".join(_signature_of(target).parameters) or "nothing"
        raise InvalidSpec(f"child {name!r}: args: {given}: {error}; it takes {takes}")
