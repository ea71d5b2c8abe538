"""`Cell`: one actor running. It owns what outlives an incarnation: the address, the mailbox, the routes.

A supervisor drives it by `start`, `stop`, `pause` and `close`, and is told of an end it did not ask for by
`on_exit`. Messages come in by `accept`, wait in a gate, and are run by the gate's resident workers. A worker
lives while there is work and a moment longer, so an idle actor holds neither a task nor a scope.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from mbactor import observe
from mbactor.errors import ActorRestarting, ActorStopped, BudgetSpent, Deadlock, MailboxFull, MbactorError, NoSuchChild
from mbactor.kernel.context import Call, current
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.kernel.feature import Route, routes_of
from mbactor.kernel.gate import Gate
from mbactor.kernel.incarnation import Incarnation
from mbactor.kernel.ref import ActorRef
from mbactor.mailbox import Mailbox, MailboxQueue, MailboxStatistics

if TYPE_CHECKING:
    from mbactor.kernel.actor import Actor
    from mbactor.kernel.node import Node

ASIDE_LIMIT = 64
"""Tasks, workflows and web methods of one actor that run at once, beside its serial gate."""
LONG_PAUSE = 1.0
"""In a backoff longer than this the mailbox refuses instead of queueing."""

State = Literal["new", "starting", "running", "stopping", "down", "closed"]


class Cell:
    """Runs one actor, incarnation after incarnation. Everything happens on one event loop."""

    __slots__ = (
        "_aside",
        "_bound",
        "_paused",
        "_serial",
        "_timer",
        "address",
        "args",
        "cls",
        "config",
        "current",
        "id",
        "incarnation",
        "kwargs",
        "node",
        "on_exit",
        "replica",
        "routes",
        "served",
        "shutdown",
        "state",
        "terminate",
        "timer_at",
    )  # fmt: skip

    def __init__(
        self,
        node: Node,
        cls: type[Actor],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        id: str,
        mailbox: Mailbox | None = None,
        config: Mapping[str, Any] | None = None,
        shutdown: float | None = 5.0,
    ) -> None:
        self.node = node
        self.cls = cls
        self.id = id
        self.args = args
        self.kwargs = dict(kwargs or {})
        self.config = config or {}
        self.served: Any = None
        self.shutdown = shutdown
        self.routes = routes_of(cls)
        self.address = f"{cls.host}#{id}" if cls.host and cls.host != id else id
        self.replica = "id-" + secrets.token_hex(5)
        self.state: State = "new"
        self.incarnation = 0
        self.current: Incarnation | None = None
        self.on_exit: Callable[[Exit], None] | None = None
        self.terminate: Callable[[], Awaitable[None]] | None = None
        self._paused = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf
        self._bound = mailbox or cls.mailbox
        self._serial: Gate | None = None
        self._aside: Gate | None = None

    @property
    def ref(self) -> ActorRef[Any]:
        return ActorRef(self)

    # --- messages in ----------------------------------------------------------------------------------

    def accept(self, call: Call) -> bool:
        """Queue a message, or answer at once why not. False when it was refused."""
        if self.state == "closed":
            return self._refuse(call, ActorStopped(self.address))
        if self._paused > LONG_PAUSE:
            return self._refuse(call, ActorRestarting(self.address, self._paused))
        gate = (self._aside or self._aside_gate()) if call.route.feature.aside else (self._serial or self.work)
        if gate.shut and self.node.stopping:
            return self._refuse(call, ActorStopped(self.address))
        if call.path and gate.limit == 1 and gate.busy_with(call.path):
            return self._refuse(call, Deadlock(_cycle(call)))
        accepted = gate.queue.offer(call)
        if accepted is False:
            return self._refuse(call, MailboxFull(self.address, gate.queue.bound.capacity))
        if accepted is not True:
            self._refuse(accepted, MailboxFull(self.address, gate.queue.bound.capacity))
        gate.kick()
        return True

    def statistics(self) -> MailboxStatistics:
        """The mailbox of the serial gate."""
        return self.work.queue.statistics(asyncio.get_running_loop().time())

    @property
    def work(self) -> Gate:
        """The serial gate, made when the first message comes: an actor that was never asked has no queue."""
        if self._serial is None:
            self._serial = Gate(self, self.cls.concurrency, MailboxQueue(self._bound, _arrived))
            self._serial.shut = self.state != "running"
        return self._serial

    def _aside_gate(self) -> Gate:
        self._aside = Gate(self, ASIDE_LIMIT, MailboxQueue(self._bound, _arrived))
        self._aside.shut = self.state != "running"
        return self._aside

    def gates(self) -> list[Gate]:
        """The gates in the order in which they are shut: what runs aside may still ask the actor itself."""
        return [gate for gate in (self._aside, self._serial) if gate is not None]

    def _refuse(self, call: Call, error: MbactorError) -> bool:
        if call.told:
            call.fail(error)
        else:
            self.node.dead_letters.add(self.address, call.route.feature.name, call.kwargs, call.sender, str(error))
        return False

    # --- driven by a supervisor --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start a new incarnation: construct, `on_start`, then the mailbox opens. Raises what they raise."""
        self.state = "starting"
        self._paused = 0.0
        self.incarnation += 1
        begun = Incarnation(self, self.incarnation)
        token = current.set(None)
        try:
            begun.actor = self.cls(*self.args, **self.kwargs)
            begun.actor._incarnation = begun  # noqa: SLF001 - the cell is the actor's machinery
            self.current = begun
            await begun.actor.on_start()
        except BaseException:
            self.current = None
            self.state = "down"
            begun.cancel_tasks()
            raise
        finally:
            current.reset(token)
        self.state = "running"
        self.node.register(self)
        observe.emit("actor.started", actor=self.address, incarnation=self.incarnation)
        for gate in self.gates():
            gate.open()
        begun.started()

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        """Stop the running incarnation; the mailbox is kept. `timeout` None waits for ever, 0 kills.

        Asked again while it stops, with less time, it stops sooner.
        """
        running = self.current
        if running is None:
            return exit
        return await running.end(exit, timeout)

    def pause(self, seconds: float) -> None:
        """The next start is that far away: above a second, messages are refused instead of queued."""
        self._paused = seconds

    def close(self, exit: Exit) -> None:  # noqa: ARG002 - the contract of a child
        """End for good: asks that wait get ActorStopped, the rest become dead letters."""
        if self.state == "closed":
            return
        self.state = "closed"
        self.node.unregister(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for gate in self.gates():
            gate.retire()
            for call in gate.queue.drain():
                self._refuse(call, ActorStopped(self.address))

    async def end(self, timeout: float | None) -> None:
        """What `ref.stop()` and `ref.kill()` do: an end for good, whatever its restart type."""
        call = current.get()
        if call is not None and any(worker.call is call for gate in self.gates() for worker in gate.workers):
            raise Deadlock(f"{call.route.name} waits for the end of its own actor; call self.stop() instead")
        if timeout == 0:
            await self.stop(0)
        if self.state == "closed":
            return
        if self.terminate is not None:
            with suppress(NoSuchChild):  # it has ended meanwhile
                await self.terminate()
        else:
            self.close(await self.stop(timeout))

    def told(self, ended: Exit) -> None:
        """It is down, and nobody but itself wanted that: its supervisor is told, once."""
        if self.state == "down" and self.current is None:
            if self.on_exit is not None:
                self.on_exit(ended)
            else:
                self.close(ended)

    # --- failures and deadlines ------------------------------------------------------------------------------

    def crashed(self, error: BaseException, call: Call | None, where: str, by: Incarnation) -> None:
        """Something raised what is no answer. Told or not, restart or go on, is decided here."""
        told = call is not None and call.asked
        if call is not None:
            call.fail(error)
        aside = call is not None and call.route.feature.aside
        policy = self.cls.on_error or ("resume" if self.cls.concurrency > 1 else "restart")
        ends = not aside and (policy != "resume" or call is None)
        observe.emit("actor.crashed", actor=self.address, method=where, error=error, told=told)
        if ends and self.current is by:
            by.end_by_itself(Exit("failed", error, told=told and policy != "fail"))

    def call_off(self, call: Call) -> None:
        """Nobody wants the answer any more: cancel the method, where it runs."""
        for gate in self.gates():
            for worker in gate.workers:
                if worker.call is call:
                    worker.cancel(BudgetSpent(f"{call.route.name} was called off"))

    def watch_no_later_than(self, deadline: float) -> None:
        """See to it that the timer fires at this deadline or before."""
        if deadline < self.timer_at:
            self.watch_deadline(deadline)

    def watch_deadline(self, deadline: float) -> None:
        """One timer a cell: at the earliest deadline of what runs."""
        self.timer_at = deadline
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._deadline_passed)

    def _deadline_passed(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer, self.timer_at = None, math.inf
        nearest = math.inf
        for gate in self.gates():
            nearest = min(nearest, gate.cancel_overdue(now))
        if nearest < math.inf:
            self.watch_deadline(nearest)


def _arrived(call: Call) -> float:
    return call.arrived


def _cycle(call: Call) -> str:
    names = [getattr(step, "route", None) for step in call.path]
    shown = [
        route.name if isinstance(route, Route) else str(step).rpartition(":")[2]
        for route, step in zip(names, call.path, strict=True)
    ]
    return " -> ".join([*shown, call.route.name])
