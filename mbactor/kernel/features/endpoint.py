"""`@endpoint`: a method that other actors, and the gateway, may call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

import anyio

from mbactor import offload, processes
from mbactor.durations import Duration, seconds, text_of
from mbactor.errors import DeclarationError
from mbactor.kernel.actor import Actor
from mbactor.kernel.budget import BUDGET_CAP
from mbactor.kernel.context import Call
from mbactor.kernel.feature import Feature, Invoke, Operation
from mbactor.kernel.routes import Route
from mbactor.kernel.schema import Signature, locals_where_defined, signature_of
from mbactor.transport.address import ANY_METHOD

A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Declared(Feature):
    """What is common to all endpoints: how many of them run at once, and how long an ask may take."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        concurrency: int | None = None,
        key: str | None = None,
        budget: Duration | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(function, **settings)
        name = function.__qualname__
        if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
            raise DeclarationError(f"{name}: concurrency {concurrency!r}: a whole number >= 1 expected")
        if key is not None and not isinstance(key, str):
            raise DeclarationError(f"{name}: key {key!r}: the name of a parameter expected")
        self.concurrency = concurrency
        self.key = key
        self.budget = None if budget is None else _budget(name, budget)


def _budget(name: str, given: Duration) -> float:
    try:
        found = seconds(given)
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"{name}: budget: {error}") from error
    if not 0 < found <= BUDGET_CAP:
        longest = text_of(BUDGET_CAP)
        raise DeclarationError(
            f"{name}: budget {given!r}: a duration above 0 expected, of at most {longest}: no ask has more"
        )
    return found


class Endpoint(Declared, Generic[A_co, P, R_co]):
    """What `@endpoint` makes of a method."""

    if TYPE_CHECKING:  # each message names its endpoint, so at run time there is no detour

        @overload
        def __get__(self, instance: None, owner: type) -> Operation[A_co, P, R_co]: ...
        @overload
        def __get__(self, instance: Actor, owner: type) -> Callable[P, R_co]: ...
        def __get__(self, instance: Any, owner: type) -> Any: ...


class AsyncEndpoint(Declared, Generic[A_co, P, R_co]):
    """What `@endpoint` makes of an `async def` method."""

    if TYPE_CHECKING:  # each message names its endpoint, so at run time there is no detour

        @overload
        def __get__(self, instance: None, owner: type) -> Operation[A_co, P, R_co]: ...
        @overload
        def __get__(self, instance: Actor, owner: type) -> Callable[P, Coroutine[Any, Any, R_co]]: ...
        def __get__(self, instance: Any, owner: type) -> Any: ...


class ThreadEndpoint(Endpoint[A_co, P, R_co]):
    """What `@endpoint(thread=True)` makes of a plain method: it runs in a worker thread."""

    threaded = True

    def handler(self, route: Route) -> Invoke:  # noqa: ARG002 - the signature of all features
        function = self.function

        async def invoke(actor: Any, call: Call) -> Any:
            arguments = call.arguments() if call.kwargs is None else call.kwargs
            # A thread cannot be stopped: whoever waits for it has its answer at the deadline, the actor waits on.
            with anyio.CancelScope(shield=True):
                return await offload.run(partial(function, actor, **arguments))

        return invoke


class ProcessEndpoint(Endpoint[A_co, P, R_co]):
    """What `@endpoint(process=True)` makes of a static method: it runs in a worker process."""

    def __get__(self, instance: Any, owner: type) -> Any:
        return self.function if instance is not None else super().__get__(instance, owner)

    def signature(self, owner: type) -> Signature:
        return signature_of(self.function, owner, self.local_names, own=0)

    def handler(self, route: Route) -> Invoke:
        target, signature = processes.target_of(route.owner, self.name), route.signature

        async def invoke(_: Any, call: Call) -> Any:
            arguments = call.arguments() if call.kwargs is None else call.kwargs
            body, content_type = await processes.run(target, *signature.encode(arguments), by=_IN_PROCESS)
            return signature.decode_result(body, content_type)

        return invoke


def run_here(operation: Operation[Any, ..., Any], body: bytes, content_type: str) -> tuple[bytes, str]:
    """Within a worker process: run the static method for a call that came as bytes."""
    feature = operation.feature
    signature = feature.signature(operation.owner)
    return signature.encode_result(feature.function(**signature.decode(body, content_type)), content_type)


_IN_PROCESS = f"{__name__}:{run_here.__name__}"


class _Decorator:
    """`@endpoint(...)` with settings: decorates either kind of method."""

    def __init__(self, settings: dict[str, Any], *, thread: bool, process: bool) -> None:
        self._settings = settings
        self._thread = thread
        self._process = process

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the narrower one, an async def, comes first
        self, function: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R_co]], /
    ) -> AsyncEndpoint[A_co, P, R_co]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A_co, P], R_co], /) -> Endpoint[A_co, P, R_co]: ...
    def __call__(self, function: Any, /) -> Any:
        return _declared(function, self._settings, thread=self._thread, process=self._process)


