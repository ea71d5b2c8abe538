"""What an actor class declares: features, collected once into routes.

A feature is a descriptor on the class. Taken from the class it is an `Operation`, the typed reference that
`ask` and `tell` are given; taken from an instance it is the plain method, for unit tests. A package above the
kernel may add features of its own: it subclasses `Feature` and overrides `handler`.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from mbactor import observe
from mbactor.errors import DeclarationError, MethodNotAllowed, NoSuchActor
from mbactor.kernel.context import Call
from mbactor.kernel.schema import Signature, signature_of
from mbactor.mailbox import Mailbox
from mbactor.transport.address import ANY_METHOD, DEFAULT_PORT, METHODS, Address, check_host, kebab

if TYPE_CHECKING:
    from mbactor.kernel.actor import Actor

A_contra = TypeVar("A_contra", contravariant=True)
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

Invoke = Callable[[Any, Call], Awaitable[Any]]
"""Runs the method of an actor for a call and returns its result."""


class Operation(Generic[A_contra, P, R_co]):
    """A method of an actor class, taken as a reference: `Counter.add`.

    It carries the method's signature for type checkers and the class it was taken from, so `Sub.add` addresses
    Sub even where `add` is inherited.
    """

    __slots__ = ("feature", "owner")

    def __init__(self, feature: Feature, owner: type) -> None:
        self.feature = feature
        self.owner = owner

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            f"{self!r} is a reference: send it with ask({self!r}, ...) or tell({self!r}, ...), or call the method of an"
            f" instance, {self.owner.__name__}(...).{self.feature.name}(...)"
        )

    @property
    def url(self) -> str:
        """Where the method is reached. DeclarationError where its class has no host."""
        return str(self.feature.address(host_of(self.owner)))

    def __repr__(self) -> str:
        return f"{self.owner.__name__}.{self.feature.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operation) and other.feature is self.feature and other.owner is self.owner

    def __hash__(self) -> int:
        return hash((self.feature, self.owner))


class Feature:
    """A declared method: where it is reached and how it is run.

    `aside` features do not pass the actor's serial gate: up to 64 of them run at once beside it.
    """

    port = DEFAULT_PORT
    aside = False
    begins_late = False
    """The method says itself when it begins (`begin_budget`): it may wait for a thread first."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        method: str = ANY_METHOD,
        path: str | None = None,
        port: int | None = None,
        local_names: dict[str, Any] | None = None,
    ) -> None:
        if method.upper() not in METHODS | {ANY_METHOD}:
            known = ", ".join(sorted(METHODS))
            raise DeclarationError(f"{function.__qualname__}: method {method!r}: expected ANY or one of {known}")
        self.function = function
        self.name = function.__name__
        self.method = method.upper()
        self.path = path if path is not None else "/" + kebab(self.name)
        if not self.path.startswith("/"):
            raise DeclarationError(f"{function.__qualname__}: path {path!r}: expected a path that begins with '/'")
        if port is not None:
            self.port = port
        self.local_names = local_names
        self._operations: dict[type, Operation[Any, ..., Any]] = {}
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is not None:
            return types.MethodType(self.function, instance)
        found = self._operations.get(owner)
        if found is None:
            found = self._operations[owner] = Operation(self, owner)
        return found

    def address(self, host: str) -> Address:
        """Where it is reached at a host; one that takes any method is asked with POST."""
        method = "POST" if self.method == ANY_METHOD else self.method
        return Address(host, self.path, method, self.port)

    def signature(self, owner: type) -> Signature:
        return signature_of(self.function, owner, self.local_names)

    def handler(self, route: Route) -> Invoke:  # noqa: ARG002 - a feature of another package may need it
        """How a call runs the method: decode where it came as bytes, then call."""
        function = self.function
        if inspect.iscoroutinefunction(function):

            async def invoke(actor: Any, call: Call) -> Any:
                return await function(actor, **(call.kwargs or call.arguments()))

            return invoke

        async def invoke_plain(actor: Any, call: Call) -> Any:
            return function(actor, **(call.kwargs or call.arguments()))

        return invoke_plain


def begin_budget(actor: Any, call: Call) -> None:
    """The method begins now: its time budget counts from here."""
    incarnation = actor._incarnation  # noqa: SLF001 - the machinery's own mark on the actor
    if call.budget is not None and incarnation is not None:
        call.deadline = asyncio.get_running_loop().time() + call.budget
        incarnation.cell.watch_no_later_than(call.deadline)


