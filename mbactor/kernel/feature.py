"""What an actor class declares: features.

A feature is a descriptor on the class, in whose place its reference stands once the class is made. Taken from the
class it is an `Operation`, the typed reference that `ask` and `tell` are given; taken from an instance it is the plain
method, for unit tests. A package above the kernel may add features of its own: it subclasses `Feature` and overrides
`handler`. `routes.py` makes what runs of the features of a class.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import types
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from mbactor.errors import DeclarationError, MbactorError
from mbactor.expressions import Expression, parse
from mbactor.kernel.context import Call
from mbactor.kernel.schema import Signature, signature_of
from mbactor.transport.address import ANY_METHOD, DEFAULT_PORT, METHODS, Address, kebab
from mbactor.transport.subjects import path_names

if TYPE_CHECKING:
    from mbactor.kernel.routes import Route

A_contra = TypeVar("A_contra", contravariant=True)
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

EVERY = "every"
"""The queue that is none: each replica gets each message."""

Invoke = Callable[[Any, Call], Awaitable[Any]]
"""Runs the method of an actor for a call and returns its result."""
Direct = Callable[[Any, dict[str, Any]], Awaitable[Any]]
"""Runs the method of an actor with arguments that are bound."""


if TYPE_CHECKING:

    class _Taken:
        def __init__(self, bound: Callable[[Any], Any]) -> None: ...

else:
    # Each message names its endpoint, and a property that is taken from a class is the property itself, without a
    # step in Python: so a reference is one, and stands in its class where the feature was (`take_from`). Taken from an
    # instance it is the plain method.
    _Taken = property


class Reference(_Taken, Generic[P, R_co]):
    """A method of an actor class, taken from the class: `Counter.add`, `Orders.on_placed`.

    It carries the method's signature for type checkers and the class it was taken from, so `Sub.add` addresses
    Sub even where `add` is inherited. There is one for each class and method, so it is compared by identity.
    """

    named = "a method"
    """What it refers to, in errors."""
    sent_by = "ask, tell"

    def __init__(self, feature: Feature, owner: type) -> None:
        super().__init__(partial(types.MethodType, feature.function))
        self.feature = feature
        self.owner = owner
        self.__doc__ = feature.__doc__

    def __call__(self, *_: Any, **__: Any) -> Any:
        sent = " or ".join(f"{verb}({self!r}, ...)" for verb in self.sent_by.split(", "))
        raise TypeError(
            f"{self!r} is a reference: send it with {sent}, or call the method of an"
            f" instance, {self.owner.__name__}(...).{self.feature.name}(...)"
        )

    @property
    def __isabstractmethod__(self) -> bool:
        return self.feature.__isabstractmethod__

    @property
    def url(self) -> str:
        """Where the method is reached. DeclarationError where its class has no host."""
        return str(self.feature.address(host_of(self.owner)))

    def __repr__(self) -> str:
        return f"{self.owner.__name__}.{self.feature.name}"


class Operation(Reference[P, R_co], Generic[A_contra, P, R_co]):
    """An endpoint, taken as a reference: what `ask` and `tell` are given."""

    named = "an endpoint"


class Feature:
    """A declared method: where it is reached and how it is run.

    `aside` features do not pass the actor's serial gate: up to 64 of them run at once beside it. One with a
    `concurrency` has a gate of its own. Of the replicas that serve a feature one gets each message, by the queue of
    their host; by a queue of another name where `queue` says one, and all of them where that is `EVERY`.
    """

    port = DEFAULT_PORT
    aside = False
    begins_late = False
    """The method says itself when it begins (`begin_budget`): it may wait for a thread first."""
    threaded = False
    """The method runs in a thread: it cannot be cancelled."""
    concurrency: int | None = None
    key: str | None = None
    budget: float | None = None
    """Seconds that an ask has at most, from its arrival."""
    requires: Expression | None = None
    queue: str | None = None
    manual = False
    """It is on the bus from `Actor.activate` to `Actor.deactivate` only."""
    served = True
    """Whether it is for messages; a declared event is not."""
    elsewhere = False
    """Whether it listens at the host of another actor, as a sink does."""
    at_sink = False
    """Of an event: whether it is published at the host of whoever sinks it, so that one host is told and no other."""
    reference: type[Reference[Any, Any]] = Operation
    """What it is when it is taken from its class."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        method: str = ANY_METHOD,
        path: str | None = None,
        port: int | None = None,
        requires: str | None = None,
        queue: str | None = None,
        manual: bool = False,
        local_names: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(function, Feature):
            raise DeclarationError(
                f"{function.function.__qualname__}: declared twice; one of @endpoint, @event, @sink, @task and"
                " @workflow expected"
            )
        given: Any = function
        verb: object = method
        if not callable(given) or not hasattr(given, "__name__"):
            raise DeclarationError(f"{function!r} given where a method is declared; a function of the class expected")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DeclarationError(
                f"{function.__qualname__}: a generator was given, and a message has one answer; return a list, or tell"
                " each value to a ref that the asker sends along"
            )
        if not isinstance(verb, str) or method.upper() not in METHODS | {ANY_METHOD}:
            known = ", ".join(sorted(METHODS))
            raise DeclarationError(f"{function.__qualname__}: method {method!r}: expected ANY or one of {known}")
        self.function = function
        self.name = function.__name__
        self.method = method.upper()
        self.path = path if path is not None else "/" + kebab(self.name)
        self._check_path()
        if port is not None:
            self.port = _port(port, function)
        if requires is not None:
            self.requires = _parsed(requires, function)
        if queue is not None:
            self.queue = _queue(queue, function)
        if type(manual) is not bool:
            raise DeclarationError(f"{function.__qualname__}: manual {manual!r}: True or False expected")
        self.manual = manual
        self.local_names = local_names
        self._references: dict[type, Reference[Any, Any]] = {}
        self.__doc__ = function.__doc__

    def _check_path(self) -> None:
        path: object = self.path
        where = f"{self.function.__qualname__}: path {path!r}"
        if not isinstance(path, str) or not path.startswith("/"):
            raise DeclarationError(f"{where}: expected a path that begins with '/'")
        try:
            path_names(path)
        except ValueError as error:
            raise DeclarationError(f"{where}: {error}") from None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def __isabstractmethod__(self) -> bool:
        return bool(getattr(self.function, "__isabstractmethod__", False))

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            try:
                return self._references[owner]
            except KeyError:
                return self._references.setdefault(owner, self.reference(self, owner))
        return types.MethodType(self.function, instance)

    def address(self, host: str) -> Address:
        """Where it is reached at a host; one that takes any method is asked with POST."""
        method = "POST" if self.method == ANY_METHOD else self.method
        return Address(host, self.path, method, self.port)

    def subscribed(self, host: str) -> Address:
        """What the replicas of a host listen to."""
        return Address(host, self.path, self.method, self.port)

    def signature(self, owner: type) -> Signature:
        return signature_of(self.function, owner, self.local_names)

    def handler(self, route: Route) -> Invoke:  # noqa: ARG002 - a feature of another package may need it
        """How a call runs the method: decode where it came as bytes, then call."""
        function = self.function
        if inspect.iscoroutinefunction(function):

            def invoke(actor: Any, call: Call) -> Awaitable[Any]:
                return function(actor, **(call.arguments() if call.kwargs is None else call.kwargs))  # type: ignore[no-any-return]

            return invoke

        async def invoke_plain(actor: Any, call: Call) -> Any:
            return function(actor, **(call.arguments() if call.kwargs is None else call.kwargs))

        return invoke_plain

    def default_of(self, parameter: str | None) -> Any:
        """What the method finds in a parameter that a message leaves out; None where it has to be given."""
        found = inspect.signature(self.function).parameters.get(parameter or "")
        return None if found is None or found.default is inspect.Parameter.empty else found.default

    def direct(self, names: tuple[str, ...]) -> Direct | None:
        """What to await to run the method with the arguments of these names, where that is all a handler would do."""
        if type(self).handler is not Feature.handler:
            return None
        return self._awaited(_calling(self.function, names))

    def lone(self, name: str) -> Callable[[Any, Any], Awaitable[Any]] | None:
        """The same with the value of the only argument; None where that may be left out, or has to be named."""
        return self._awaited(self.function) if _by_position(self.function, (name,)) else None

    def _awaited(self, calls: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
        """What calls the method, as something to await."""
        if inspect.iscoroutinefunction(self.function):
            return calls

        async def at_once(actor: Any, given: Any) -> Any:
            return calls(actor, given)

        return at_once


def _by_position(method: Callable[..., Any], names: tuple[str, ...]) -> bool:
    """Whether arguments of these names are all a method takes, in this order."""
    code = method.__code__ if type(method) is types.FunctionType and not method.__defaults__ else None
    return code is not None and code.co_varnames[1 : code.co_argcount] == names


def _calling(method: Callable[..., Any], names: tuple[str, ...]) -> Callable[[Any, dict[str, Any]], Any]:
    """By position where all are given so: a call with a mapping costs a tenth of all that a tell does."""
    if _by_position(method, names):
        match names:
            case ():
                return lambda actor, _: method(actor)
            case (a,):
                return lambda actor, given: method(actor, given[a])
            case (a, b):
                return lambda actor, given: method(actor, given[a], given[b])
            case (a, b, c):
                return lambda actor, given: method(actor, given[a], given[b], given[c])
    return lambda actor, given: method(actor, **given)


def feature_of(attribute: Any) -> Feature | None:
    """The feature that stands in a class under a name; None where something else does."""
    if isinstance(attribute, Reference):
        return attribute.feature
    return attribute if isinstance(attribute, Feature) else None


def take_from(owner: type) -> None:
    """Put the references of a class where its features are, those it inherits too: each is of the class it is taken
    from. A feature with a `__get__` of its own stays.
    """
    found: dict[str, Any] = {}
    for one in reversed(owner.__mro__):
        found.update(vars(one))
    for name, attribute in found.items():
        feature = feature_of(attribute)
        if feature is not None and type(feature).__get__ is Feature.__get__:
            setattr(owner, name, feature.__get__(None, owner))


def check_operation(operation: Any) -> None:
    """TypeError for what is no reference to an endpoint, with what is meant instead."""
    if not isinstance(operation, Operation):
        raise TypeError(
            f"{shown(operation)} given, a reference to an endpoint expected, such as Counter.add: a method of an actor"
            " class, decorated with @endpoint and taken from the class. Tasks and workflows run through Flows, events"
            " are published"
        )


def shown(given: Any) -> str:
    """What was given instead of a reference: functions by their names, a method of `self` with its reference."""
    match given:
        case types.FunctionType():
            return given.__qualname__
        case types.MethodType():
            return f"self.{given.__name__} (which is called, and {type(given.__self__).__name__}.{given.__name__} sent)"
        case _:
            return repr(given)


def check_reference(reference: Any, *kinds: type[Reference[Any, Any]]) -> None:
    """TypeError for what is no reference of these kinds."""
    if not isinstance(reference, kinds):
        expected = " or ".join(kind.named for kind in kinds)
        raise TypeError(f"{shown(reference)} given, a reference to {expected} expected, taken from the class")


def begin_budget(actor: Any, call: Call) -> None:
    """The method begins now: its time budget counts from here."""
    incarnation = actor._incarnation  # noqa: SLF001 - the machinery's own mark on the actor
    if call.budget is not None and incarnation is not None:
        call.deadline = asyncio.get_running_loop().time() + call.budget
        incarnation.cell.watch_no_later_than(call.deadline)


def host_of(owner: type) -> str:
    """The host of a class that is asked by class."""
    host: str | None = getattr(owner, "host", None)
    if host is None:
        raise DeclarationError(
            f"{owner.__name__} has no host, so it cannot be addressed by its class; ask it through its ref, or give it"
            f" one: host = '{kebab(owner.__name__)}.example'"
        )
    return host


def _port(port: Any, function: Callable[..., Any]) -> int:
    if type(port) is not int or not 0 <= port < 1 << 16:
        raise DeclarationError(
            f"{function.__qualname__}: port {port!r}: a whole number from 1 to 65535 expected, or 0 for any"
        )
    return port


_QUEUE = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


def _queue(queue: Any, function: Callable[..., Any]) -> str:
    if not isinstance(queue, str) or not _QUEUE.fullmatch(queue):
        raise DeclarationError(
            f"{function.__qualname__}: queue {queue!r}: a name of letters, digits, hyphens and dots expected, or"
            f" {EVERY!r} for every replica; without one it is the queue of the host"
        )
    return queue


def _parsed(requires: str, function: Callable[..., Any]) -> Expression:
    try:
        return parse(requires)
    except MbactorError as error:
        raise DeclarationError(f"{function.__qualname__}: requires {requires!r}: {error}") from error
