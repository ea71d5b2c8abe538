"""`Probe`: an actor that stands in for a class, keeps what it is sent and answers by script.

    mail = await mbactor_probe(Mail)
    mail.reply(Mail.send, "queued", Unavailable("full"))    # the first ask, and all that follow
    ...
    sent = await mail.expect(Mail.send, to="ada@example.com")

It has the class's host, addresses and signatures, so whoever asks `Mail` reaches it, and a wrong argument is the same
400; nothing of the class's own code runs. Tasks and workflows of the class are there too, and fail with what to do.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar, cast

from mbactor.durations import Duration, seconds, text_of
from mbactor.errors import MbactorError
from mbactor.foreman.features import Task, Workflow
from mbactor.kernel import ActorRef, Operation, config
from mbactor.kernel.actor import Actor
from mbactor.kernel.context import Call
from mbactor.kernel.feature import Feature, Invoke, Reference, feature_of
from mbactor.kernel.properties import properties_of
from mbactor.kernel.routes import HOOKS, Route
from mbactor.kernel.schema import Signature
from mbactor.supervisor import ActorSystem, child
from mbactor.supervisor.spec import kebab_case
from mbactor.transport.address import Address

A = TypeVar("A", bound=Actor)
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Received:
    """A message that reached a probe: the method's name, its arguments, and whether an answer was wanted."""

    method: str
    arguments: Mapping[str, Any]
    asked: bool

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.method}({given})"


@dataclass(slots=True)
class _Record:
    """What a probe and the actor that works for it share."""

    name: str
    received: list[Received] = field(default_factory=list)
    scripts: dict[str, deque[Any]] = field(default_factory=dict)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, route: Route, arguments: Mapping[str, Any], *, asked: bool) -> Any:
        name = route.feature.name
        self.received.append(Received(name, dict(arguments), asked))
        self.more.set()
        script = self.scripts.get(name)
        if script is None:
            if asked and route.signature.returns is not type(None):
                raise MbactorError(f"{self.name} has no reply to {name}: say probe.reply({self.name}.{name}, ...)")
            return None
        reply = script.popleft() if len(script) > 1 else script[0]
        if callable(reply) and not isinstance(reply, type):
            reply = reply(**arguments)
        answer = await reply if inspect.isawaitable(reply) else reply
        if isinstance(answer, BaseException):
            raise answer
        return answer


class _Probed(Feature):
    """Has the address and the signature of a feature, and records the call instead of running the method."""

    def __init__(self, original: Feature, record: _Record) -> None:
        super().__init__(original.function, method=original.method, path=original.path, port=original.port)
        self.name = original.name
        self.queue, self.served, self.elsewhere = original.queue, original.served, original.elsewhere
        self._original = original
        self._record = record

    def subscribed(self, host: str) -> Address:
        return self._original.subscribed(host)

    def signature(self, owner: type) -> Signature:
        return self._original.signature(owner)

    def handler(self, route: Route) -> Invoke:
        async def invoke(_: Any, call: Call) -> Any:
            arguments = call.arguments() if call.kwargs is None else call.kwargs
            return await self._record.take(route, arguments, asked=call.told)

        return invoke


class _Refused(_Probed):
    """A task or a workflow of the class: there is no script for it, so who comes by a graph is told at once."""

    aside = True

    def handler(self, route: Route) -> Invoke:
        async def invoke(_: Any, __: Call) -> Any:
            raise MbactorError(
                f"{route.name} is a task or a workflow, and a probe stands in for {self._record.name}, which is for"
                " endpoints and sinks: run the class itself, or give the graph a task of your own by set_endpoint"
            )

        return invoke


