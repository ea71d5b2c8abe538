"""`@event`: what an actor tells all that want to know.

    class Orders(Actor):
        host = "orders.example"

        @event
        async def on_placed(self, order_id: str, total: float) -> None: ...

        @endpoint
        async def place(self, order_id: str) -> None:
            self.publish(Orders.on_placed, order_id=order_id, total=9.5)

Any actor sinks it with `@sink(Orders.on_placed)`, wherever it runs.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from mbactor.errors import DeclarationError
from mbactor.kernel.feature import Feature, Reference
from mbactor.kernel.schema import locals_where_defined
from mbactor.transport.address import EVENT_PORT

if TYPE_CHECKING:
    from collections.abc import Coroutine

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class EventReference(Reference[P, R_co]):
    """An event taken as a reference, `Orders.on_placed`: what `publish`, `ask_all` and `@sink` are given."""

    named = "an @event"
    sent_by = "publish, ask_all"


class Event(Feature, Generic[P, R_co]):
    """What `@event` makes of a method, which is never run: it says what the event carries."""

    port = EVENT_PORT
    served = False
    reference = EventReference

    if TYPE_CHECKING:  # as for an endpoint

        @overload
        def __get__(self, instance: None, owner: type) -> EventReference[P, R_co]: ...
        @overload
        def __get__(self, instance: Any, owner: type) -> Callable[P, Coroutine[Any, Any, R_co]]: ...
        def __get__(self, instance: Any, owner: type) -> Any: ...


class _Decorator:
    """`@event(path=...)`."""

    def __init__(self, path: str | None, port: int | None) -> None:
        self._path = path
        self._port = port

    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Event[P, R]:
        return _declared(function, self._path, self._port)


@overload
def event(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Event[P, R]: ...
@overload
def event(*, path: str | None = None, port: int | None = None) -> _Decorator: ...
def event(function: Any = None, /, *, path: str | None = None, port: int | None = None) -> Any:
    """Declare an event of this actor class, by a method without a body.

        @event
        async def on_placed(self, order_id: str, total: float) -> None: ...

    `self.publish(Orders.on_placed, order_id="17", total=9.5)` tells everybody that sinks it, and waits for nobody. A
    sink may return something: then the event's annotation says what (type checkers want `raise NotImplementedError` as
    its body then), and `self.ask_all(Orders.on_placed, ...)` gathers it. `path` is by default the name in kebab-case,
    on port 417, which keeps it off the gateway.
    """
    return _Decorator(path, port) if function is None else _declared(function, path, port)


def _declared(function: Any, path: str | None, port: int | None) -> Event[Any, Any]:
    made: Event[Any, Any] = Event(function, method="POST", path=path, port=port, local_names=locals_where_defined(3))
    if not isinstance(function, types.FunctionType) or function.__code__.co_code not in _EMPTY:
        raise DeclarationError(
            f"{made.function.__qualname__}: an event is declared by a method whose body is `...`, or"
            " `raise NotImplementedError`; it is never run"
        )
    return made


async def _nothing() -> None: ...


async def _documented() -> None:
    """Says something."""


async def _raises() -> None:
    raise NotImplementedError


_EMPTY = frozenset(one.__code__.co_code for one in (_nothing, _documented, _raises))
