"""`Node`: what all actors of one process share: the bus, the directory of hosts, dead letters, sweeps.

Asks and tells start here. An address that is served in this process is reached directly; any other goes over
the bus.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from mbactor import observe
from mbactor.errors import (
    BadRequest,
    BudgetSpent,
    CallTooDeep,
    DeclarationError,
    MbactorError,
    NoSuchActor,
    Unavailable,
)
from mbactor.kernel.cell import Cell
from mbactor.kernel.client import BusCall, BytesCall, Response, SerializedCall, body_of
from mbactor.kernel.context import MAX_DEPTH, Call, current, deadline_of_ask
from mbactor.kernel.dead_letters import DeadLetters
from mbactor.kernel.feature import Operation, Route, host_of, routes_of
from mbactor.kernel.gate import Worker
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus, Delivery, Subscription
from mbactor.transport.codec import decode
from mbactor.transport.deadlines import Deadlines
from mbactor.transport.message import JSON, Envelope, Message
from mbactor.transport.requester import Requester

T = TypeVar("T")
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
        self.bus = bus
        self.plane = plane
        self.serialize_local = serialize_local
        self.id = "id-" + secrets.token_hex(5)
        self.requester = Requester(bus, plane, self.id)
        self.dead_letters = DeadLetters()
        self.deadlines = Deadlines(_out_of_time)
        self.served: dict[str, Served] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopping = False
        """Everything is being stopped: what is down will not come back."""
        self._lingering: set[Worker] = set()
        self._linger_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Connect the bus and listen for answers."""
        self.stopping = False
        self._loop = asyncio.get_running_loop()
        await self.bus.connect()
        self.requester.open()

    async def close(self) -> None:
        """End the requester and the bus; wait for what runs in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._loop = None
        self.requester.close()
        self.deadlines.close()
        await self.bus.close()
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
        if self._loop is not asyncio.get_running_loop():
            raise Unavailable("an actor system belongs to the event loop that started it, and this is another one")
        return self._loop

    # --- asking by class or host ------------------------------------------------------------------------

    def ask(
        self,
        operation: Operation[Any, ..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        host: str | None = None,
    ) -> asyncio.Future[Any]:
        """Send to any replica of a host; the future of the answer."""
        check_operation(operation)
        try:
            self.check_running()
            host = host or host_of(operation.owner)
        except (DeclarationError, Unavailable) as error:
            return _failed_already(error)
        served = self.served.get(host)
        if served is not None:
            return self.ask_cell(served.next(), operation, args, kwargs)
        return self._ask_remote(host, operation, args, kwargs)

    def tell(
        self,
        operation: Operation[Any, ..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        host: str | None = None,
    ) -> bool:
        check_operation(operation)
        self.check_running()
        host = host or host_of(operation.owner)
        served = self.served.get(host)
        if served is not None:
            return self.tell_cell(served.next(), operation, args, kwargs)
        route = routes_of(operation.owner).by_name[operation.feature.name]
        address, caller = self._address(host, operation), current.get()
        sender = caller.route.address if caller is not None else None
        bound = route.signature.bind(args, kwargs)
        body, content_type = route.signature.encode(bound)

        def lost(error: MbactorError) -> None:
            self.dead_letters.add(str(address), operation.feature.name, bound, sender, str(error))

        message = Message(self._envelope("tell", None, content_type), body)
        self.requester.send(self._source(caller), address, message, lost)
        return True

    def ask_cell(
        self, cell: Cell, operation: Operation[Any, ..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        """Send to one actor of this process."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        caller = current.get()
        now = loop.time()
        try:
            route = _route(cell, operation)
            bound = route.signature.bind(args, kwargs)
            deadline = deadline_of_ask(caller, now)
            call = self._local_call(route, bound, deadline, future, caller)
            if len(call.path) > MAX_DEPTH:
                raise CallTooDeep(
                    f"{route.name} would be call number {len(call.path)} in a chain; the limit is {MAX_DEPTH}"
                )
            if deadline <= now:
                raise BudgetSpent(f"{route.name} was not sent: the time budget was already spent")
        except MbactorError as error:
            future.set_exception(error)
            return future
        if observe.tracing():
            call.trace = observe.traceparent() or call.trace
        call.arrived = now
        self.deadlines.add(deadline, call, now)
        cell.accept(call)
        return future

    def tell_cell(
        self, cell: Cell, operation: Operation[Any, ..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Send to one actor of this process and forget. BadRequest is raised at once."""
        caller = current.get()
        route = _route(cell, operation)
        call = self._local_call(route, route.signature.bind(args, kwargs), math.inf, None, caller)
        if observe.tracing():
            call.trace = observe.traceparent() or call.trace
        call.arrived = asyncio.get_running_loop().time()
        return cell.accept(call)

    def _local_call(
        self,
        route: Route,
        bound: dict[str, Any],
        deadline: float,
        future: asyncio.Future[Any] | None,
        caller: Call | None,
    ) -> Call:
        if not self.serialize_local:
            return Call(route, bound, deadline, future, caller)
        body, content_type = route.signature.encode(bound)
        message = Message.from_bytes(Message(Envelope("ask", "0", content_type=content_type), body).to_bytes())
        return SerializedCall(route, message.body, message.envelope.content_type, "", deadline, future, caller)

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
                return self._request_remote(address, body, query or found, headers or {}, deadline)
        except MbactorError as error:
            future.set_exception(error)
            return future
        except (TypeError, ValueError) as error:
            future.set_exception(BadRequest(f"{method} {url!r} cannot be sent: {error}"))
            return future
        call = BytesCall(route, body, JSON, query or found, deadline, future, caller)
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
        call = Call(route, arguments, math.inf, future, None)
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

    def _request_remote(
        self, address: Address, body: bytes, query: str, headers: Mapping[str, str], deadline: float
    ) -> asyncio.Future[Response]:
        loop = asyncio.get_running_loop()
        outer: asyncio.Future[Response] = loop.create_future()
        envelope = self._envelope("ask", deadline - loop.time(), JSON, query=query, headers=dict(headers))
        inner = self.requester.request(self._source(current.get()), address, Message(envelope, body), deadline)

        def answered(future: asyncio.Future[Message]) -> None:
            if not _failed(future, outer):
                message = future.result()
                outer.set_result(
                    Response(message.envelope.status, message.body, {"content-type": message.envelope.content_type})
                )

        inner.add_done_callback(answered)
        return outer

    def _ask_remote(
        self, host: str, operation: Operation[Any, ..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        outer: asyncio.Future[Any] = loop.create_future()
        caller, now = current.get(), loop.time()
        try:
            route = routes_of(operation.owner).by_name[operation.feature.name]
            address = self._address(host, operation)
            deadline = deadline_of_ask(caller, now)
            body, content_type = route.signature.encode(route.signature.bind(args, kwargs))
            envelope = self._envelope("ask", deadline - now, content_type)
            inner = self.requester.request(self._source(caller), address, Message(envelope, body), deadline)
        except MbactorError as error:
            outer.set_exception(error)
            return outer

        def answered(future: asyncio.Future[Message]) -> None:
            if not _failed(future, outer):
                _decode_into(outer, future.result().body, future.result().envelope.content_type, route)

        inner.add_done_callback(answered)
        return outer

    def _envelope(self, op: Any, budget: float | None, content_type: str, **more: Any) -> Envelope:
        caller = current.get()
        path: tuple[str, ...] = ()
        if caller is not None and op == "ask":
            path = tuple(p if isinstance(p, str) else self._step(p) for p in (*caller.path, caller))
        return Envelope(
            op,
            secrets.token_hex(4),
            budget,
            path,
            observe.traceparent() or (caller.trace if caller else None),
            caller.identity if caller else None,
            dict(caller.baggage or {}) if caller else {},
            content_type=content_type,
            **more,
        )

    def _step(self, call: Call) -> str:
        return f"{self.id}/{call.id}:{call.route.name}"

    def _source(self, caller: Call | None) -> str:
        return (caller.route.owner.host if caller is not None else None) or self.name

    @staticmethod
    def _address(host: str, operation: Operation[Any, ..., Any]) -> Address:
        return operation.feature.address(host)

    # --- being asked over the bus ---------------------------------------------------------------------------

    def register(self, cell: Cell) -> None:
        """Serve a cell's host, here and on the bus; it stays while the actor restarts."""
        host = cell.cls.host
        if host is None or cell.served is not None:
            return
        self.served.setdefault(host, Served()).cells.append(cell)
        cell.served = [self._serve(cell, route) for route in cell.routes.by_name.values()]

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

    def _serve(self, cell: Cell, route: Route) -> Subscription:
        feature = route.feature
        address = Address(cell.cls.host or "", feature.path, feature.method, feature.port)
        pattern = subjects.endpoint_pattern(self.plane, address)
        return self.bus.subscribe(pattern, lambda delivery: self._receive(cell, route, delivery), queue=address.host)

    def _receive(self, cell: Cell, route: Route, delivery: Delivery) -> None:
        try:
            message = Message.from_bytes(delivery.data)
        except BadRequest as error:
            self.dead_letters.add(cell.address, route.feature.name, None, None, str(error))
            return
        now = asyncio.get_running_loop().time()
        envelope = message.envelope
        deadline = math.inf if envelope.budget is None else now + envelope.budget
        wanted = envelope.op == "ask" and delivery.reply and _own_inbox(delivery)
        reply = delivery.reply if wanted else None
        respond = None if reply is None else lambda answer: self.bus.publish(reply, answer.to_bytes())
        call = BusCall(route, message, deadline, respond)
        call.arrived = now
        call.path = tuple(self._known(step) for step in envelope.path)
        cell.accept(call)

    def _known(self, step: str) -> Any:
        """A step of a call path that this process made, as the running call it stands for."""
        prefix = f"{self.id}/"
        if step.startswith(prefix):
            number = int(step[len(prefix) :].partition(":")[0])
            for worker in self._lingering:
                if worker.call is not None and worker.call.id == number:
                    return worker.call
        return step

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


def check_operation(operation: Any) -> None:
    """TypeError for what is no reference to an endpoint, with what is meant instead."""
    if not isinstance(operation, Operation):
        raise TypeError(
            f"{operation!r} given, a reference to an endpoint expected, such as Counter.add: a method of an actor"
            " class, decorated with @endpoint and taken from the class. Tasks and workflows run through Flows"
        )


def _failed_already(error: MbactorError) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def _route(cell: Cell, operation: Operation[Any, ..., Any]) -> Route:
    check_operation(operation)
    route = cell.routes.by_name.get(operation.feature.name)
    if route is None:
        raise NoSuchActor(cell.address, f"{cell.cls.__name__} has no {operation.feature.name}")
    return route


def _out_of_time(call: Call) -> None:
    call.fail(BudgetSpent(f"{call.route.name} at {call.route.address} did not answer within its time budget"))


def _own_inbox(delivery: Delivery) -> bool:
    """A responder answers only to the verified source's own inbox."""
    reply = (delivery.reply or "").split(".")
    return len(reply) > 4 and reply[1] == "reply" and reply[4] == delivery.subject.split(".")[3]


def _failed(future: asyncio.Future[Any], outer: asyncio.Future[Any]) -> bool:
    """Pass a failure on; True when there is nothing more to do."""
    if outer.done():
        if not future.cancelled():
            future.exception()
        return True
    if future.cancelled():
        outer.cancel()
        return True
    error = future.exception()
    if error is not None:
        outer.set_exception(error)
        return True
    return False


def _decode_into(outer: asyncio.Future[Any], body: bytes, content_type: str, route: Route) -> None:
    try:
        outer.set_result(decode(body, content_type, route.signature.returns) if body else None)
    except BadRequest as error:
        outer.set_exception(MbactorError(f"{route.name} answered what does not fit its annotation: {error}"))
