"""`@endpoint`: a method that other actors, and the gateway, may call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from mbactor.kernel.actor import Actor
from mbactor.kernel.feature import Feature, Operation
from mbactor.kernel.schema import locals_where_defined
from mbactor.transport.address import ANY_METHOD

A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Endpoint(Feature, Generic[A_co, P, R_co]):
    """What `@endpoint` makes of a method."""

    @overload
    def __get__(self, instance: None, owner: type) -> Operation[A_co, P, R_co]: ...
    @overload
    def __get__(self, instance: Actor, owner: type) -> Callable[P, R_co]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return super().__get__(instance, owner)


class AsyncEndpoint(Feature, Generic[A_co, P, R_co]):
    """What `@endpoint` makes of an `async def` method."""

    @overload
    def __get__(self, instance: None, owner: type) -> Operation[A_co, P, R_co]: ...
    @overload
    def __get__(self, instance: Actor, owner: type) -> Callable[P, Coroutine[Any, Any, R_co]]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return super().__get__(instance, owner)


class _Decorator:
    """`@endpoint(...)` with settings: decorates either kind of method."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the narrower one, an async def, comes first
        self, function: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R_co]], /
    ) -> AsyncEndpoint[A_co, P, R_co]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A_co, P], R_co], /) -> Endpoint[A_co, P, R_co]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        return AsyncEndpoint(function, local_names=locals_where_defined(2), **self._settings)


@overload
def endpoint(  # type: ignore[overload-overlap]  # the narrower one, an async def, comes first
    function: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R_co]], /
) -> AsyncEndpoint[A_co, P, R_co]: ...
@overload
def endpoint(function: Callable[Concatenate[A_co, P], R_co], /) -> Endpoint[A_co, P, R_co]: ...
@overload
def endpoint(*, method: str = ANY_METHOD, path: str | None = None, port: int | None = None) -> _Decorator: ...
def endpoint(
    function: Callable[..., Any] | None = None,
    /,
    *,
    method: str = ANY_METHOD,
    path: str | None = None,
    port: int | None = None,
) -> Any:
    """Declare a method that is called by message.

        @endpoint
        async def add(self, by: int = 1) -> int: ...

    Arguments are decoded by their annotations (400 names the wrong field), the result is encoded by its own.
    An `async def` method may await; a plain `def` runs inline and blocks the loop while it runs. `path` is by
    default the name in kebab-case, on port 443; port 444 keeps it off the gateway. `method` is the one HTTP method
    it answers to; any, by default.
    """
    if function is not None:
        return AsyncEndpoint(function, local_names=locals_where_defined(2))
    return _Decorator({"method": method, "path": path, "port": port})
