"""Where asks and tells to an actor of this process start: arguments, time budget, path, and into its mailbox.

What meets nothing unusual takes a shorter way to the same end, written out in `ActorRef.ask` and `ActorRef.tell`.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from dataclasses import replace
from threading import get_ident
from typing import TYPE_CHECKING, Any

from mbactor import observe
from mbactor.errors import CallTooDeep, MbactorError, Unavailable
from mbactor.kernel.budget import deadline_of_ask
from mbactor.kernel.client import SerializedCall
from mbactor.kernel.context import MAX_DEPTH, Call, check_not_fenced, current
from mbactor.kernel.feature import Operation, check_operation
from mbactor.kernel.ways import spent
from mbactor.transport.message import Envelope, Message, messages_of

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.gate import Gate
    from mbactor.kernel.node import Node
    from mbactor.kernel.routes import Route

Arguments = tuple[Any, ...]


class Way:
    """The short way of one operation into a mailbox: see `ActorRef.ask` and `ActorRef.tell`."""

    __slots__ = (
        "bind", "context", "direct", "exact", "future", "gate", "lone", "loop", "names", "needed", "only", "queue",
        "route", "thread", "time", "types", "work",
    )  # fmt: skip

    def __init__(self, route: Route, gate: Gate) -> None:
        node = gate.cell.node
        self.loop, self.thread, self.time, self.future = node.loop, node.thread, node.time, node.future
        self.route = route
        self.direct = route.direct
        self.gate = gate
        self.queue = gate.queue
        self.work = gate.work
        self.context = self.lone = Call(route, None, gate.cell, direct=route.direct)
        self.names = route.signature.positional
        self.bind = route.bind
        exact = route.signature.exact
        self.needed = len(exact)
        self.types = {name: next(iter(types)) for name, types in exact.items() if len(types) == 1}
        """The type of which the value of a parameter is handed over as it is, where there is just one."""
        self.only = ""
        self.exact: type | None = None
        if route.lone is not None and type(None) not in exact[route.only] and len(self.types) == 1:
            # As for most messages: its value is looked at without a call, and waits without a mapping.
            [(self.only, self.exact)] = self.types.items()
            self.lone = Call(route, None, gate.cell, lone=route.lone)

    def fits(self, kwargs: dict[str, Any]) -> bool:
        """Whether all arguments are given, and none need be bound."""
        types = self.types
        for name in kwargs:  # noqa: PLC0206 - `items()` makes a pair for each
            if type(kwargs[name]) is not types.get(name):
                return False
        return len(kwargs) == self.needed

    def name(self, args: Arguments, kwargs: dict[str, Any]) -> bool:
        """Add arguments that came by position to those that came by name. False where that is for the long way."""
        names = self.names
        if kwargs or len(args) > len(names):
            return False
        for at, value in enumerate(args):  # a third of what `update` of a `zip` takes
            kwargs[names[at]] = value
        return True


NO_WAYS: Mapping[Any, Way] = {}


def ask(cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]) -> Any:
    """Send to one actor of this process; the future of the answer, or an `Answer` in a thread."""
    node = cell.node
    if get_ident() != node.thread:
        return _elsewhere(node, lambda: ask(cell, operation, args, kwargs))
    future = node.future()
    caller = current.get()
    now = node.time()
    try:
        check_not_fenced(caller)
        route = cell.routes.by_operation.get(operation) or cell.routes.of(operation)
        bound = route.bind(args, kwargs)
        deadline = deadline_of_ask(caller, now, node.loop)
        if deadline <= now:
            raise spent(route.name)
        if node.serialize_local:
            call: Call = _serialized(route, bound, cell, deadline, future, now)
        else:
            call = Call(route, bound, cell, now, None, None, deadline, future)
        if caller is not None:
            of_caller(call, caller)
    except MbactorError as error:
        future.set_exception(error)
        return future
    if observe.tracers:
        call.trace = observe.traceparent() or call.trace
    _find_way(cell, operation, route)
    cell.accept(call)
    return future


def ask_ref(cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]) -> Any:
    """As `ask`, for who has a ref: by way of the broker where that may not let it through."""
    if _passes(cell, operation):
        return ask(cell, operation, args, kwargs)
    node = cell.node
    if get_ident() != node.thread:
        return _elsewhere(node, lambda: ask_ref(cell, operation, args, kwargs))
    return node.remote.ask(cell.cls.host or "", cell.replica, operation, args, kwargs)


def tell_ref(cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]) -> bool:
    """As `tell`, for who has a ref."""
    if _passes(cell, operation):
        return tell(cell, operation, args, kwargs)
    node = cell.node
    if get_ident() != node.thread:
        return told_elsewhere(node, lambda: tell_ref(cell, operation, args, kwargs))
    return node.remote.tell(cell.cls.host or "", cell.replica, operation, args, kwargs)


def tell_wait_ref(cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]) -> Any:
    """As `tell_wait`, for who has a ref: what goes by way of the broker is told, and waits for nothing."""
    if get_ident() != cell.node.thread:
        return _elsewhere(cell.node, lambda: tell_wait_ref(cell, operation, args, kwargs))
    if _passes(cell, operation):
        return tell_wait(cell, operation, args, kwargs)
    told = cell.node.future()
    try:
        tell_ref(cell, operation, args, kwargs)
        told.set_result(None)
    except MbactorError as error:
        told.set_exception(error)
    return told


def _passes(cell: Cell, operation: Operation[Any, ..., Any]) -> bool:
    """Whether a message by ref goes straight into the mailbox."""
    guard, host = cell.node.guard, cell.cls.host
    if guard is None or host is None or cell.served is None:
        return True
    check_operation(operation)
    return guard.admits(replace(operation.feature.address(host), replica=cell.replica))


def tell(cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]) -> bool:
    """Send to one actor of this process and forget. BadRequest is raised at once."""
    node = cell.node
    if get_ident() != node.thread:
        return told_elsewhere(node, lambda: tell(cell, operation, args, kwargs))
    call = _told(cell, operation, args, kwargs)
    _find_way(cell, operation, call.route)
    return cell.accept(call)


def _find_way(cell: Cell, operation: Operation[Any, ..., Any], route: Route) -> None:
    """Let the next message of this operation take the short way, where there is one."""
    if cell.node.guard is not None and cell.cls.host is not None:
        return
    if route.quick and operation not in cell.ways:
        gate = cell.gate(route.gate)
        if gate.quick and not gate.keyed:
            cell.ways = {**cell.ways, operation: Way(route, gate)}


def kick(gate: Gate, now: float) -> None:
    """There is a message, put there by any thread."""
    node = gate.cell.node
    if get_ident() == node.thread:
        gate.kick(now)
    elif node.loop is not None:
        node.loop.call_soon_threadsafe(gate.kick)


def tell_wait(
    cell: Cell,
    operation: Operation[Any, ..., Any],
    args: Arguments,
    kwargs: dict[str, Any],
    *,
    budget: float | None = None,
    incarnation: int = 0,
) -> Any:
    """As `tell`, when there is room; the future of that. It waits within the caller's budget, where none is given.

    With a number it is meant for that incarnation only.
    """
    if get_ident() != cell.node.thread:
        limits: dict[str, Any] = {"budget": budget, "incarnation": incarnation}
        return _elsewhere(cell.node, lambda: tell_wait(cell, operation, args, kwargs, **limits))
    try:
        if budget is None:
            now = cell.node.time()
            budget = deadline_of_ask(current.get(), now, cell.node.loop) - now
        call = _told(cell, operation, args, kwargs)
        call.incarnation = incarnation
        return cell.accept_waiting(call, budget)
    except MbactorError as error:
        return failed_already(error)


def _told(cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]) -> Call:
    node = cell.node
    route = cell.routes.by_operation.get(operation) or cell.routes.of(operation)
    bound = route.bind(args, kwargs)
    caller = current.get()
    check_not_fenced(caller)
    if node.serialize_local:
        call: Call = _serialized(route, bound, cell, math.inf, None, node.time())
    else:
        call = Call(route, bound, cell, node.time())
    if caller is not None:
        call.caller = caller
        carry(call, caller)
    if observe.tracers:
        call.trace = observe.traceparent() or call.trace
    return call


def of_caller(call: Call, caller: Call) -> None:
    """An ask made while a call is handled: one deeper on its path, for the same user."""
    depth = caller.depth + 1
    if depth > MAX_DEPTH:
        raise CallTooDeep(f"{call.route.name} would be call number {depth} in a chain; the limit is {MAX_DEPTH}")
    call.caller = caller
    call.depth = depth
    carry(call, caller)
    caller.note(call)


def carry(call: Call, caller: Call) -> None:
    """What goes along with all that is made for a call."""
    call.identity, call.trace, call.baggage = caller.identity, caller.trace, caller.baggage
    call.token, call.passed = caller.token, caller.passed


def carries(caller: Call) -> bool:
    """Whether anything goes along that a tell without a call of its own would lose."""
    return bool(caller.identity is not None or caller.token or caller.baggage or caller.passed)


def failed_already(error: MbactorError) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def _serialized(
    route: Route, bound: dict[str, Any], cell: Cell, deadline: float, future: asyncio.Future[Any] | None, now: float
) -> SerializedCall:
    body, content_type = route.signature.encode(bound)
    [message] = messages_of(Message(Envelope("ask", "0", content_type=content_type), body).to_bytes())
    content_type = message.envelope.content_type
    return SerializedCall(
        route, None, cell, now, None, None, deadline, future, body=message.body, content_type=content_type
    )


# --- from another thread -----------------------------------------------------------------------------------------


class Answer(ThreadFuture[Any]):
    """The answer to an ask made in a thread: `result()` waits for it there."""

    def __init__(self, caller: Call | None) -> None:
        super().__init__()
        self.caller = caller
        self.waited_for = False
        """Whether the thread of the caller stands still for it."""

    def result(self, timeout: float | None = None) -> Any:
        self.waited_for = True
        try:
            return super().result(timeout)
        finally:
            self.waited_for = False

    def __await__(self) -> Any:
        raise RuntimeError("this ask was made in a thread, which cannot await: use .result()")


def _elsewhere(node: Node, send: Callable[[], Any]) -> Any:
    """An ask made where the node's loop does not run: in a thread, or wrongly."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _asked_in_thread(node, send)
    try:
        node.check_running()
    except Unavailable as error:
        return failed_already(error)
    raise AssertionError("the node's loop runs in another thread than it was opened in")


def _asked_in_thread(node: Node, send: Callable[[], Any]) -> Answer:
    try:
        return from_thread(node, send)
    except Unavailable as error:
        answer = Answer(current.get())
        answer.set_exception(error)
        return answer


def told_elsewhere(node: Node, told: Callable[[], bool]) -> bool:
    """As `tell`, where the node's loop does not run: returns when the message is in the mailbox, or was refused."""
    with suppress(RuntimeError):
        node.check_running()

    async def tell_there() -> bool:
        return told()

    return bool(from_thread(node, tell_there).result())


def from_thread(node: Node, send: Callable[[], Any]) -> Answer:
    """Let the loop send; the answer can be waited for in the thread by `result()`."""
    loop = node.loop
    if loop is None:
        raise Unavailable("the system is not running; use it in an `async with` block")
    answer = Answer(current.get())

    def begin() -> None:
        try:
            future: asyncio.Future[Any] = asyncio.ensure_future(send())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            answer.set_exception(error)
        else:
            future.add_done_callback(lambda done: _pass_on(done, answer))

    loop.call_soon_threadsafe(begin, context=contextvars.copy_context())
    return answer


def _pass_on(done: asyncio.Future[Any], answer: Answer) -> None:
    if answer.done():
        return
    if done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
