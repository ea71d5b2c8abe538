"""`Cell`: one actor running. It owns what outlives an incarnation: the address, the mailbox, the routes.

A supervisor drives it by `start`, `stop`, `pause` and `close`, and is told of an end it did not ask for by
`on_exit`. Messages come in by `accept`, wait in a gate, and are run by the gate's resident workers. A worker
lives while there is work and a moment longer, so an idle actor holds neither a task nor a scope.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal

from mbactor import observe
from mbactor.errors import ActorCrashed, ActorRestarting, ActorStopped, BudgetSpent, Deadlock, MailboxFull, MbactorError
from mbactor.kernel.context import Call, current
from mbactor.kernel.exit import KILLED, NORMAL, SHUTDOWN, Exit
from mbactor.kernel.feature import Route, routes_of
from mbactor.kernel.gate import Gate
from mbactor.kernel.ref import ActorRef
from mbactor.mailbox import Mailbox, MailboxQueue, MailboxStatistics

if TYPE_CHECKING:
    from mbactor.kernel.actor import Actor
    from mbactor.kernel.node import Node

ASIDE_LIMIT = 64
"""Tasks, workflows and web methods of one actor that run at once, beside its serial gate."""
GRACE = 1.0
"""Seconds a cancelled method has before it is abandoned."""
LONG_PAUSE = 1.0
"""In a backoff longer than this the mailbox refuses instead of queueing."""

State = Literal["new", "starting", "running", "stopping", "down", "closed"]


class Cell:
    """Runs one actor, incarnation after incarnation. Everything happens on one event loop."""

    __slots__ = (
        "_aside", "_bound", "_paused", "_timer", "address", "args", "cls", "config", "current", "id", "incarnation",
        "kwargs", "node", "on_closed", "on_exit", "replica", "routes", "served", "shutdown", "state", "timer_at", "work",
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
        self.on_closed: Callable[[Exit], None] | None = None
        self._paused = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf
        bound = mailbox or cls.mailbox
        self.work = Gate(self, cls.concurrency, MailboxQueue(bound, _arrived))
        self._bound = bound
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
        gate = self._aside_gate() if call.route.feature.aside else self.work
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

    def _aside_gate(self) -> Gate:
        if self._aside is None:
            self._aside = Gate(self, ASIDE_LIMIT, MailboxQueue(self._bound, _arrived))
        return self._aside

    def _gates(self) -> tuple[Gate, ...]:
        return (self.work,) if self._aside is None else (self.work, self._aside)

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
        for gate in self._gates():
            gate.open()
        if begun.ending is not None:
            begun.end_by_itself(begun.ending)

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        """Stop the running incarnation; the mailbox is kept. `timeout` None waits for ever, 0 kills."""
        running = self.current
        if running is None:
            return exit
        self.state = "stopping"
        ended = await running.end(exit, timeout)
        if self.state == "stopping":
            self.state = "down"
        return ended

    def pause(self, seconds: float) -> None:
        """The next start is that far away: above a second, messages are refused instead of queued."""
        self._paused = seconds

    def close(self, exit: Exit) -> None:
        """End for good: asks that wait get ActorStopped, the rest become dead letters."""
        if self.state == "closed":
            return
        self.state = "closed"
        self.node.unregister(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for gate in self._gates():
            gate.retire()
            for call in gate.queue.drain():
                self._refuse(call, ActorStopped(self.address))
        if self.on_closed is not None:
            self.on_closed(exit)

    async def end(self, exit: Exit, timeout: float | None) -> None:
        """What `ref.stop()` and `ref.kill()` do: stop, then let the supervisor judge the end."""
        ended = await self.stop(timeout, exit)
        if self.on_exit is not None and self.state == "down":
            self.on_exit(Exit("normal") if ended.clean else ended)

    # --- failures and deadlines ------------------------------------------------------------------------------

    def crashed(self, error: BaseException, call: Call | None, where: str) -> None:
        """Something raised what is no answer. Told or not, restart or go on, is decided here."""
        told = call is not None and call.told
        if call is not None:
            call.fail(error)
        aside = call is not None and call.route.feature.aside
        policy = self.cls.on_error or ("resume" if self.cls.concurrency > 1 else "restart")
        ends = not aside and (policy != "resume" or call is None)
        observe.emit("actor.crashed", actor=self.address, method=where, error=error, told=told)
        if ends and self.current is not None:
            self.current.end_by_itself(Exit("failed", error, told=told and policy != "fail"))

    def call_off(self, call: Call) -> None:
        """Nobody wants the answer any more: cancel the method, where it runs."""
        for gate in self._gates():
            for worker in gate.workers:
                if worker.call is call:
                    worker.cancel(BudgetSpent(f"{call.route.name} was called off"))

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
        for gate in self._gates():
            nearest = min(nearest, gate.cancel_overdue(now))
        if nearest < math.inf:
            self.watch_deadline(nearest)


class Incarnation:
    """One life of an actor, from its construction to the end of `on_stop`."""

    __slots__ = ("_tasks", "actor", "cell", "ending", "id", "number")
    actor: Actor

    def __init__(self, cell: Cell, number: int) -> None:
        self.cell = cell
        self.number = number
        self.id = f"id-{secrets.token_hex(5)}"
        self.ending: Exit | None = None
        self._tasks: set[asyncio.Task[Any]] | None = None

    def check_current(self) -> None:
        """An incarnation that was left behind may not act in its successor's name."""
        if self.cell.current is not self:
            raise ActorStopped(f"{self.cell.address} (incarnation {self.number})")

    def finish(self) -> None:
        """`self.stop()`: a clean end after the message in hand."""
        self.end_by_itself(NORMAL)

    def spawn_task(self, work: Coroutine[Any, Any, Any], name: str | None) -> asyncio.Task[Any]:
        tasks = self._tasks = self._tasks if self._tasks is not None else set()
        task = asyncio.get_running_loop().create_task(_rootwise(work), name=name or f"{self.cell.address} background")
        tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self.cell.current is self:
            self.cell.crashed(task.exception() or RuntimeError(), None, task.get_name())

    def cancel_tasks(self) -> list[asyncio.Task[Any]]:
        tasks = list(self._tasks or ())
        for task in tasks:
            task.cancel()
        return tasks

    def end_by_itself(self, exit: Exit) -> None:
        """Begin the end of this incarnation; the supervisor is told when it is over."""
        cell = self.cell
        if cell.state == "starting":
            self.ending = self.ending or exit
        elif cell.state == "running" and cell.current is self:
            cell.state = "stopping"
            for gate in cell._gates():  # noqa: SLF001 - one machine in two classes
                gate.halt()
            cell.node.background(self._end_and_tell(exit), f"{cell.address} ending")

    async def _end_and_tell(self, exit: Exit) -> None:
        cell = self.cell
        timeout = cell.shutdown if exit.clean else GRACE
        ended = await self.end(exit, timeout, hurry=not exit.clean)
        if cell.state == "stopping":
            cell.state = "down"
            if cell.on_exit is not None:
                cell.on_exit(ended)
            else:
                cell.close(ended)

    async def end(self, exit: Exit, timeout: float | None, *, hurry: bool = False) -> Exit:
        """Finish or cancel what runs, run `on_stop`, end background tasks. How it really ended."""
        loop = asyncio.get_running_loop()
        until = math.inf if timeout is None else loop.time() + timeout
        killed = not await self._workers_ended(exit, 0 if hurry else until - loop.time()) and not hurry
        killed = killed or timeout == 0
        if not killed:
            limit = None if timeout is None else max(until - loop.time(), GRACE if hurry else 0)
            killed = not await self._run_on_stop(exit, limit)
        background = self.cancel_tasks()
        if background:
            await asyncio.wait(background, timeout=GRACE)
        ended = exit if not killed or not exit.clean else KILLED
        if self.cell.current is self:
            self.cell.current = None
        observe.emit("actor.stopped", actor=self.cell.address, incarnation=self.number, exit=str(ended))
        return ended

    async def _workers_ended(self, exit: Exit, seconds: float) -> bool:
        """Let running calls end; after `seconds` cancel them, after the grace abandon them. False if cancelled."""
        mine = asyncio.current_task()
        workers = [w for gate in self.cell._gates() for w in gate.retire() if w.task is not mine]  # noqa: SLF001
        if not workers:
            return True
        tasks: set[asyncio.Task[None]] = {w.task for w in workers}
        if seconds > 0:
            _, tasks = await asyncio.wait(tasks, timeout=None if seconds == math.inf else seconds)
            if not tasks:
                return True
        in_time = True
        for worker in workers:
            if worker.task in tasks and worker.call is not None:
                in_time = False
                text = f"{self.cell.address} ended ({exit}) while it handled this"
                worker.cancel(ActorCrashed(text))
        _, left = await asyncio.wait(tasks, timeout=GRACE)
        for worker in workers:
            if worker.task in left:
                worker.abandon()
        return in_time

    async def _run_on_stop(self, exit: Exit, limit: float | None) -> bool:
        """False when it overran. A failure in it is reported and stops nothing."""
        if type(self.actor).on_stop is _no_on_stop():
            return True
        task = asyncio.get_running_loop().create_task(
            _rootwise(self.actor.on_stop(exit)), name=f"{self.cell.address} on_stop"
        )
        _, running = await asyncio.wait({task}, timeout=limit)
        if running:
            task.cancel()
            _, running = await asyncio.wait({task}, timeout=GRACE)
            if running:
                observe.emit("actor.abandoned", actor=self.cell.address, method="on_stop")
            return False
        if not task.cancelled() and task.exception() is not None:
            observe.emit("actor.stop_failed", actor=self.cell.address, error=task.exception())
        return True


def _no_on_stop() -> Any:
    from mbactor.kernel.actor import Actor  # the class that declares the hook imports this module's neighbours

    return Actor.on_stop


async def _rootwise(work: Coroutine[Any, Any, Any]) -> Any:
    """Run work as the root of a new path: it is nobody's call."""
    current.set(None)
    return await work


def _arrived(call: Call) -> float:
    return call.arrived


def _cycle(call: Call) -> str:
    names = [getattr(step, "route", None) for step in call.path]
    shown = [
        route.name if isinstance(route, Route) else str(step).rpartition(":")[2]
        for route, step in zip(names, call.path, strict=True)
    ]
    return " -> ".join([*shown, call.route.name])
