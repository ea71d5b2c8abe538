"""`@task` and `@workflow`: what an actor class contributes to workflows.

    @task
    async def verify_credit(self, credit_score: int) -> CreditVerdict: ...

    @workflow
    def approval(self) -> Graph: ...

A task's parameters are fields of the flow's state, by name; the fields of its result are written back. One
that needs signals asks for a parameter of type `Flow`. Tasks do not pass the actor's serial gate, for a
task's state is the flow's: what they need of the actor's own state they ask its endpoints for. A plain
`def` task runs in a worker thread.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import msgspec

from mbactor import offload
from mbactor.errors import BadRequest, DeclarationError, MbactorError
from mbactor.foreman.model.annotations import fields_of
from mbactor.foreman.model.flow import Flow, Parked, finish
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.rate import Rate
from mbactor.foreman.model.state import decode_fields, decode_value, encode_value
from mbactor.kernel.context import Call
from mbactor.kernel.feature import Feature, Invoke, begin_budget, host_of
from mbactor.kernel.routes import Route
from mbactor.kernel.schema import Signature, locals_where_defined, signature_of
from mbactor.transport.address import TASK_PORT, Address
from mbactor.transport.message import JSON

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Reference:
    """A task or a workflow taken from its class."""

    __slots__ = ("_told", "feature", "owner")

    def __init__(self, feature: Feature, owner: type) -> None:
        self.feature = feature
        self.owner = owner
        self._told = ("", "")

    @property
    def url(self) -> str:
        """Where it is reached. DeclarationError where its class has no host."""
        host = host_of(self.owner)
        if self._told[0] != host:
            self._told = (host, str(self.feature.address(host)))
        return self._told[1]

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            f"{self!r} is a reference: give it as it is to Flows or to a graph, or call the method of an instance,"
            f" {self.owner.__name__}(...).{self.feature.name}(...)"
        )

    def __repr__(self) -> str:
        return f"{self.owner.__name__}.{self.feature.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and (other.feature, other.owner) == (self.feature, self.owner)

    def __hash__(self) -> int:
        return hash((self.feature, self.owner))


class TaskReference(Reference):
    """A task taken as a reference, `Credit.verify_credit`: what a graph names its nodes by."""

    __slots__ = ()

    @property
    def node_name(self) -> str:
        """What a graph calls the node: the method's name."""
        return self.feature.name

    @property
    def rate(self) -> str:
        """How often it may be started; empty: as often as it comes."""
        rate: str = getattr(self.feature, "rate", "")
        return rate

    @property
    def result_fields(self) -> Mapping[str, Any]:
        """The fields that the task writes and their annotations, where its result says which."""
        try:
            return fields_of(self.feature.signature(self.owner).returns)
        except (DeclarationError, NameError):
            return {}  # told where the class is first used


class WorkflowReference(Reference):
    """A workflow taken as a reference, `Credit.approval`: what `Flows` and subgraphs name workflows by."""

    __slots__ = ()


class Task(Feature, Generic[P, R_co]):
    """What `@task` makes of a method."""

    port = TASK_PORT
    aside = True

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        serial: bool = False,
        rate: str = "",
        local_names: dict[str, Any] | None,
    ) -> None:
        super().__init__(function, method="POST", local_names=local_names)
        self.rate = rate
        self.aside = not serial
        self.begins_late = not inspect.iscoroutinefunction(function)
        self._known: dict[type, TaskReference] = {}

    @overload
    def __get__(self, instance: None, owner: type) -> TaskReference: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R_co]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is not None:
            return types.MethodType(self.function, instance)
        known = self._known.get(owner)
        if known is None:
            known = self._known[owner] = TaskReference(self, owner)
        return known

    def signature(self, owner: type) -> Signature:
        read = signature_of(self.function, owner, self.local_names, Flow)
        return CarrierSignature(read.name, list(read.parameters.values()), read.returns, read.given)

    def handler(self, route: Route) -> Invoke:
        function, signature = self.function, route.signature
        threaded = not inspect.iscoroutinefunction(function)

        async def invoke(actor: Any, call: Call) -> Any:
            carried = call.kwargs is not None
            flow: Flow = call.kwargs["flow"] if carried else Flow.from_wire(call.arguments()["carrier"])
            error: BaseException | None = None
            try:
                arguments = _arguments(signature, flow)
                if threaded:
                    begun = partial(begin_budget, actor, call)
                    result = await offload.run_begun(begun, _in_thread, function, actor, arguments)
                else:
                    result = await function(actor, **arguments)
                _write_result(signature, flow, result)
            except (Parked, BaseExceptionGroup) as raised:
                error = raised
            except SystemExit as raised:
                # A library that exits would take every flow of the process with it, again at each recovery.
                raise MbactorError(f"{signature.name} called sys.exit({raised.code!r})") from raised
            if carried:
                return RAN if error is None else Ran(error)
            return _wire_result(flow, error)

        return invoke


class CarrierSignature(Signature):
    """Its bytes are a carrier on the way in and what the carrier came back with on the way out."""

    __slots__ = ()

    def decode(self, body: bytes, content_type: str, query: str = "") -> dict[str, Any]:  # noqa: ARG002
        return {"carrier": body}

    def returned(self, value: Any) -> Any:
        return value

    def encode_result(self, value: Any, content_type: str = JSON) -> tuple[bytes, str]:
        return bytes(value), content_type


