"""`Node`: what all actors of one process share: the directory of hosts, names, dead letters, sweeps.

Asks and tells start here. An address that is served in this process is reached directly; any other goes over
the bus (`remote.py`).
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import secrets
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future as ThreadFuture
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from mbactor import observe
from mbactor.errors import BadRequest, BudgetSpent, CallTooDeep, DeclarationError, MbactorError, Unavailable
from mbactor.kernel.cell import Cell
from mbactor.kernel.client import BytesCall, Response, SerializedCall, body_of
from mbactor.kernel.context import MAX_DEPTH, Call, acting, current, deadline_of_ask
from mbactor.kernel.dead_letters import DeadLetters
from mbactor.kernel.feature import Operation, host_of
from mbactor.kernel.names import Names
from mbactor.kernel.remote import Remote
from mbactor.kernel.routes import Route
from mbactor.kernel.worker import Worker
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus
from mbactor.transport.deadlines import Deadlines
from mbactor.transport.message import JSON, Envelope, Message

T = TypeVar("T")
Arguments = tuple[Any, ...]
_LINGER = 1.0


class Served:
    """The replicas of one host in this process; each in turn."""

    __slots__ = ("cells", "turn")

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.turn = 0

    def next(self) -> Cell:
        if len(self.cells) == 1:
            return self.cells[0]
        self.turn += 1
        return self.cells[self.turn % len(self.cells)]


class Node:
    """The part of a system that runs in this process.

    `serialize_local` passes every message between local actors through bytes, which costs speed and shows what
    could not travel.
    """

    def __init__(self, name: str, bus: Bus, *, plane: str = "mbactor", serialize_local: bool = False) -> None:
        self.name = name
        self.plane = plane
        self.serialize_local = serialize_local
        self.id = "id-" + secrets.token_hex(5)
        self.remote = Remote(self, bus)
        self.dead_letters = DeadLetters()
        self.refs = Names()
        self.cells: WeakValueDictionary[str, Cell] = WeakValueDictionary()
        """Those that can be meant by a replica's id: in an address, or in a ref that has travelled."""
        self.deadlines = Deadlines(_out_of_time)
        self.served: dict[str, Served] = {}
        self.late = 0
        """Answers that came when nobody waited for them any more; they were dropped."""
        self.abandoned = 0
        """Methods that did not end when they were cancelled, and were left behind."""
        self.stopping = False
        """Everything is being stopped: what is down will not come back."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lingering: set[Worker] = set()
        self._linger_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Connect the bus and listen for answers."""
        self.stopping = False
        self._loop = asyncio.get_running_loop()
        await self.remote.open()
        nodes.append(self)

    async def close(self) -> None:
        """End the requester and the bus; wait for what runs in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._loop = None
        if self in nodes:
            nodes.remove(self)
        self.deadlines.close()
        await self.remote.close()
        self.dead_letters.close()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        tasks = [worker.task for worker in self._lingering]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)

    def check_running(self) -> asyncio.AbstractEventLoop:
        """The node's loop. Unavailable where it is not running, or is asked from another loop's thread."""
        if self._loop is None:
            raise Unavailable("the system is not running; use it in an `async with` block")
        if self._loop is not get_running_loop():
            raise Unavailable("an actor system belongs to the event loop that started it, and this is another one")
        return self._loop

    # --- asking by class or host ------------------------------------------------------------------------

    def ask(
        self, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any], host: str | None = None
    ) -> Any:
        """Send to any replica of a host; the future of the answer."""
        check_operation(operation)
        try:
            self.check_running()
            host = host or host_of(operation.owner)
        except (DeclarationError, Unavailable) as error:
            return failed_already(error)
        except RuntimeError:
            return self._from_thread(lambda: self.ask(operation, args, kwargs, host))
        served = self.served.get(host)
        if served is not None:
            return self.ask_cell(served.next(), operation, args, kwargs)
        return self.remote.ask(host, None, operation, args, kwargs)

    def tell(
        self, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any], host: str | None = None
    ) -> bool:
        check_operation(operation)
        try:
            self.check_running()
        except RuntimeError:
            return self._told_from_thread(lambda: self.tell(operation, args, kwargs, host))
        host = host or host_of(operation.owner)
        served = self.served.get(host)
        if served is not None:
            return self.tell_cell(served.next(), operation, args, kwargs)
        return self.remote.tell(host, None, operation, args, kwargs)

    def ask_cell(
        self, cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]
    ) -> Any:
        """Send to one actor of this process; the future of the answer."""
        try:
            loop = get_running_loop()
        except RuntimeError:
            return self._from_thread(lambda: self.ask_cell(cell, operation, args, kwargs))
        future: asyncio.Future[Any] = loop.create_future()
        caller = current.get()
        now = loop.time()
        try:
            route = cell.routes.by_operation.get(operation) or _route(cell, operation)
            bound = route.signature.bind(args, kwargs)
            deadline = deadline_of_ask(caller, now)
            if deadline <= now:
                raise BudgetSpent(f"{route.name} was not sent: the time budget was already spent")
            if self.serialize_local:
                call: Call = _serialized(route, bound, cell, deadline, future)
            else:
                call = Call(route, bound, cell, deadline, future)
            if caller is not None:
                _of_caller(call, caller)
            else:
                call.identity = acting.get()
        except MbactorError as error:
            future.set_exception(error)
            return future
        if observe.tracers:
            call.trace = observe.traceparent() or call.trace
        call.arrived = now
        self.deadlines.add(deadline, call, now)
        cell.accept(call)
        return future

    def tell_cell(
        self, cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]
    ) -> bool:
        """Send to one actor of this process and forget. BadRequest is raised at once."""
        try:
            now = get_running_loop().time()
        except RuntimeError:
            return self._told_from_thread(lambda: self.tell_cell(cell, operation, args, kwargs))
        return cell.accept(self._tell(cell, operation, args, kwargs, now))

    def tell_cell_wait(
        self, cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any]
    ) -> Any:
        """As `tell_cell`, when there is room; the future of that."""
        try:
            now = get_running_loop().time()
        except RuntimeError:
            return self._from_thread(lambda: self.tell_cell_wait(cell, operation, args, kwargs))
        try:
            budget = deadline_of_ask(current.get(), now) - now
            return cell.accept_waiting(self._tell(cell, operation, args, kwargs, now), budget)
        except MbactorError as error:
            return failed_already(error)

    def _tell(
        self, cell: Cell, operation: Operation[Any, ..., Any], args: Arguments, kwargs: dict[str, Any], now: float
    ) -> Call:
        route = cell.routes.by_operation.get(operation) or _route(cell, operation)
        bound = route.signature.bind(args, kwargs)
        if self.serialize_local:
            call: Call = _serialized(route, bound, cell, math.inf, None)
        else:
            call = Call(route, bound, cell)
        caller = current.get()
        if caller is not None:
            call.caller = caller
            call.identity, call.trace, call.baggage = caller.identity, caller.trace, caller.baggage
        else:
            call.identity = acting.get()
        if observe.tracers:
            call.trace = observe.traceparent() or call.trace
        call.arrived = now
        return call

    # --- from a thread ----------------------------------------------------------------------------------------

    def _from_thread(self, send: Callable[[], Any]) -> Answer:
        """Let the loop send; the answer can be waited for in the thread by `result()`."""
        loop = self._loop
        if loop is None:
            raise Unavailable("the system is not running; use it in an `async with` block")
        answer = Answer()

        def begin() -> None:
            future: asyncio.Future[Any] = asyncio.ensure_future(send())
            future.add_done_callback(lambda done: _pass_on(done, answer))

        loop.call_soon_threadsafe(begin, context=contextvars.copy_context())
        return answer

    def _told_from_thread(self, tell: Callable[[], bool]) -> bool:
        async def told() -> bool:
            return tell()

        return bool(self._from_thread(told).result())

    # --- asking by address --------------------------------------------------------------------------------

    def request(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, query: str = ""
    ) -> asyncio.Future[Response]:
        """Send bytes to an address. NoSuchActor where neither this process nor the bus serves it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        caller, now = current.get(), loop.time()
        try:
            self.check_running()
            url, _, found = url.partition("?")
            body = body_of(body)
            address = Address.parse(url, method)
            deadline = deadline_of_ask(caller, now)
            cell, route = self._find(address)
            if cell is None or route is None:
                return self.remote.request(address, body, query or found, headers or {}, deadline)
        except MbactorError as error:
            future.set_exception(error)
            return future
        except (TypeError, ValueError) as error:
            future.set_exception(BadRequest(f"{method} {url!r} cannot be sent: {error}"))
            return future
        call = BytesCall(route, None, cell, deadline, future, body=body, content_type=JSON, query=query or found)
        if caller is not None:
            _of_caller(call, caller)
        else:
            call.identity = acting.get()
        call.trace = observe.traceparent() or call.trace
        call.arrived = now
        self.deadlines.add(deadline, call, now)
        cell.accept(call)
        return future

    def hand_over(self, address: Address, arguments: dict[str, Any], budget: float) -> asyncio.Future[Any] | None:
        """Give a feature of this process arguments that need not travel; None where the address is elsewhere.

        The time budget counts from the start of the method, and cancelling the future cancels the method. For
        packages that bring features of their own.
        """
        cell, route = self._find(address)
        if cell is None or route is None or self.serialize_local:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        call = Call(route, arguments, cell, math.inf, future)
        call.budget = budget
        call.trace = observe.traceparent()
        call.arrived = loop.time()
        future.add_done_callback(lambda done: cell.call_off(call) if done.cancelled() else None)
        cell.accept(call)
        return future

    def _find(self, address: Address) -> tuple[Cell | None, Route | None]:
        """The local actor and route of an address; NoSuchActor where the host is here and the path is not."""
        served = self.served.get(address.host)
        if served is None:
            return None, None
        cell = served.next()
        if address.replica is not None:
            cell = next((c for c in served.cells if c.replica == address.replica), cell)
            if cell.replica != address.replica:
                return None, None
        return cell, cell.routes.find(address)

    # --- who is reached here ------------------------------------------------------------------------------------

    def register(self, cell: Cell) -> None:
        """Serve a cell's host, here and on the bus; it stays while the actor restarts."""
        host = cell.cls.host
        if host is None or cell.served is not None:
            return
        self.served.setdefault(host, Served()).cells.append(cell)
        cell.served = self.remote.serve(cell)

    def unregister(self, cell: Cell) -> None:
        subscriptions, cell.served = cell.served, None
        host = cell.cls.host
        if subscriptions is None or host is None:
            return
        for subscription in subscriptions:
            subscription.unsubscribe()
        served = self.served[host]
        served.cells.remove(cell)
        if not served.cells:
            del self.served[host]

    def running_call(self, number: int) -> Call | None:
        """The call that runs here under this number."""
        calls = (worker.call for worker in self._lingering)
        return next((call for call in calls if call is not None and call.number == number), None)

    # --- background -------------------------------------------------------------------------------------------

    def background(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run the runtime's own work; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def linger(self, worker: Worker) -> None:
        """A worker was started: see to it that it goes when there is nothing to do."""
        self._lingering.add(worker)
        if self._linger_timer is None:
            self._linger_timer = asyncio.get_running_loop().call_later(_LINGER, self._let_go)

    def linger_no_more(self, worker: Worker) -> None:
        self._lingering.discard(worker)

    def _let_go(self) -> None:
        self._linger_timer = None
        for worker in tuple(self._lingering):
            worker.leave_if_idle()
        if self._lingering:
            self._linger_timer = asyncio.get_running_loop().call_later(_LINGER, self._let_go)


nodes: list[Node] = []
"""Those that are open in this process."""


class Answer(ThreadFuture[Any]):
    """The answer to an ask made in a thread: `result()` waits for it there."""

    def __await__(self) -> Any:
        raise RuntimeError("this ask was made in a thread, which cannot await: use .result()")


def check_operation(operation: Any) -> None:
    """TypeError for what is no reference to an endpoint, with what is meant instead."""
    if not isinstance(operation, Operation):
        raise TypeError(
            f"{operation!r} given, a reference to an endpoint expected, such as Counter.add: a method of an actor"
            " class, decorated with @endpoint and taken from the class. Tasks and workflows run through Flows"
        )


def failed_already(error: MbactorError) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def _route(cell: Cell, operation: Operation[Any, ..., Any]) -> Route:
    check_operation(operation)
    return cell.routes.of(operation)


def _of_caller(call: Call, caller: Call) -> None:
    """An ask made while a call is handled: one deeper on its path, for the same user."""
    depth = caller.depth + 1
    if depth > MAX_DEPTH:
        raise CallTooDeep(f"{call.route.name} would be call number {depth} in a chain; the limit is {MAX_DEPTH}")
    call.caller = caller
    call.depth = depth
    call.identity, call.trace, call.baggage = caller.identity, caller.trace, caller.baggage
    caller.note(call)


def _serialized(
    route: Route, bound: dict[str, Any], cell: Cell, deadline: float, future: asyncio.Future[Any] | None
) -> SerializedCall:
    body, content_type = route.signature.encode(bound)
    message = Message.from_bytes(Message(Envelope("ask", "0", content_type=content_type), body).to_bytes())
    content_type = message.envelope.content_type
    return SerializedCall(route, None, cell, deadline, future, body=message.body, content_type=content_type)


def _out_of_time(call: Call) -> None:
    call.fail(BudgetSpent(f"{call.route.name} at {call.route.address} did not answer within its time budget"))


def _pass_on(done: asyncio.Future[Any], answer: Answer) -> None:
    if answer.done():
        return
    if done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
