"""A gate: a queue of messages and the resident workers that run them, `limit` at once.

A worker runs inside one cancel scope and takes message after message; a new scope is entered only after a
cancellation, so a message costs no scope and no timer of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import anyio

from mbactor import observe
from mbactor.errors import ActorCrashed, BudgetSpent, MbactorError
from mbactor.kernel.context import Call, current
from mbactor.mailbox import MailboxQueue

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.incarnation import Incarnation

FAIR_RUN = 64
"""Messages a worker runs before it lets the loop serve others."""


class Gate:
    """Messages pass it in order, `limit` at once."""

    __slots__ = ("cell", "limit", "parked", "queue", "shut", "workers")

    def __init__(self, cell: Cell, limit: int, queue: MailboxQueue[Call]) -> None:
        self.cell = cell
        self.limit = limit
        self.queue = queue
        self.shut = True
        self.workers: list[Worker] = []
        self.parked: list[Worker] = []

    def kick(self) -> None:
        """There is a message: wake a worker, or start one."""
        if self.parked:
            self.parked.pop().wake()
        elif len(self.workers) < self.limit and not self.shut:
            self._add_worker()

    def open(self) -> None:
        """A new incarnation runs: start workers for what waits."""
        self.shut = False
        for _ in range(min(len(self.queue), self.limit - len(self.workers))):
            self._add_worker()

    def halt(self) -> None:
        """No worker takes another message."""
        self.shut = True
        for worker in self.workers:
            worker.retired = True

    def retire(self) -> list[Worker]:
        """Let the workers go: each ends after the message it runs. All there were."""
        self.halt()
        workers, self.workers = self.workers, []
        parked, self.parked = self.parked, []
        for worker in parked:
            worker.wake()
        return workers

    def busy_with(self, path: Iterable[Any]) -> bool:
        """Whether the one running call is among those the message is asked for."""
        return any(w.call is not None and w.call in path for w in self.workers)

    def cancel_overdue(self, now: float) -> float:
        """Cancel what runs past its deadline; the next deadline of what goes on."""
        nearest = math.inf
        for worker in self.workers:
            call = worker.call
            if call is None or worker.cancelled:
                continue
            if call.deadline <= now:
                worker.cancel(BudgetSpent(f"{call.route.name} ran out of its time budget"))
            else:
                nearest = min(nearest, call.deadline)
        return nearest

    def _add_worker(self) -> None:
        incarnation = self.cell.current
        if incarnation is not None:
            worker = Worker(self, incarnation)
            self.workers.append(worker)
            self.cell.node.linger(worker)


class Worker:
    """Runs messages one after the other for one incarnation."""

    __slots__ = ("call", "cancelled", "gate", "incarnation", "quiet", "retired", "scope", "served", "task", "waiting")

    def __init__(self, gate: Gate, incarnation: Incarnation) -> None:
        self.gate = gate
        self.incarnation = incarnation
        self.call: Call | None = None
        self.cancelled = False
        self.retired = False
        self.served = 0
        self.quiet = -1
        self.waiting: asyncio.Future[None] | None = None
        self.scope: anyio.CancelScope
        # In the context of the actor's start, not of whoever happened to send the first message.
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(
            self._live(), name=gate.cell.address, context=incarnation.context.copy()
        )

    def wake(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def cancel(self, error: MbactorError) -> None:
        """Answer the asker now, then cancel the method. A message nobody asked an answer for is a dead letter."""
        call = self.call
        if call is not None and call.asked:
            call.fail(error)
        elif call is not None:
            letters, cell = self.gate.cell.node.dead_letters, self.gate.cell
            letters.add(cell.address, call.route.feature.name, call.kwargs, call.sender, str(error))
        self.cancelled = True
        self.scope.cancel()

    def abandon(self) -> None:
        """It did not end when cancelled: nothing it does counts any more."""
        self.gate.cell.node.linger_no_more(self)
        method = self.call.route.feature.name if self.call else "?"
        observe.emit("actor.abandoned", actor=self.gate.cell.address, method=method)

    def leave_if_idle(self) -> bool:
        """Called about once a second: a worker that ran nothing since the last time goes."""
        if self.waiting is None or self.waiting.done() or self.served != self.quiet:
            self.quiet = self.served
            return False
        self.retired = True
        if self in self.gate.parked:
            self.gate.parked.remove(self)
        if self in self.gate.workers:
            self.gate.workers.remove(self)
        self.wake()
        return True

    async def _live(self) -> None:
        try:
            while not self.retired:
                self.cancelled = False
                with anyio.CancelScope() as self.scope:
                    await self._serve()
                self._answer_cut()
        finally:
            self.gate.cell.node.linger_no_more(self)
            self._answer_cut()
            if self in self.gate.workers:
                self.gate.workers.remove(self)
            if not self.gate.shut and len(self.gate.queue):
                self.gate.kick()

    def _answer_cut(self) -> None:
        """The message in hand was cut off: nobody is left waiting for it."""
        call, self.call = self.call, None
        if call is not None:
            call.fail(ActorCrashed(f"{self.gate.cell.address} was cancelled while it handled this"))

    async def _serve(self) -> None:
        queue, loop = self.gate.queue, asyncio.get_running_loop()
        while not self.retired:
            call = queue.take()
            if call is None:
                await self._park(loop)
                continue
            if call.future is not None and call.future.done():
                queue.expired += 1
                continue
            if call.deadline <= loop.time():
                queue.expired += 1
                call.fail(BudgetSpent(f"{call.route.name} waited in the mailbox until its time budget was spent"))
                continue
            await self._run(call)
            self.served += 1
            if self.scope.cancel_called:
                return  # a cancellation that the method swallowed must not reach the next message
            if not self.served % FAIR_RUN:
                await asyncio.sleep(0)

    def _is_cancelled(self) -> bool:
        """Whether somebody cancels the worker, as opposed to a method that raises CancelledError by itself."""
        task = asyncio.current_task()
        return self.scope.cancel_called or (task is not None and task.cancelling() > 0)

    async def _park(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting = loop.create_future()
        self.gate.parked.append(self)
        try:
            await self.waiting
        finally:
            self.waiting = None
            if self in self.gate.parked:  # cancelled, not woken
                self.gate.parked.remove(self)

    async def _run(self, call: Call) -> None:
        cell = self.gate.cell
        self.call = call
        current.set(call)
        if call.budget is not None and not call.route.feature.begins_late:
            call.deadline = asyncio.get_running_loop().time() + call.budget
        if call.deadline < cell.timer_at:
            cell.watch_deadline(call.deadline)
        route = call.route
        try:
            if observe.tracing():
                # A worker's task has the trace of whoever woke it first.
                observe.current_trace.set(call.trace)
                value = await route.observed(self.incarnation.actor, call)
            else:
                value = await route.plain(self.incarnation.actor, call)
            if not self.cancelled:
                call.answer(value)
        except MbactorError as error:
            # Whatever the method met further down: this message was taken.
            error.taken = "yes"
            call.fail(error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._is_cancelled():
                raise
            # What a cancelled method ends with is no crash: its asker has had the answer.
            if not self.cancelled:
                cell.crashed(error, call, route.feature.name, self.incarnation)
        self.call = None