class Ran:
    """How a task run in this process came back: `error` is None, or the park that unwound it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


RAN = Ran(None)
"""That of all runs which came to their end."""


class Workflow(Feature, Generic[R_co]):
    """What `@workflow` makes of a method that returns a `Graph`."""

    port = TASK_PORT
    aside = True

    def __init__(self, function: Callable[..., Any], *, local_names: dict[str, Any] | None) -> None:
        super().__init__(function, method="POST", local_names=local_names)

    @overload
    def __get__(self, instance: None, owner: type) -> WorkflowReference: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[[], R_co]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return WorkflowReference(self, owner) if instance is None else types.MethodType(self.function, instance)

    def signature(self, owner: type) -> Signature:
        return CarrierSignature(f"{owner.__name__}.{self.name}", [], Any)

    def handler(self, route: Route) -> Invoke:
        function = self.function

        async def invoke(actor: Any, call: Call) -> Any:
            made = function(actor)
            graph = await made if inspect.isawaitable(made) else made
            if not isinstance(graph, Graph):
                raise MbactorError(f"{route.name} returned {type(graph).__name__}; a workflow returns a Graph")
            return graph if call.kwargs is not None else graph.to_json().encode()

        return invoke


class _TaskDecorator:
    def __init__(self, *, serial: bool, rate: str) -> None:
        self._serial = serial
        self._rate = rate

    def __call__(self, function: Callable[Concatenate[Any, P], R_co], /) -> Task[P, R_co]:
        return Task(function, serial=self._serial, rate=self._rate, local_names=locals_where_defined(2))


@overload
def task(function: Callable[Concatenate[Any, P], R_co], /) -> Task[P, R_co]: ...
@overload
def task(*, serial: bool = False, rate: str = "") -> _TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, /, *, serial: bool = False, rate: str = "") -> Any:
    """Declare a task: one node's work in workflows.

        @task
        async def verify_credit(self, credit_score: int) -> CreditVerdict: ...

    Its work is done at least once and its outcome recorded at most once; `flow.step_key` is the same over all
    runs of one step. An exception fails the step (or takes its on_error transition); the actor goes on.
    `serial=True` makes it queue with the actor's endpoints. `rate` ("100/s", "10/m", "1000/h", "5/d") is how often it
    is started at most, over all Foremen of a database; what comes sooner waits, which costs no attempt.
    """
    if rate:
        try:
            Rate.parse(rate)
        except ValueError as error:
            raise DeclarationError(f"@task(rate=...): {error}") from None
    if function is not None:
        return Task(function, local_names=locals_where_defined(2))
    return _TaskDecorator(serial=serial, rate=rate)


def workflow(function: Callable[[Any], R_co], /) -> Workflow[R_co]:
    """Declare a workflow: a method that builds and returns its `Graph`. It is asked for when flows are created.

        @workflow
        def approval(self) -> Graph:
            graph = Graph("CreditApproval")
            graph.add_transition_chain(Credit.intake, Credit.decide, END)
            return graph

    Each flow keeps the graph that it was created with.
    """
    return Workflow(function, local_names=locals_where_defined(2))


def workflow_address(url: str) -> Address:
    """Where a workflow is asked for its graph. BadRequest where none can be: what is there instead would be called."""
    try:
        address = Address.parse(url)
    except BadRequest as error:
        such = f"https://credit.example:{TASK_PORT}/approval"
        raise BadRequest(f"{error.message}; the URL of a workflow expected, such as {such}") from None
    if address.port != TASK_PORT:
        likely = Address(address.host, address.path, port=TASK_PORT)
        raise BadRequest(f"{url} is at port {address.port}, and workflows are at {TASK_PORT}: {likely}")
    return address


def _arguments(signature: Signature, flow: Flow) -> dict[str, Any]:
    live = flow.fields
    arguments: dict[str, Any] = dict.fromkeys(signature.given, flow)
    for name, parameter in signature.parameters.items():
        raw = live.get(name)
        if raw is not None:
            arguments[name] = _decoded(signature, name, raw, parameter.type)
        elif parameter.required:
            if type(None) not in parameter.exact:
                raise BadRequest(f"{signature.name} needs the field `{name}`, which the flow's state does not have")
            arguments[name] = None
    return arguments


def _decoded(signature: Signature, name: str, raw: msgspec.Raw, type_: Any) -> Any:
    try:
        return decode_value(raw, type_)
    except (MbactorError, msgspec.MsgspecError) as error:
        raise BadRequest(f"{signature.name}: the field `{name}` of the state does not fit: {error}") from None


def _write_result(signature: Signature, flow: Flow, result: Any) -> None:
    """Every field of the result is a change of the flow."""
    if result is None:
        return
    raw = encode_value(result, f"the result of {signature.name}")
    if not bytes(raw).startswith(b"{"):
        raise MbactorError(
            f"{signature.name} returned {type(result).__name__}; a task returns fields (a Struct, TypedDict, dataclass"
            " or dict) or None"
        )
    for name, value in decode_fields(raw).items():
        flow[name] = value


def _in_thread(function: Callable[..., Any], actor: Any, arguments: dict[str, Any]) -> Any:
    return function(actor, **arguments)


def _wire_result(flow: Flow, error: BaseException | None) -> bytes:
    outcome = finish(flow, error)
    if outcome.error is not None:
        raise outcome.error
    return flow.result_to_wire()
