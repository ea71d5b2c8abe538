"""`Worker`: a resident task of a gate that runs one message after the other for one incarnation.

It runs inside one cancel scope and takes message after message; a new scope is entered only after a
cancellation, so a message costs no scope and no timer of its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

from mbactor import observe
from mbactor.errors import ActorCrashed, BudgetSpent, MbactorError
from mbactor.kernel.context import Call, current

if TYPE_CHECKING:
    from mbactor.kernel.gate import Gate
    from mbactor.kernel.incarnation import Incarnation

FAIR_RUN = 63
"""A mask: so many messages, and one, a worker runs before it lets the loop serve others."""
GRACE = 1.0
"""Seconds that what was cancelled has to end before it is abandoned."""


class Stashed(BaseException):
    """Unwinds a method whose message is kept for later. Raised by `self.stash()`; let it pass."""


class Worker:
    """Runs messages of a gate; or just one (`only`), beside the others."""

    __slots__ = (
        "call", "cancelled", "gate", "incarnation", "only", "quiet", "retired", "scope", "served", "since", "task",
        "waiting",
    )  # fmt: skip

    def __init__(self, gate: Gate, incarnation: Incarnation, *, only: Call | None = None) -> None:
        self.gate = gate
        self.incarnation = incarnation
        self.only = only
        self.call: Call | None = None
        self.since = 0.0
        """When it began the call at hand, by the loop's clock."""
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

    # --- from outside -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def cancel(self, error: MbactorError) -> None:
        """Answer the asker now, then cancel the method. A message nobody asked an answer for is a dead letter."""
        call = self.call
        if call is not None and call.asked:
            call.fail(error)
        elif call is not None:
            self.gate.cell.dead(call, str(error))
        self.cancelled = True
        self.scope.cancel()

    def abandon(self) -> None:
        """It did not end when cancelled: nothing it does counts any more."""
        self.gate.cell.node.linger_no_more(self)
        self.gate.cell.node.abandoned += 1
        method = self.call.route.feature.name if self.call else "?"
        observe.emit("actor.abandoned", actor=self.gate.cell.address, method=method)

    def abandon_where_it_cannot_stop(self) -> None:
        """A thread cannot be cancelled: after the grace its incarnation is given up, so that the actor is served."""
        call = self.call
        if call is not None and call.route.feature.threaded:
            asyncio.get_running_loop().call_later(GRACE, self._give_up, call)

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

    def _give_up(self, call: Call) -> None:
        if self.call is call:
            error = ActorCrashed(f"{call.route.name} went on in its thread after its time budget was spent")
            self.gate.cell.gone_astray(error, self.incarnation)

    # --- its life -----------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            while not self.retired:
                self.cancelled = False
                with anyio.CancelScope() as self.scope:
                    await self._serve()
                self._answer_cut()
        finally:
            gate = self.gate
            gate.cell.node.linger_no_more(self)
            self._answer_cut()
            if self in gate.workers:
                gate.workers.remove(self)
            if not gate.shut and len(gate.queue):
                gate.kick()

    def _answer_cut(self) -> None:
        """The message in hand was cut off: nobody is left waiting for it."""
        call = self.call
        if call is not None:
            self._over(call)
            call.fail(ActorCrashed(f"{self.gate.cell.address} was cancelled while it handled this"))

    async def _serve(self) -> None:
        """The path of every message, in one piece: each call more on it is paid for by all of them."""
        gate, incarnation, loop = self.gate, self.incarnation, asyncio.get_running_loop()
        cell, actor, queue, time = gate.cell, incarnation.actor, gate.queue, loop.time
        while not self.retired:
            call = queue.take() if self.only is None else self._only()
            if call is None:
                await self._park(loop)
                continue
            now = time()
            future = call.future
            if (future is not None and (future.done() or call.deadline <= now)) or call.incarnation:
                if self._stale(call):
                    continue
            self.call, self.since = call, now
            current.set(call)
            if call.budget is not None and not call.route.feature.begins_late:
                call.deadline = now + call.budget
            if call.deadline < cell.timer_at:
                cell.watch_deadline(call.deadline)
            route = call.route
            try:
                if observe.tracers:
                    value = await route.observed(actor, call)
                elif route.direct is not None and call.kwargs is not None:
                    value = await route.direct(actor, **call.kwargs)
                else:
                    value = await route.plain(actor, call)
            except BaseException as error:
                if self._leaves(call, error):
                    raise
            else:
                if future is not None and (self.cancelled or not call.answer(value)):
                    cell.node.late += 1
            self._over(call)
            self.served = served = self.served + 1
            if self.cancelled:
                return  # a cancellation that the method swallowed must not reach the next message
            if not served & FAIR_RUN:
                await asyncio.sleep(0)

    def _over(self, call: Call) -> None:
        """The call is done with, however it ended."""
        self.call = call.caller = None
        if self.gate.keyed and self.gate.cell.current is self.incarnation:
            if self.gate.queue.release(call):
                self.gate.kick()

    def _only(self) -> Call | None:
        """The one call it was made for, the first time."""
        call, self.only = self.only, None
        self.retired = True
        return call

    def _stale(self, call: Call) -> bool:
        """Whether a message that was taken must not run any more; it is dealt with then."""
        if call.done() and call.asked:
            self.gate.queue.expired += 1
        elif call.asked and call.deadline <= asyncio.get_running_loop().time():
            self.gate.queue.expired += 1
            call.fail(BudgetSpent(f"{call.route.name} waited in the mailbox until its time budget was spent"))
        elif call.incarnation and call.incarnation != self.incarnation.number:
            self.gate.cell.dead(call, "it was meant for an earlier incarnation")
        else:
            return False
        self._over(call)
        return True

    def _leaves(self, call: Call, error: BaseException) -> bool:
        """Deal with what a method raised; whether it goes on, out of the worker."""
        if isinstance(error, MbactorError):
            # Whatever the method met further down: this message was taken. One refused at the door was not.
            error.taken = error.taken if call.refused else "yes"
            self._answer_with(call, error)
        elif isinstance(error, Stashed):
            self.gate.cell.keep(call)
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            return True
        elif isinstance(error, asyncio.CancelledError) and self._is_cancelled():
            return True
        elif not self.cancelled:
            # What a cancelled method ends with is no crash: its asker has had the answer.
            self.gate.cell.crashed(error, call, call.route.feature.name, self.incarnation)
        return False

    def _answer_with(self, call: Call, error: MbactorError) -> None:
        if call.asked:
            call.fail(error)
        elif call.refused:
            self.gate.cell.dead(call, str(error))
        else:
            observe.emit(
                "message.failed", actor=self.gate.cell.address, method=call.route.feature.name, error=error
            )

    def _is_cancelled(self) -> bool:
        """Whether somebody cancels the worker, as opposed to a method that raises CancelledError by itself."""
        task = asyncio.current_task()
        return self.cancelled or (task is not None and task.cancelling() > 0)

    async def _park(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting = loop.create_future()
        self.gate.parked.append(self)
        cell = self.gate.cell
        if cell.idle_after is not None:
            cell.watch_idleness()
        try:
            await self.waiting
        finally:
            self.waiting = None
            if self in self.gate.parked:  # cancelled, not woken
                self.gate.parked.remove(self)