class Route:
    """One feature of one actor class, ready to run. `plain` runs the method, `observed` within a span."""

    __slots__ = ("address", "feature", "name", "observed", "owner", "plain", "signature")

    def __init__(self, feature: Feature, owner: type[Actor]) -> None:
        self.feature = feature
        self.owner = owner
        self.name = f"{owner.__name__}.{feature.name}"
        self.address = f"{owner.host or owner.__name__}{feature.path}"
        self.signature = feature.signature(owner)
        self.plain = feature.handler(self)
        self.observed = observed(self, self.plain)

    def encode_result(self, value: Any, content_type: str) -> tuple[bytes, str]:
        """The method's result as bytes, in the content type of the request where it can be."""
        signature = self.signature
        if type(value) not in signature.returns_exact:
            value = signature.returned(value)
        return signature.encode_result(value, content_type)


def observed(route: Route, handler: Invoke) -> Invoke:
    """The handler inside an `inbound` span that continues the caller's trace."""

    async def observe_call(actor: Any, call: Call) -> Any:
        with observe.span(
            "inbound",
            route.name,
            parent=call.trace,
            actor=actor.host or type(actor).__name__,
            method=route.feature.name,
        ):
            call.trace = observe.traceparent()
            return await handler(actor, call)

    return observe_call


class Routes:
    """All routes of a class: by method name, and by port and path for what comes by address."""

    __slots__ = ("_by_path", "by_name")

    def __init__(self, cls: type[Actor]) -> None:
        self.by_name: dict[str, Route] = {}
        self._by_path: dict[tuple[int, str], dict[str, Route]] = {}
        for name in dir(cls):
            feature = inspect.getattr_static(cls, name)
            if isinstance(feature, Feature):
                self._add(Route(feature, cls))

    def find(self, address: Address) -> Route:
        """The route of an address: NoSuchActor for an unknown path, MethodNotAllowed for the wrong method."""
        methods = self._by_path.get((address.port, address.path))
        if methods is None:
            raise NoSuchActor(str(address), "the actor has no such path")
        route = methods.get(address.method) or methods.get(ANY_METHOD)
        if route is None:
            raise MethodNotAllowed(str(address), address.method, tuple(methods))
        return route

    def _add(self, route: Route) -> None:
        feature = route.feature
        if feature.name in _RESERVED:
            raise DeclarationError(f"{route.name}: every actor has a {feature.name!r} of its own; choose another name")
        methods = self._by_path.setdefault((feature.port, feature.path), {})
        other = methods.get(feature.method)
        if other is not None:
            raise DeclarationError(f"{route.name} and {other.name} are both reached at {feature.method} {feature.path}")
        self.by_name[feature.name] = methods[feature.method] = route


_RESERVED = frozenset(
    {
        "ask",
        "at",
        "host",
        "id",
        "log",
        "mailbox",
        "on_start",
        "on_stop",
        "ref",
        "request",
        "sleep",
        "spawn_task",
        "stop",
        "tell",
    }
)

_routes: dict[type, Routes] = {}


def routes_of(cls: type[Actor]) -> Routes:
    """The routes of a class, resolved at the first call. DeclarationError where something cannot work."""
    found = _routes.get(cls)
    if found is None:
        if cls.host is not None:
            check_host(cls.host, cls.__name__)
        _check_settings(cls)
        for hook in ("on_start", "on_stop"):
            if not inspect.iscoroutinefunction(getattr(cls, hook)):
                raise DeclarationError(f"{cls.__name__}.{hook} must be an `async def`")
        found = _routes[cls] = Routes(cls)
    return found


def _check_settings(cls: type[Actor]) -> None:
    if type(cls.concurrency) is not int or cls.concurrency < 1:
        raise DeclarationError(f"{cls.__name__}.concurrency = {cls.concurrency!r}: a whole number >= 1 expected")
    if cls.on_error not in {None, "restart", "resume", "fail"}:
        raise DeclarationError(f"{cls.__name__}.on_error = {cls.on_error!r}: 'restart', 'resume' or 'fail' expected")
    if type(cls.mailbox) is not Mailbox:
        raise DeclarationError(f"{cls.__name__}.mailbox = {cls.mailbox!r}: a Mailbox expected")


def host_of(owner: type) -> str:
    """The host of a class that is asked by class."""
    host: str | None = getattr(owner, "host", None)
    if host is None:
        raise DeclarationError(
            f"{owner.__name__} has no host, so it cannot be addressed by its class; ask it through its ref, or give it"
            f" one: host = '{kebab(owner.__name__)}.example'"
        )
    return host
