"""A gate: a queue of messages and the resident workers that run them, `limit` at once."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from mbactor.durations import text_of
from mbactor.errors import BudgetSpent
from mbactor.kernel.context import Call
from mbactor.kernel.routes import Lanes
from mbactor.kernel.sending import NO_WAYS
from mbactor.kernel.worker import Worker
from mbactor.mailbox import KeyedQueue, Mailbox, MailboxQueue, MailboxStatistics

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell


class Gate:
    """Messages pass it in order, `limit` at once."""

    __slots__ = (
        "cell", "idle", "keyed", "leaving", "limit", "name", "parked", "queue", "quick", "shut", "taking",
        "turn", "work", "workers",
    )  # fmt: skip

    def __init__(self, cell: Cell, lanes: Lanes) -> None:
        self.cell = cell
        self.name = lanes.name
        self.limit = lanes.limit
        self.keyed = lanes.keyed
        self.queue: MailboxQueue[Call] = (
            KeyedQueue(cell.bound, _arrived, _admitted, key_of=_key)
            if lanes.keyed
            else MailboxQueue(cell.bound, _arrived, _admitted)
        )
        self.work = self.queue.work
        self.quick: bool
        """Whether messages may take the short way in: see `ActorRef.tell`."""
        self.idle = True
        """Whether a message has to wake or start a worker."""
        self.turn = 0.0
        """The loop's time, while a worker is sure to run in the loop's next turn: that of all messages until then, for
        to look at the clock is a tenth of what a tell costs. 0 where none is.
        """
        self.shut = True
        """Whether no worker may begin: the actor does not run."""
        self.workers: list[Worker] = []
        self.parked: list[Worker] = []
        self.leaving: list[Worker] = []
        """Those that end after the message they run."""
        self.let_in(True)

    def let_in(self, taking: bool) -> None:
        """Accept messages, or refuse them; they are accepted while the actor restarts."""
        self.taking = taking
        self.quick = taking and not self.cell.node.serialize_local
        if not self.quick:
            self.cell.ways = NO_WAYS

    def accepted(self) -> int:
        """How many messages it ever accepted."""
        return self.queue.accepted + self._taken()

    def statistics(self, now: float) -> MailboxStatistics:
        """Its queue at this moment."""
        return replace(told := self.queue.statistics(now), accepted=told.accepted + self._taken())

    def _taken(self) -> int:
        """Messages that the queue has not been told of as taken."""
        return sum(one.run for one in (*self.workers, *self.leaving) if one.queue is self.queue)

    def rebound(self, bound: Mailbox) -> None:
        """Take as many messages as this says from now on."""
        before = len(self.work)
        self.queue.rebound(bound)
        for _ in range(len(self.work) - before):
            self.kick()

    def before(self, call: Call) -> Worker | None:
        """Who runs what has to end before a call that waits here can begin: the one that passes at a time, or the one
        of its key; where all places are taken and a reentrant actor would let it in, the one that it is made for. None
        where it merely waits for a place.
        """
        if self.limit == 1:
            workers = self.workers or self.leaving
            return workers[0] if workers else None
        flying = self.queue.in_flight(call) if self.keyed else None
        if flying is not None:
            return self.worker_of(flying)
        if not self.cell.cls.reentrant or len(self.workers) < self.limit:
            return None
        path = call.path()
        return next((worker for worker in self.workers if worker.call is not None and worker.call in path), None)

    def kick(self, now: float = 0.0) -> bool:
        """There is a message: wake a worker, or start one. False where all are busy, or may not begin.

        `now` is the time, where that is known.
        """
        if self.parked:
            waiting = self.parked.pop().waiting
            if waiting is not None and not waiting.done():  # as `Worker.wake`, which is a call more
                waiting.set_result(None)
            self.turn = now
        elif len(self.workers) < self.limit and not self.shut:
            self._add_worker()
            self.turn = now
        else:
            self.idle = False
            if self.shut and self.cell.state == "closed":
                self.cell.refuse_all()  # a thread was about to put it there when the actor ended
            return False
        return True

    def admit(self, call: Call) -> bool:
        """Run a message that waits here at once, beside the others. False where it does not wait, or may not run."""
        incarnation = self.cell.current
        if incarnation is None or self.shut or not self.queue.withdraw(call):
            return False
        alone = MailboxQueue(self.cell.bound, _arrived)
        alone.offer(call)
        worker = Worker(self, incarnation, alone)
        self.workers.append(worker)
        self.cell.node.linger(worker)
        return True

    def open(self) -> None:
        """A new incarnation runs: start workers for what waits."""
        self.shut = False
        self.idle = True
        if not self.taking:
            self.let_in(True)
        waiting = len(self.work) if self.queue.plain else len(self.queue)
        for _ in range(min(waiting, self.limit - len(self.workers))):
            self._add_worker()

    def halt(self) -> None:
        """No worker takes another message; each that waits is told at its own deadline all the same."""
        cell = self.cell
        self.shut = True
        self.turn = 0.0
        taking = not (cell.node.stopping or cell.state == "closed")
        if taking is not self.taking:
            self.let_in(taking)
        for worker in self.workers:
            worker.retired = True
        if self.parked:
            self.dismiss()
        for call in list(islice(self.work, self.limit)):  # all others were looked at when they came
            if call.deadline < cell.timer_at:
                cell.watch_deadline(call.deadline)

    def retire(self) -> list[Worker]:
        """Let the workers go: each ends after the message it runs. All there were."""
        self.halt()
        self.idle = True
        workers, self.workers = self.workers, []
        self.leaving += workers
        return workers

    def dismiss(self) -> None:
        """Workers that wait for a message need not any more."""
        parked, self.parked = self.parked, []
        for worker in parked:
            worker.wake()

    def lose(self, worker: Worker) -> None:
        """A worker goes."""
        self.turn = 0.0
        if worker in self.parked:
            self.parked.remove(worker)
        if worker in self.workers:
            self.workers.remove(worker)
        if worker in self.leaving:
            self.leaving.remove(worker)
        self.idle = True

    def worker_of(self, call: Call) -> Worker | None:
        """Who runs a call, or the calls of a context; of several, the one whose task asks."""
        found = [
            one
            for one in (*self.workers, *self.leaving)
            if (one.call is not None and call in {one.call, one.call.context})
            or (one.queue is not self.queue and call in one.queue.work)
        ]
        if len(found) > 1:
            task = asyncio.current_task()
            found = [one for one in found if one.task is task] or found
        return found[0] if found else None

    def runs_but_for(self, over: Call | None) -> bool:
        """Whether any worker is at another message than the one that is over."""
        for worker in (*self.workers, *self.leaving):  # noqa: SIM110 - on the path of every restart
            if worker.call is not None and worker.call is not over:
                return True
        return False

    def cancel_overdue(self, now: float) -> float:
        """Cancel what runs past its deadline; the next deadline of what goes on."""
        nearest = math.inf
        for worker in (*self.workers, *self.leaving):
            call = worker.call
            if call is None or worker.cancelled:
                continue
            if call.deadline <= now:
                # Rounded, as the time on the way is taken off: of 1 s it is 0.998 s that arrive.
                budget = text_of(round(call.deadline - call.arrived, 2) or 0.01)
                worker.cancel(BudgetSpent(f"{call.route.name} ran out of its time budget of {budget}"))
                worker.abandon_unless_it_stops()
            else:
                nearest = min(nearest, call.deadline)
        return nearest

    def _add_worker(self) -> None:
        incarnation = self.cell.current
        if incarnation is not None:
            worker = Worker(self, incarnation)
            self.workers.append(worker)
            self.cell.node.linger(worker)


def _arrived(call: Call) -> float:
    return call.arrived


def _key(call: Call) -> object:
    return call.key


def _admitted(call: Call) -> bool:
    return call.cell.admitted(call)