class Probe(Generic[A]):
    """One stand-in. `ref` is its actor; `received` is everything it was sent so far, in order.

        mail = await mbactor_probe(Mail)
        mail.reply(Mail.send, "sent")
        ...
        await mail.expect(Mail.send, to="Ada", within="2m")

    It stands in for endpoints and sinks; a task or a workflow of the class fails, and says that it is a probe's.
    """

    def __init__(self, ref: ActorRef[A], record: _Record) -> None:
        self.ref = ref
        self._record = record
        self._looked_at = 0

    @property
    def received(self) -> tuple[Received, ...]:
        return tuple(self._record.received)

    def reply(
        self,
        operation: Operation[Any, P, R],
        /,
        *replies: R | BaseException | Callable[P, R] | Callable[P, Awaitable[R]],
    ) -> None:
        """Answer asks of a method: one reply an ask, the last one from then on.

        An exception is raised (anything but an MbactorError is a crash); a function is called with the arguments and
        may be `async`. Without a script a method whose result is None answers that, any other an error that says so.
        """
        self._check(operation, "reply")
        if not replies:
            raise TypeError(f"reply({operation!r}): no reply was given")
        self._record.scripts[operation.feature.name] = deque(replies)

    async def expect(
        self, operation: Reference[..., Any] | None = None, /, *, within: Duration = "10s", **arguments: Any
    ) -> Received:
        """The next message, which must be of this method (any, by default) and have at least these arguments.

        Each message is expected once. AssertionError where it is another one, or none comes within the time.
        """
        if operation is not None:
            self._check(operation, "expect")
        got = await self._next(seconds(within))
        if got is None:
            raise AssertionError(
                f"{self._record.name} got nothing within {text_of(seconds(within))}, {_wanted(operation, arguments)}"
                " was expected"
            )
        if not _fits(got, operation, arguments):
            raise AssertionError(f"{self._record.name} got {got}, {_wanted(operation, arguments)} was expected")
        return got

    async def fish(self, operation: Reference[..., Any], /, *, within: Duration = "10s", **arguments: Any) -> Received:
        """As `expect`, past messages of any other kind."""
        self._check(operation, "fish")
        loop, passed = asyncio.get_running_loop(), list[str]()
        deadline = loop.time() + seconds(within)
        while (got := await self._next(max(0.0, deadline - loop.time()))) is not None:
            if _fits(got, operation, arguments):
                return got
            passed.append(str(got))
        raise AssertionError(
            f"{self._record.name} got no {_wanted(operation, arguments)} within {text_of(seconds(within))};"
            f" it got {', '.join(passed) or 'nothing'}"
        )

    async def expect_none(self, within: Duration = "1s") -> None:
        """Nothing comes for so long. AssertionError shows what did."""
        got = await self._next(seconds(within))
        if got is not None:
            raise AssertionError(f"{self._record.name} got {got}, nothing was expected")

    def _check(self, operation: Reference[..., Any], asked: str) -> None:
        """Refuse what never comes here: its script would lie unused, and who expects it would wait in vain."""
        cls, known = self.ref.cell.cls, isinstance(operation, Reference)
        if known:
            stands_in = feature_of(inspect.getattr_static(cls, operation.feature.name, None))
            known = issubclass(cls, operation.owner) and not isinstance(stands_in, _Refused)
        if not known:
            name = self._record.name
            raise TypeError(f"{asked}({operation!r}): an endpoint or a sink of {name} expected, taken from the class")

    async def _next(self, within: float) -> Received | None:
        try:
            async with asyncio.timeout(within):
                while self._looked_at >= len(self._record.received):
                    self._record.more.clear()
                    await self._record.more.wait()
        except TimeoutError:
            return None
        self._looked_at += 1
        return self._record.received[self._looked_at - 1]


class Probes:
    """Starts probes in a system: `mail = await mbactor_probe(Mail)`."""

    def __init__(self, system: ActorSystem) -> None:
        self._system = system

    async def __call__(self, cls: type[A], /, **options: Any) -> Probe[A]:
        """A probe that stands in for a class. `options` are those of `child`: `id`, `mailbox`, ..."""
        record = _Record(cls.__name__)
        ref: ActorRef[A] = await self._system.spawn(
            child(_stand_in(cls, record), **{"id": f"{kebab_case(cls.__name__)}-probe", **options})
        )
        return Probe(ref, record)


def _stand_in(cls: type[A], record: _Record) -> type[A]:
    """A subclass with the features of the class and none of its code."""
    features = {name: feature_of(inspect.getattr_static(cls, name)) for name in dir(cls)}
    members: dict[str, Any] = {
        "__init__": lambda _: None,
        **{name: getattr(Actor, name) for name in HOOKS},
        "__module__": cls.__module__,
    }
    for name, feature in features.items():
        if feature is not None:
            members[name] = (_Refused if isinstance(feature, Task | Workflow) else _Probed)(feature, record)
    declared = properties_of(cls)
    members["__annotations__"] = dict.fromkeys(declared, Any)
    members |= {name: config(default=None) for name in declared}  # it has none of the class's own needs
    made: Any = type(cls.__name__, (cls,), members)
    if getattr(cls, "__abstractmethods__", None):
        made.__abstractmethods__ = frozenset()  # of its code nothing runs
    return cast("type[A]", made)


def _fits(got: Received, operation: Reference[..., Any] | None, arguments: Mapping[str, Any]) -> bool:
    missing = object()
    return (operation is None or got.method == operation.feature.name) and all(
        got.arguments.get(name, missing) == value for name, value in arguments.items()
    )


def _wanted(operation: Reference[..., Any] | None, arguments: Mapping[str, Any]) -> str:
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"{operation.feature.name if operation is not None else 'any message'}({given})"
