"""What runs: the features of an actor class, each made ready once, at the first spawn or `check` of the class."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from mbactor.errors import DeclarationError, MethodNotAllowed, NoSuchActor
from mbactor.kernel.context import Call
from mbactor.kernel.feature import Feature, Invoke, Operation, Reference, check_operation, feature_of
from mbactor.kernel.pipeline import INBOUND, assemble, observed
from mbactor.kernel.properties import differing, properties_of
from mbactor.kernel.schema import Signature
from mbactor.mailbox import Mailbox
from mbactor.transport import subjects
from mbactor.transport.address import ANY_METHOD, TRUSTED_PORT, Address, check_host

if TYPE_CHECKING:
    from mbactor.kernel.actor import Actor

ASIDE_LIMIT = 64
"""Tasks, workflows and web methods of one actor that run at once, beside its serial gate."""
SERIAL, ASIDE = 0, 1
_HOOK_ARGUMENTS = {
    "on_stop": ("exit",),
    "on_exit": ("ref", "exit"),
    "on_undelivered": ("letter",),
    "on_config_changed": ("changed",),
}
HOOKS = ("on_start", "on_stop", "on_exit", "on_undelivered", "on_receive_timeout", "on_config_changed")


@dataclass(frozen=True, slots=True)
class Lanes:
    """How one gate of a class lets messages pass: `limit` at once, and one of a key where `keyed`."""

    name: str
    limit: int
    keyed: bool = False


class Route:
    """One feature of one actor class, ready to run.

    `plain` runs the method, `observed` does so within a span. `direct` runs it with arguments that are bound, where
    nothing stands around it; `lone` does so with the value of `only`, where that is all it takes. `gate` says through
    which of the class's gates it passes.
    """

    __slots__ = (
        "address", "bind", "budget", "direct", "ends", "feature", "gate", "key", "key_default", "lone", "manual",
        "name", "observed", "only", "open", "owner", "plain", "quick", "returns", "signature",
    )  # fmt: skip

    def __init__(self, feature: Feature, owner: type[Actor]) -> None:
        self.feature = feature
        self.owner = owner
        self.gate = ASIDE if feature.aside else SERIAL
        self.key = feature.key
        self.budget = feature.budget
        self.key_default = feature.default_of(self.key)
        """The key of a message that leaves the argument out."""
        self.name = f"{owner.__name__}.{feature.name}"
        self.address = f"{owner.host or owner.__name__}{feature.path}"
        self.signature = feature.signature(owner)
        self.bind = self.signature.bind
        self.returns = self.signature.returns_exact
        handler = feature.handler(self)
        self.plain = assemble(self, handler, tuple(one for one in INBOUND if one is not observed))
        self.observed = assemble(self, handler)
        self.direct = feature.direct(self.signature.names) if self.plain is handler else None
        names = self.signature.names
        self.only = names[0] if len(names) == 1 else ""
        self.lone = feature.lone(self.only) if self.only and self.direct is not None else None
        self.manual = feature.manual
        self.open = not feature.elsewhere and ("{" in feature.path or not feature.port)
        """Whether it is reached at more than one address: arguments of it are in the path, or its port is any."""
        self.ends = True
        """Whether what its method raises, and is no answer, ends the incarnation."""
        plain = self.gate == SERIAL and self.key is None and self.budget is None
        self.quick = plain and self.direct is not None and not self.manual
        """Whether a message of it may take the short way into the mailbox."""

    def query(self, path: str, query: str) -> str:
        """The query of a request with what its path says, which is the last to be heard."""
        found = subjects.path_arguments(self.feature.path, path)
        if not found:
            return query
        given = parse_qs(query, keep_blank_values=True)
        return urlencode({**found, **given}, doseq=True)

    def encode_result(self, value: Any, content_type: str) -> tuple[bytes, str]:
        """The method's result as bytes, in the content type of the request where it can be."""
        signature = self.signature
        if type(value) not in signature.returns_exact:
            value = signature.returned(value)
        return signature.encode_result(value, content_type)


class Hook(Feature):
    """Stands for a hook where a message would name its method: `Counter.on_start`."""

    def __init__(self, function: Any, name: str) -> None:
        super().__init__(function, path=f"/{name}")
        self.name = name

    def signature(self, owner: type) -> Signature:
        return Signature(f"{owner.__name__}.{self.name}", [], Any)

    def handler(self, route: Route) -> Invoke:  # noqa: ARG002 - the signature of all features
        function = self.function

        async def invoke(actor: Any, call: Call) -> Any:
            return await function(actor, *call.kwargs.values())  # whatever the class calls its parameters

        return invoke


class ConfigHook(Hook):
    """`on_config_changed`: where the values of a running actor become others, between two messages."""

    def handler(self, route: Route) -> Invoke:
        function, properties = self.function, properties_of(route.owner)

        async def invoke(actor: Any, call: Call) -> Any:
            # As they are by now: what was applied meanwhile is among them, and nothing is left for a later notice.
            values, before = properties.complete(call.cell.config), actor._configuration  # noqa: SLF001 - our own mark
            changed = differing(before, values)
            actor._configuration = values  # noqa: SLF001
            return await function(actor, changed) if changed else None

        return invoke


