"""`Node`: what all actors of one process share: the directory of hosts, names, dead letters, sweeps.

Asks and tells start here. An address that is served in this process is reached directly; any other goes over
the bus (`remote.py`).
"""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from threading import get_ident
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio

from mbactor import observe
from mbactor.durations import Duration, seconds
from mbactor.errors import BadRequest, DeclarationError, MbactorError, MethodNotAllowed, Unavailable
from mbactor.heap import keep_large_blocks
from mbactor.kernel.budget import deadline_of_ask
from mbactor.kernel.cell import Cell
from mbactor.kernel.client import BytesCall, Response, body_of, check_texts
from mbactor.kernel.context import Call, check_not_fenced, current
from mbactor.kernel.dead_letters import DeadLetters
from mbactor.kernel.feature import Feature, Operation, Reference, check_operation, check_reference, host_of
from mbactor.kernel.features.event import EventReference
from mbactor.kernel.guard import Guard
from mbactor.kernel.multicast import Replies
from mbactor.kernel.names import Names
from mbactor.kernel.remote import Remote
from mbactor.kernel.routes import Route
from mbactor.kernel.sending import Arguments, ask, failed_already, from_thread, of_caller, tell, told_elsewhere
from mbactor.kernel.serving import Served, Serving
from mbactor.kernel.waits import Suspects
from mbactor.kernel.watchdog import Watchdog
from mbactor.kernel.worker import Worker
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus
from mbactor.transport.headers import passed_on, with_passed
from mbactor.transport.locality import check_locality
from mbactor.transport.message import JSON
from mbactor.transport.reassembly import MAX_BODY, Bounds
from mbactor.transport.requester import ACK_WINDOW

T = TypeVar("T")
_SHORT = 32
"""Characters of a path with which no subject is too long, however they are written there."""
_LINGER = 1.0
_LEAVE = 1.0
"""Seconds that the broker has to hear that this node leaves."""


def _no_tree(name: str) -> Any:
    raise Unavailable(f"there is no supervisor {name!r}: nothing in this process knows of a tree")


def _nobody_is_told(host: str, on: bool) -> None: ...


