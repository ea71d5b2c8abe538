"""`@sink`: a method that is run for each event of another actor."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from mbactor.errors import DeclarationError
from mbactor.kernel.feature import Reference, check_reference, host_of
from mbactor.kernel.features.endpoint import Declared
from mbactor.kernel.features.event import EventReference
from mbactor.kernel.schema import Signature, locals_where_defined
from mbactor.transport.address import EVENT_PORT, Address, kebab

P = ParamSpec("P")
R = TypeVar("R")
S_co = TypeVar("S_co", covariant=True)


class SinkReference(Reference[P, S_co]):
    """A sink taken as a reference, `Audit.placed`: what `activate` and `deactivate` are given."""

    named = "a @sink"
    sent_by = "publish of its event"


class Sink(Declared, Generic[P, S_co]):
    """What `@sink` makes of a method."""

    port = EVENT_PORT
    elsewhere = True
    reference = SinkReference

    def __init__(self, function: Callable[..., Any], event: EventReference[..., Any], **settings: Any) -> None:
        super().__init__(function, method="POST", **settings)
        self.event = event

    if TYPE_CHECKING:  # as for an endpoint

        @overload
        def __get__(self, instance: None, owner: type) -> SinkReference[P, S_co]: ...
        @overload
        def __get__(self, instance: Any, owner: type) -> Callable[P, S_co]: ...
        def __get__(self, instance: Any, owner: type) -> Any: ...

    def subscribed(self, host: str) -> Address:
        """It listens where the event is published."""
        feature = self.event.feature
        return feature.subscribed(host if feature.at_sink else host_of(self.event.owner))

    def signature(self, owner: type) -> Signature:
        """Its own, which has to fit that of the event."""
        own = super().signature(owner)
        event = self.event.feature.signature(self.event.owner)
        wrong = _misfit(own, event)
        if wrong is not None:
            raise DeclarationError(f"{own.name} is a sink of {event.name} and {wrong}")
        if getattr(owner, "host", None) is None:
            raise DeclarationError(
                f"{own.name} is a sink, and {owner.__name__} has no host: its replicas share the events by it; give it"
                f" one: host = '{kebab(owner.__name__)}.example'"
            )
        return own


def _misfit(own: Signature, event: Signature) -> str | None:
    """Why a method cannot be the sink of an event."""
    for name, parameter in event.parameters.items():
        taken = own.parameters.get(name)
        if taken is None:
            return f"has no parameter {name!r}, which the event carries"
        if taken.type != parameter.type:
            return f"takes {name!r} as {taken.type}; the event carries {parameter.type}"
        if taken.required and not parameter.required:
            return f"has no default for {name!r}, which the event may leave out"
    for name, parameter in own.parameters.items():
        if parameter.required and name not in event.parameters:
            return f"needs {name!r}, which the event does not carry"
    if event.returns not in {own.returns, None, type(None), Any}:
        return f"returns {own.returns}; whoever asks expects {event.returns}"
    return None


class _Decorator(Generic[P, R]):
    """`@sink(event, ...)`: decorates either kind of method."""

    def __init__(self, event: EventReference[P, R], settings: dict[str, Any]) -> None:
        self._event = event
        self._settings = settings

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Sink[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Sink[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        return Sink(function, self._event, local_names=locals_where_defined(2), **self._settings)


def sink(
    event: EventReference[P, R],
    /,
    *,
    requires: str | None = None,
    queue: str | None = None,
    manual: bool = False,
    concurrency: int | None = None,
    key: str | None = None,
) -> _Decorator[P, R]:
    """Declare a method that is run for each event of another actor, wherever the two run.

        @sink(Orders.on_placed)
        async def placed(self, order_id: str, total: float) -> None: ...

    It takes what the event carries. Of the replicas of a host one gets each event, so two classes that sink the same
    event get it both, once each; `queue="every"` gives it to every replica, another name makes a group of those that
    have the same, of whatever hosts: one of them gets each event. A replica that is full leaves its share to those of
    its own host only. It passes through the mailbox like any message: where that refuses, the event is a dead letter; a
    crash of the method, of which nobody was told, counts. The other settings are those of `@endpoint`.
    """
    check_reference(event, EventReference)
    settings = {"requires": requires, "queue": queue, "manual": manual, "concurrency": concurrency, "key": key}
    return _Decorator(event, settings)