async def _background(self: Actor) -> None:
    """Stands for what an actor does beside its messages."""


class Routes:
    """All routes of a class: by operation, by method name, and by port and path for what comes by address."""

    __slots__ = (
        "_by_path", "_open", "_reached", "background", "by_name", "by_operation", "cls", "gates", "hooks", "properties",
        "returns_letters",
        "starts_plainly", "stops_plainly",
    )  # fmt: skip

    def __init__(self, cls: type[Actor]) -> None:
        self.cls = cls
        self.properties = properties_of(cls) or None
        self.by_name: dict[str, Route] = {}
        self.by_operation: dict[Operation[Any, ..., Any], Route] = {}
        self.gates: list[Lanes] = [Lanes("", cls.concurrency), Lanes("aside", ASIDE_LIMIT)]
        self._by_path: dict[tuple[int, str], dict[str, Route]] = {}
        self._open: dict[tuple[int, str], None] = {}
        self._reached: dict[Any, Route] = {}
        for name in dir(cls):
            feature = feature_of(inspect.getattr_static(cls, name))
            if feature is not None:
                if getattr(cls, name).owner is not cls:
                    raise DeclarationError(
                        f"{cls.__name__}.{name} refers to a class above: an __init_subclass__ of it does not call"
                        " super().__init_subclass__()"
                    )
                self._add(Route(feature, cls))
            else:
                self._check_override(name)
        for name in self.properties or ():
            if name in _RESERVED:
                raise DeclarationError(
                    f"{cls.__name__}.{name}: every actor has a {name!r} of its own; choose another name"
                )
        kinds = {"on_config_changed": ConfigHook}
        self.hooks = {name: Route(kinds.get(name, Hook)(getattr(cls, name), name), cls) for name in HOOKS}
        self.background = Route(Hook(_background, "background"), cls)
        own = {name for name in HOOKS if not getattr(getattr(cls, name), "does_nothing", False)}
        self.starts_plainly = "on_start" not in own
        self.stops_plainly = "on_stop" not in own
        self.returns_letters = "on_undelivered" in own
        for route in (*self.by_name.values(), *self.hooks.values()):
            on_error = cls.on_error or ("resume" if self.gates[route.gate].limit > 1 else "restart")
            route.ends = on_error != "resume" and not route.feature.aside

    def of(self, operation: Operation[Any, ..., Any]) -> Route:
        """The route of an operation, which may have been taken from a class above. NoSuchActor where there is none."""
        check_operation(operation)
        route = self.by_name.get(operation.feature.name)
        if route is None:
            raise NoSuchActor(
                self.cls.host or self.cls.__name__,
                f"{self.cls.__name__} has no {operation.feature.name}; {operation!r} was asked for",
            )
        self.by_operation[operation] = route
        return route

    def manual(self, feature: Any) -> Route:
        """The route of what is activated by hand. DeclarationError where it is not declared so."""
        route = self.by_name.get(feature.feature.name) if isinstance(feature, Reference) else None
        if route is None or not route.manual:
            declared = [one.feature.name for one in self.by_name.values() if one.manual]
            raise DeclarationError(
                f"{feature!r} given, a method of {self.cls.__name__} that is declared with manual=True expected"
                + (f": {', '.join(declared)}" if declared else "; it has none")
            )
        return route

    def find(self, address: Address) -> Route:
        """The route of an address: NoSuchActor for an unknown path, MethodNotAllowed for the wrong method."""
        route = self.known(address)
        if route is None:
            raise NoSuchActor(str(address), "the actor has no such path")
        return route

    def known(self, address: Address) -> Route | None:
        """As `find`, but None for an unknown path."""
        taken: list[str] = []
        for methods in self._at(address):
            route = methods.get(address.method) or methods.get(ANY_METHOD)
            if route is not None:
                return route
            taken += methods
        if taken:
            raise MethodNotAllowed(str(address), address.method, tuple(dict.fromkeys(taken)))
        return None

    def _at(self, address: Address) -> Iterator[dict[str, Route]]:
        """The routes by method at the path as it is, then at each pattern that it is one of."""
        exact = self._by_path.get((address.port, address.path))
        if exact is not None:
            yield exact
        for port, path in self._open:
            reached = port == address.port or (port == 0 and address.port != TRUSTED_PORT)
            if reached and subjects.path_arguments(path, address.path) is not None:
                methods = self._by_path[port, path]
                if methods is not exact:
                    yield methods

    def _add(self, route: Route) -> None:
        feature = route.feature
        if feature.name in _RESERVED:
            raise DeclarationError(f"{route.name}: every actor has a {feature.name!r} of its own; choose another name")
        self._check_alone(route)
        self._check_names(route)
        self._choose_gate(route)
        self.by_name[feature.name] = route
        if feature.served and not feature.elsewhere:
            self._by_path.setdefault((feature.port, feature.path), {})[feature.method] = route
            if route.open:
                self._open[feature.port, feature.path] = None

    def _check_alone(self, route: Route) -> None:
        """Two of a class that are reached alike would share the messages of each other."""
        feature = route.feature
        here = feature.subscribed(self.cls.host or "")
        group = feature.queue if feature.elsewhere else None
        other = self._reached.setdefault((here, group, feature.served), route)
        if other is route:
            return
        if feature.elsewhere:
            raise DeclarationError(
                f"{route.name} and {other.name} sink the same event, and one queue gives it to one of them; give one of"
                " them a queue of its own: @sink(..., queue='audit')"
            )
        raise DeclarationError(f"{route.name} and {other.name} are both reached at {feature.method} {feature.path}")

    def _check_names(self, route: Route) -> None:
        """What a path says for no parameter would be lost."""
        given = subjects.path_names(route.feature.path) if route.open else []
        unknown = [name for name in given if name and name not in route.signature.parameters]
        if unknown:
            raise DeclarationError(
                f"{route.name}: path {route.feature.path!r}: {unknown[0]!r} is no parameter of it; it has"
                f" {', '.join(route.signature.names) or 'none'}"
            )

    def _check_override(self, name: str) -> None:
        """A method that has lost the decorator of the one it overrides would just be gone for whoever asks."""
        above = next((one for one in self.cls.__mro__ if feature_of(vars(one).get(name)) is not None), None)
        if above is not None:
            raise DeclarationError(
                f"{self.cls.__name__}.{name} overrides {above.__name__}.{name} without its decorator, such as @endpoint"
            )

    def _choose_gate(self, route: Route) -> None:
        feature = route.feature
        if feature.concurrency is not None:
            route.gate = len(self.gates)
            route.quick = False
            self.gates.append(Lanes(feature.name, feature.concurrency))
        if feature.key is None:
            return
        lanes = self.gates[route.gate]
        if lanes.limit == 1:
            raise DeclarationError(
                f"{route.name}: key {feature.key!r} says nothing while its messages run one at a time; give the"
                " endpoint or the class a concurrency above 1"
            )
        self.gates[route.gate] = replace(lanes, keyed=True)
        if feature.key not in route.signature.parameters:
            takes = ", ".join(route.signature.names) or "none"
            raise DeclarationError(f"{route.name}: key {feature.key!r} is no parameter of it; it has {takes}")