class _ProcessDecorator(Protocol):
    """`@endpoint(process=True)`: decorates a static method, which has no `self`. To type checkers that is a function
    like any other, so only the setting tells.
    """

    def __call__(self, function: Callable[P, R_co], /) -> Endpoint[Any, P, R_co]: ...


@overload
def endpoint(  # type: ignore[overload-overlap]  # the narrower one, an async def, comes first
    function: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R_co]], /
) -> AsyncEndpoint[A_co, P, R_co]: ...
@overload
def endpoint(function: Callable[Concatenate[A_co, P], R_co], /) -> Endpoint[A_co, P, R_co]: ...
@overload
def endpoint(
    *,
    method: str = ANY_METHOD,
    path: str | None = None,
    port: int | None = None,
    requires: str | None = None,
    queue: str | None = None,
    manual: bool = False,
    concurrency: int | None = None,
    key: str | None = None,
    budget: Duration | None = None,
    process: Literal[True],
) -> _ProcessDecorator: ...
@overload
def endpoint(
    *,
    method: str = ANY_METHOD,
    path: str | None = None,
    port: int | None = None,
    requires: str | None = None,
    queue: str | None = None,
    manual: bool = False,
    concurrency: int | None = None,
    key: str | None = None,
    budget: Duration | None = None,
    thread: bool = False,
    process: Literal[False] = False,
) -> _Decorator: ...
def endpoint(
    function: Callable[..., Any] | None = None,
    /,
    *,
    method: str = ANY_METHOD,
    path: str | None = None,
    port: int | None = None,
    requires: str | None = None,
    queue: str | None = None,
    manual: bool = False,
    concurrency: int | None = None,
    key: str | None = None,
    budget: Duration | None = None,
    thread: bool = False,
    process: bool = False,
) -> Any:
    """Declare a method that is called by message.

        @endpoint
        async def add(self, by: int = 1) -> int: ...

        @endpoint(concurrency=16, key="order_id", requires="roles.buyer && !suspended")
        async def place(self, order_id: str) -> Order: ...

        @endpoint(process=True)
        @staticmethod
        def checksum(data: bytes) -> str: ...

    Arguments are decoded by their annotations (400 names the wrong field), the result is encoded by its own.
    `path` is by default the name in kebab-case, on port 443; port 444 keeps it off the gateway, 0 is any but 666, the
    trusted one. A segment `{name}` of it is an argument, `{name...}` at its end all that follows, for who asks by
    address; the query and the body win over it. `method` is the one HTTP method it answers to; any, by default.
    `requires` is judged against the claims of the end user: 401 where the message acts for nobody, 403 where it is
    false.

    Of the replicas of a host one gets each message. `queue="every"` gives it to each of them; another name makes a
    group of those that have the same, apart from the host's own. A `manual` endpoint is not reached (404) until the
    actor has said `self.activate(Orders.place)`.

    An `async def` method may await; a plain `def` runs inline and blocks the loop while it runs. With `thread=True` it
    runs in a worker thread, where `self.ask(...).result()` waits for an answer; one that overruns its time budget
    keeps the actor busy for a second, then its incarnation is left behind. With `process=True` it is a static method
    that runs in a worker process; arguments and result cross as bytes, and a worker process that dies is a crash of
    that call.

    With `concurrency` so many messages of the endpoint run at once, beside the actor's others, with a queue of their
    own; with `key` one at a time of those with the same value of that parameter, in order.

    With a `budget` an ask ends (BudgetSpent) so long after its arrival at the latest, the wait in the mailbox included,
    and what it asks in turn has no more time: the asker may give it less, and not more. A tell has no deadline.
    """
    settings = {
        "method": method, "path": path, "port": port, "requires": requires, "queue": queue, "manual": manual,
        "concurrency": concurrency, "key": key, "budget": budget,
    }  # fmt: skip
    if function is not None:
        return _declared(function, settings, thread=False, process=False)
    return _Decorator(settings, thread=thread, process=process)


def _declared(function: Any, settings: dict[str, Any], *, thread: bool, process: bool) -> Feature:
    local_names = locals_where_defined(3)
    static = isinstance(function, staticmethod)
    method = function.__func__ if static else function
    name = getattr(method, "__qualname__", repr(method))
    is_async = inspect.iscoroutinefunction(method)
    if thread and process:
        raise DeclarationError(f"{name}: thread and process were both given, one of them expected")
    if static != process:
        raise DeclarationError(
            f"{name}: process=True runs a static method, without self: only arguments and result cross"
            if process
            else f"{name}: a static method was given; only @endpoint(process=True) takes one"
        )
    if (thread or process) and is_async:
        raise DeclarationError(f"{name}: `async def` was given; a worker runs a plain `def`")
    kind: type[Declared] = (
        ThreadEndpoint if thread else ProcessEndpoint if process else AsyncEndpoint if is_async else Endpoint
    )
    return kind(method, local_names=local_names, **settings)