class Node:
    """The part of a system that runs in this process.

    `serialize_local` passes every message between local actors through bytes, which costs speed and shows what
    could not travel.
    """

    def __init__(
        self,
        name: str,
        bus: Bus,
        *,
        plane: str = "mbactor",
        serialize_local: bool = False,
        watchdog: Duration | None = None,
        ack_window: Duration = ACK_WINDOW,
        coalesce: bool = True,
        locality: str = "",
        max_body: int = MAX_BODY,
    ) -> None:
        self.name = name
        self.locality = locality and check_locality(locality)
        self.plane = plane
        self.serialize_local = serialize_local
        self.id = "id-" + secrets.token_hex(5)
        self.ack_window = seconds(ack_window)
        self.max_body = max_body
        self.coalesce = coalesce
        self.remote = Remote(self, bus, self.ack_window, Bounds.of(max_body), coalesce=coalesce)
        self.dead_letters = DeadLetters()
        self.refs = Names()
        self.suspects = Suspects()
        self.cells: WeakValueDictionary[str, Cell] = WeakValueDictionary()
        """Those that can be meant by a replica's id: in an address, or in a ref that has travelled."""
        self.served: dict[str, Served] = {}
        self.guard: Guard | None = None
        """Where the broker does not let this process publish everything: who judges what is asked within it."""
        self._guard = Guard(self)
        self.late = 0
        """Answers that came when nobody waited for them any more; they were dropped."""
        self.abandoned = 0
        """Methods that did not end when they were cancelled, and were left behind."""
        self.supervisor: Callable[[str], Any] = _no_tree
        """The running supervisor of a name, as whoever runs the tree finds it."""
        self.serves: Callable[[str, bool], None] = _nobody_is_told
        """Told of each host that is served here, and when it is not any more."""
        self.stopping = False
        """Everything is being stopped: what is down will not come back."""
        self.serving = False
        """Whether all that is to run from the start has been started."""
        self.leaving = False
        """What is down here may come back in another process."""
        self.loop: asyncio.AbstractEventLoop | Any = None
        self.time: Callable[[], float] = time.monotonic
        """The loop's clock, by the shortest way to it."""
        self.thread = 0
        """Where the loop runs."""
        self.future: Callable[[], asyncio.Future[Any]]
        self.scope: Callable[[], anyio.CancelScope]
        """Makes a cancel scope, of the class that anyio looks up for each."""
        self.watchdog_limit = None if watchdog is None else seconds(watchdog)
        """Seconds after which a method that keeps the loop is reported."""
        self._watchdog = Watchdog(self.at_hand, watchdog)
        self._lingering: dict[asyncio.Task[None], Worker] = {}
        self._linger_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Connect the bus and listen for answers."""
        self.stopping = self.leaving = False
        keep_large_blocks()
        self.dead_letters.open()
        self.loop = loop = asyncio.get_running_loop()
        self.time = time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time
        self.thread = threading.get_ident()
        self.future = loop.create_future
        self.scope = type(anyio.CancelScope())
        await self.remote.open()
        self._guard.open()
        nodes.append(self)
        self._watchdog.start()

    def unready(self) -> str | None:
        """Why this node does not do its work now; None where it does."""
        if self.stopping or self.loop is None:
            return "it is being stopped" if self.stopping else "it does not run"
        return self.remote.bus.unready() if self.serving else "it is being started"

    async def leave(self) -> None:
        """Everything here is about to be stopped: have others that serve the same hosts get what comes from now on.

        When it returns, nothing more comes for any of a host's replicas. What has come, and is not handled before its
        actor ends, is refused as not taken. Whoever has a ref still reaches its actor.
        """
        self.leaving = True
        for cell in [cell for served in self.served.values() for cell in served.cells]:
            if cell.served is not None:
                cell.served.leave()
        with suppress(Unavailable, TimeoutError):  # the broker is away, or does not answer
            async with asyncio.timeout(_LEAVE):
                await self.remote.bus.flush()

    async def close(self) -> None:
        """End the requester and the bus; wait for what runs in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._watchdog.stop()
        self.loop, self.thread = None, 0
        self.stopping, self.serving = False, False
        if self in nodes:
            nodes.remove(self)
        await self.remote.close()
        self.dead_letters.close()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        tasks = list(self._lingering)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)

    def check_running(self) -> asyncio.AbstractEventLoop:
        """The node's loop. Unavailable where it is not running, or is asked from another loop's thread."""
        if self.loop is None:
            raise Unavailable("the system is not running; use it in an `async with` block")
        if self.loop is not asyncio.get_running_loop():
            raise Unavailable("an actor system belongs to the event loop that started it, and this is another one")
        return self.loop

    # --- asking by class or host ------------------------------------------------------------------------

    def ask(
        self,
        operation: Operation[Any, ..., Any],
        args: Arguments,
        kwargs: dict[str, Any],
        host: str | None = None,
        replica: str | None = None,
    ) -> Any:
        """Send to any replica of a host, or to the one that is named; the future of the answer."""
        if type(operation) is not Operation:
            check_operation(operation)
        try:
            # As `get_running_loop`, which makes a system call before Python 3.12.
            if get_ident() != self.thread or not self.loop.is_running():
                self.check_running()
            at: str = host or getattr(operation.owner, "host", "") or host_of(operation.owner)
        except (DeclarationError, Unavailable) as error:
            return failed_already(error)
        except RuntimeError:
            return from_thread(self, lambda: self.ask(operation, args, kwargs, host, replica))
        if at in self.served and (cell := self._here(at, replica, operation)) is not None:
            if operation in cell.ways:
                return cell.ref.ask(operation, *args, **kwargs)
            return ask(cell, operation, args, kwargs)
        return self.remote.ask(at, replica, operation, args, kwargs)

    def tell(
        self,
        operation: Operation[Any, ..., Any],
        args: Arguments,
        kwargs: dict[str, Any],
        host: str | None = None,
        replica: str | None = None,
    ) -> bool:
        if type(operation) is not Operation:
            check_operation(operation)
        try:
            # As in `ask`.
            if get_ident() != self.thread or not self.loop.is_running():
                self.check_running()
        except RuntimeError:
            return told_elsewhere(self, lambda: self.tell(operation, args, kwargs, host, replica))
        host = host or host_of(operation.owner)
        cell = self._here(host, replica, operation)
        if cell is not None:
            if operation in cell.ways:
                return cell.ref.tell(operation, *args, **kwargs)
            return tell(cell, operation, args, kwargs)
        return self.remote.tell(host, replica, operation, args, kwargs)

    def ask_all(
        self,
        operation: Reference[..., Any],
        args: Arguments,
        kwargs: dict[str, Any],
        host: str | None = None,
    ) -> Replies[Any]:
        """Send to all that serve a host; the replies as they come. It goes over the bus, whoever serves it."""
        check_reference(operation, Operation, EventReference)
        self.check_running()
        return self.remote.to_all.ask_all(operation, host or host_of(operation.owner), args, kwargs)

    def publish(self, event: EventReference[..., Any], args: Arguments, kwargs: dict[str, Any]) -> bool:
        """Tell all that sink an event. It goes over the bus, whoever sinks it."""
        check_reference(event, EventReference)
        try:
            self.check_running()
        except RuntimeError:
            return told_elsewhere(self, lambda: self.publish(event, args, kwargs))
        return self.remote.to_all.publish(event, args, kwargs)

    def sinks(self, event: EventReference[..., Any]) -> int | None:
        """How many get an event that is published now; None where the bus does not know, 0 while it carries nothing."""
        return self.remote.to_all.sinks(event)

    def _here(self, host: str, replica: str | None, operation: Operation[Any, ..., Any]) -> Cell | None:
        """Who of this process is to have a message; None where it goes over the bus."""
        served = self.served.get(host)
        if served is None:
            return None
        if self.guard is not None:
            address = operation.feature.address(host)
            if not self.guard.admits(address if replica is None else replace(address, replica=replica)):
                return None
        return served.next(operation.feature.name) if replica is None else served.replica(replica)

    # --- asking by address --------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        *,
        call_off: bool = False,
    ) -> asyncio.Future[Response]:
        """Send bytes to an address. NoSuchActor where neither this process nor the bus serves it.

        With `call_off` cancelling the future cancels the method, in another process too where that hears of it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        caller, now = current.get(), loop.time()
        try:
            self.check_running()
            check_not_fenced(caller)
            given = dict(headers or {})
            check_texts(method, url, query, given)
            url, _, found = url.partition("?")
            query = query or found
            body = body_of(body)
            address = Address.parse(url, method)
            if len(address.path) > _SHORT:
                subjects.request_subject(self.plane, self.remote.source(caller), address)  # 414 here as elsewhere
            deadline = deadline_of_ask(caller, now, loop)
            cell, route = self._find(address)
            if cell is None or route is None:
                return self.remote.request(address, body, query, given, deadline, call_off=call_off)
            if route.open:
                query = route.query(address.path, query)
        except MbactorError as error:
            error.taken = "no"
            future.set_exception(error)
            return future
        except (TypeError, ValueError, RecursionError) as error:
            unfit = BadRequest(f"{method} {url!r} cannot be sent: {error}")
            unfit.taken = "no"
            future.set_exception(unfit)
            return future
        call = BytesCall(
            route, None, cell, now, None, None, deadline, future, body=body, content_type=JSON, query=query
        )
        if caller is not None:
            of_caller(call, caller)
        if given or call.passed:
            call.passed = passed_on(with_passed(given, call.passed))
        call.trace = observe.traceparent() or call.trace
        if call_off:
            future.add_done_callback(lambda done: cell.call_off(call) if done.cancelled() else None)
        cell.accept(call)
        return future

    def hand_over(self, address: Address, arguments: dict[str, Any], budget: float, kind: type[Feature]) -> Call | None:
        """Give a feature of this process arguments that need not travel; None where the address is elsewhere.

        BadRequest where what is there is of another kind: it does not take these arguments.
        The answer is in the `future` of the call. The time budget counts from the start of the method; who does not
        want the answer any more says so by `call.call_off()`. For packages that bring features of their own.
        """
        cell, route = self._find(address)
        if cell is None or route is None or self.serialize_local:
            return None
        if not isinstance(route.feature, kind):
            name = kind.__name__.lower()
            raise BadRequest(f"{address} is {route.name}, which is no {name}; decorate with @{name} what is one")
        now = self.time()
        call = Call(route, arguments, cell, now, None, None, math.inf, self.future(), None, None, observe.traceparent())
        call.budget = budget
        cell.accept(call)
        return call

    def _find(self, address: Address) -> tuple[Cell | None, Route | None]:
        """The local actor and route of an address; MethodNotAllowed where the path is here and the method is not."""
        served = self.served.get(address.host)
        if served is None or (self.guard is not None and not self.guard.admits(address)):
            return None, None
        if address.replica is not None:
            cell = served.replica(address.replica)
            return cell, None if cell is None else cell.routes.find(address)
        refused: MethodNotAllowed | None = None
        for one in served.cells:
            try:
                route = one.routes.known(address)
                cell = None if route is None else served.next(route.feature.name)
                if cell is not None and cell.routes is not one.routes:
                    route = cell.routes.known(address)
            except MethodNotAllowed as error:  # another class at the host may take it
                refused = refused or error
                continue
            if cell is not None and route is not None:
                return cell, route
        if refused is not None:
            raise refused
        return None, None

    # --- who is reached here ------------------------------------------------------------------------------------

    def register(self, cell: Cell) -> None:
        """Serve a cell's host, here and on the bus; it stays while the actor restarts. What was left to others
        meanwhile is served here again.
        """
        if cell.served is not None:
            cell.served.presence.look()
        elif cell.cls.host is not None:
            cell.served = Serving(self, cell)

    def unregister(self, cell: Cell) -> None:
        serving, cell.served = cell.served, None
        if serving is not None:
            serving.end()

    def running_call(self, number: int) -> Call | None:
        """The call that runs here under this number."""
        calls = (worker.call for worker in self._lingering.values())
        return next((call for call in calls if call is not None and call.number == number), None)

    def at_hand(self) -> tuple[str, str, int] | None:
        """The call whose method the loop runs at this very moment, for the watchdog's thread."""
        task = None if self.loop is None else asyncio.current_task(self.loop)
        worker = None if task is None else self._lingering.get(task)
        call = None if worker is None else worker.call
        if call is None:
            return None
        # An address alone may be that of the message before, which is gone.
        return call.cell.address, call.route.feature.name, hash((id(call), call.arrived))

    # --- background -------------------------------------------------------------------------------------------

    def background(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run the runtime's own work; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def linger(self, worker: Worker) -> None:
        """A worker was started: see to it that it goes when there is nothing to do."""
        self._lingering[worker.task] = worker
        if self._linger_timer is None:
            self._linger_timer = asyncio.get_running_loop().call_later(_LINGER, self._let_go)

    def linger_no_more(self, worker: Worker) -> None:
        self._lingering.pop(worker.task, None)

    def _let_go(self) -> None:
        self._linger_timer = None
        for worker in tuple(self._lingering.values()):
            worker.leave_if_idle()
        if self._lingering:
            self._linger_timer = asyncio.get_running_loop().call_later(_LINGER, self._let_go)


nodes: list[Node] = []
"""Those that are open in this process."""