_routes: dict[type, Routes] = {}


def routes_of(cls: type[Actor]) -> Routes:
    """The routes of a class, resolved at the first call. DeclarationError where something cannot work."""
    found = _routes.get(cls)
    if found is None:
        if cls.host is not None:
            if not isinstance(cls.host, str):
                raise DeclarationError(f"{cls.__name__}.host = {cls.host!r}: a text, or None, expected")
            check_host(cls.host, cls.__name__)
        _check_settings(cls)
        for hook in HOOKS:
            _check_hook(cls, hook)
        found = _routes[cls] = Routes(cls)
    return found


def _check_hook(cls: type[Actor], hook: str) -> None:
    method = getattr(cls, hook)
    if not inspect.iscoroutinefunction(method):
        raise DeclarationError(f"{cls.__name__}.{hook} must be an `async def`")
    arguments = _HOOK_ARGUMENTS.get(hook, ())
    try:
        inspect.signature(method).bind(cls, *arguments)
    except TypeError as error:
        called = f"self.{hook}({', '.join(arguments)})"
        raise DeclarationError(f"{cls.__name__}.{hook} is called as {called}: {error}") from None


def _check_settings(cls: type[Actor]) -> None:
    if type(cls.concurrency) is not int or cls.concurrency < 1:
        raise DeclarationError(f"{cls.__name__}.concurrency = {cls.concurrency!r}: a whole number >= 1 expected")
    if cls.on_error not in {None, "restart", "resume", "fail"}:
        raise DeclarationError(f"{cls.__name__}.on_error = {cls.on_error!r}: 'restart', 'resume' or 'fail' expected")
    if type(cls.reentrant) is not bool:
        raise DeclarationError(f"{cls.__name__}.reentrant = {cls.reentrant!r}: True or False expected")
    if type(cls.mailbox) is not Mailbox:
        raise DeclarationError(f"{cls.__name__}.mailbox = {cls.mailbox!r}: a Mailbox expected")


_RESERVED = frozenset(
    {
        "_alive",
        "_configuration",
        "_incarnation",
        "_on_loop",
        "_piped",
        "_timer",
        "activate",
        "ask",
        "ask_all",
        "at",
        "config",
        "deactivate",
        "host",
        "id",
        "log",
        "mailbox",
        *HOOKS,
        "pipe_to_self",
        "publish",
        "ref",
        "refs",
        "request",
        "send_after",
        "send_every",
        "set_receive_timeout",
        "sleep",
        "spawn_task",
        "stash",
        "stop",
        "supervisor",
        "tell",
        "unstash_all",
        "unwatch",
        "watch",
    }
)
