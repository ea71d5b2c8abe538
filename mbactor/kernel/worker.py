"""`Worker`: a resident task of a gate that runs one message after the other for one incarnation.

It runs inside one cancel scope and takes message after message; a new scope is entered only after a
cancellation, so a message costs no scope and no timer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import anyio

from mbactor import observe
from mbactor.errors import ActorCrashed, BudgetSpent, MbactorError
from mbactor.kernel.budget import CLEAN_UP_BUDGET, shields
from mbactor.kernel.context import Call, current, fence
from mbactor.mailbox import MailboxQueue

if TYPE_CHECKING:
    from mbactor.kernel.gate import Gate
    from mbactor.kernel.incarnation import Incarnation

RUN = range(1, 33)
"""So many messages a worker runs before it looks at the clock."""
LONGEST, QUICK = 16, 100e-6
"""So many such runs it goes on for, while all but the first took no longer than these seconds; then, and at the end of
the second run else, it lets the loop serve others. A turn of the loop costs as much as five quick tells.
"""
_UNKNOWN: tuple[Any, Any] = (None, None)
GRACE = 1.0
"""Seconds that what was cancelled has to end before it is abandoned."""


class Stashed(BaseException):
    """Unwinds a method whose message is kept for later. Raised by `self.stash()`; let it pass."""


class Worker:
    """Runs the messages of a gate; or those of a queue of its own (`queue`), and goes when that is empty."""

    __slots__ = (
        "call", "cancelled", "context", "gate", "incarnation", "queue", "quiet", "retired", "run", "scope", "task",
        "waiting", "woken",
    )  # fmt: skip

    def __init__(self, gate: Gate, incarnation: Incarnation, queue: MailboxQueue[Call] | None = None) -> None:
        self.gate = gate
        self.incarnation = incarnation
        self.queue = queue or gate.queue
        self.call: Call | None = None
        self.cancelled = False
        self.retired = False
        self.woken = 0
        self.run = 0
        """How many messages it has taken that the queue has not been told of."""
        self.quiet = -1
        self.waiting: asyncio.Future[None] | None = None
        self.scope: anyio.CancelScope
        # That of the actor's start, not of whoever happened to send the first message.
        self.context = incarnation.context.copy()
        self.task: asyncio.Task[None] = gate.cell.node.loop.create_task(
            self._live(), name=gate.cell.address, context=self.context
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
        self.retired = True
        self.account()
        # The scope cancels it anew in each round of the loop, which would so never rest again.
        if (again := getattr(self.scope, "_cancel_handle", None)) is not None:
            again.cancel()
        self.gate.lose(self)
        self.gate.cell.node.linger_no_more(self)
        self.gate.cell.node.abandoned += 1
        method = self.call.route.feature.name if self.call else "?"
        if self.call is not None:
            left = Call(self.call.route, {}, self.gate.cell)
            fence(left)
            self.context.run(current.set, left)
            if self.call.context is None:
                fence(self.call)  # what the method has begun beside itself runs for it too
        if self.call is not None and self.call.route.feature.threaded:
            self.task.cancel()  # it only waits for a thread, which so gives its place to another
        observe.emit("actor.abandoned", actor=self.gate.cell.address, method=method)

    def account(self) -> None:
        """Tell the queue how many were taken: once for many, as a count of each costs a twentieth of a tell."""
        self.queue.gone += self.run
        self.run = 0

    def abandon_unless_it_stops(self) -> None:
        """A thread cannot be cancelled, and a method may swallow that: what goes on after the grace is given up.

        So its actor is served.
        """
        call = self.call
        if call is not None:
            grace = GRACE if call.route.feature.threaded else CLEAN_UP_BUDGET
            asyncio.get_running_loop().call_later(grace, self._give_up, call)

    def leave_if_idle(self) -> bool:
        """Called about once a second: a worker that ran nothing since the last time goes."""
        if self.waiting is None or self.waiting.done() or self.woken != self.quiet:
            self.quiet = self.woken
            return False
        self.retired = True
        self.gate.lose(self)
        self.wake()
        return True

    def _give_up(self, call: Call) -> None:
        if self.call is not call or self.incarnation.cell.current is not self.incarnation:
            return
        threaded = call.route.feature.threaded
        if not threaded and shields(self):
            self.abandon_unless_it_stops()
            return
        self.abandon()  # it has had its grace
        if threaded or call.route.ends:
            where = " in its thread" if threaded else ""
            error = ActorCrashed(f"{call.route.name} went on{where} after its time budget was spent")
            self.gate.cell.gone_astray(error, call.route.feature.name, self.incarnation)
        else:
            self._over(call)
            if not self.gate.queue.empty:
                self.gate.kick()

    # --- its life -----------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            while not self.retired:
                self.cancelled = False
                with self.gate.cell.node.scope() as self.scope:
                    try:
                        await self._serve()
                    finally:
                        self.account()
                if self.call is not None:
                    self._answer_cut(self.call)
        finally:
            gate = self.gate
            gate.cell.node.linger_no_more(self)
            if self.call is not None:
                self._answer_cut(self.call)
            gate.lose(self)
            if not gate.shut and not gate.queue.empty:
                gate.kick()

    def _answer_cut(self, call: Call) -> None:
        """The message in hand was cut off: nobody is left waiting for it."""
        cut = f"{self.gate.cell.address} was cancelled while it handled this"
        if not (call.asked or self.cancelled):
            self.gate.cell.dead(call, cut)
        self._over(call)
        call.fail(ActorCrashed(cut))

    async def _serve(self) -> None:  # noqa: C901 - as it says
        """The path of every message, in one piece: each call more on it is paid for by all of them."""
        gate, incarnation, node = self.gate, self.incarnation, self.gate.cell.node
        cell, actor, queue, work = gate.cell, incarnation.actor, self.queue, self.queue.work
        time, tracers, last, keyed = node.time, observe.tracers, None, gate.keyed
        call: Any  # a `Call`, or a `Told`
        direct, lone = _UNKNOWN
        runs, began = 0, 0.0
        gate.turn = 0.0
        while True:
            for self.run in RUN:
                call = (work.popleft() if work else None) if queue.plain else queue.pick()
                if call is None:
                    break
                context = call.context
                if context is not None:  # a plain tell, which is never out of date
                    self.call = call
                    if context is not last:
                        current.set(context)
                        last, direct, lone = context, context.direct, context.lone
                    try:
                        if tracers:
                            await call.route.observed(actor, call)
                        elif lone is not None:
                            await lone(actor, call.given)
                        else:
                            await direct(actor, call.given)
                    except BaseException as error:
                        if self._leaves(call, error):
                            raise
                else:
                    future = call.future
                    if future is None:
                        if call.incarnation and self._stale(call):
                            continue
                    else:
                        now = time()
                        if future.done() or call.deadline <= now:
                            self._expired(call)
                            continue
                        if call.budget is not None and not call.route.feature.begins_late:
                            call.deadline = now + call.budget
                        if call.deadline < cell.timer_at:
                            cell.watch_deadline(call.deadline)
                    self.call = last = call
                    current.set(call)
                    method = call.direct
                    try:
                        if tracers:
                            value = await call.route.observed(actor, call)
                        elif method is not None:
                            value = await method(actor, call.kwargs)
                        else:
                            value = await call.route.plain(actor, call)
                    except BaseException as error:
                        if self._leaves(call, error):
                            raise
                    else:
                        if future is not None and type(value) in call.route.returns and type(call) is Call:
                            # `answer`, where there is nothing to do
                            try:
                                future.set_result(value)
                            except asyncio.InvalidStateError:
                                node.late += 1
                        elif future is not None and (self.cancelled or not call.answer(value)):
                            node.late += 1
                    if keyed:
                        self._over(call)
                    else:
                        call.caller = None
                if self.retired or self.cancelled:
                    self.call = None
                    return  # a cancellation that the method swallowed must not reach the next message
            else:
                self.account()
                runs += 1
                if runs == 1:
                    began = time()
                elif runs == LONGEST or time() - began > QUICK:
                    self.call = None
                    gate.turn = time()
                    await asyncio.sleep(0)
                    gate.turn, runs = 0.0, 0
                    if self.retired:
                        return
                continue
            queue.gone += self.run - 1
            self.call, self.run = None, 0
            if queue is not gate.queue:
                self.retired = True
                return
            waiting = self.waiting = node.future()
            gate.parked.append(self)
            gate.idle = True
            if work or cell.idle_after is not None:
                self._at_rest()
            try:
                await waiting
            except BaseException:
                gate.lose(self)
                raise
            self.waiting = None
            self.woken += 1
            gate.turn, runs = 0.0, 0
            if self.retired:
                return

    def _over(self, call: Call) -> None:
        """The call is done with, however it ended."""
        self.call = call.caller = None
        gate = self.gate
        if gate.keyed and gate.cell.current is self.incarnation and gate.queue.release(call):
            gate.kick()

    def _expired(self, call: Call) -> None:
        """Its asker has an answer already, or its time budget is spent: it never reaches the method."""
        self.gate.queue.expired += 1
        call.fail(BudgetSpent(f"{call.route.name} waited in the mailbox until its time budget was spent"))
        self._over(call)

    def _stale(self, call: Call) -> bool:
        """Whether it was meant for another incarnation, as the messages of its timers are."""
        if call.incarnation == self.incarnation.number:
            return False
        self.gate.cell.dead(call, "it was meant for an earlier incarnation")
        self._over(call)
        return True

    def _leaves(self, call: Call, error: BaseException) -> bool:
        """Deal with what a method raised; whether it goes on, out of the worker."""
        if isinstance(error, BaseExceptionGroup):
            error = _meant_by(error)
        if isinstance(error, MbactorError):
            # Whatever the method met further down: this message was taken. One refused at the door was not.
            error.taken = error.taken if call.refused else "yes"
            self._answer_with(call, error)
        elif isinstance(error, Exception):
            self._crashes(call, error)
        elif isinstance(error, Stashed):
            self.gate.cell.keep(call)
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            return True
        elif isinstance(error, asyncio.CancelledError):
            return self._is_cancelled() or self._crashes(call, error)
        else:
            self._crashes(call, error)
        return False

    def _crashes(self, call: Call, error: BaseException) -> bool:
        # What a cancelled method ends with is no crash: its asker has had the answer.
        if not self.cancelled:
            self.gate.cell.crashed(error, call, call.route.feature.name, self.incarnation)
        return False

    def _answer_with(self, call: Call, error: MbactorError) -> None:
        if call.asked:
            call.fail(error)
        elif call.refused:
            self.gate.cell.dead(call, str(error))
        else:
            observe.emit("message.failed", actor=self.gate.cell.address, method=call.route.feature.name, error=error)

    def _is_cancelled(self) -> bool:
        """Whether somebody cancels the worker, as opposed to a method that raises CancelledError by itself."""
        task = asyncio.current_task()
        return self.cancelled or (task is not None and task.cancelling() > 0)

    def _at_rest(self) -> None:
        """Nothing is left to do; or a thread has just put something there, and seen nobody idle."""
        if self.gate.work:
            self.gate.kick()
        else:
            self.gate.cell.watch_idleness()


def _meant_by(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of a group of nothing but answers, as `gather` would have raised it; or of nothing but `Stashed`. A
    task group wraps whatever its tasks raise, and what is an answer without it is one within. Else the group itself.
    """
    raised = [*_raised_in(group)]
    for kind in (MbactorError, Stashed):
        if all(isinstance(one, kind) for one in raised):
            return raised[0]
    return group


def _raised_in(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _raised_in(one)
        else:
            yield one
