"""A gate: a queue of messages and the resident workers that run them, `limit` at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mbactor.errors import BudgetSpent
from mbactor.kernel.context import Call
from mbactor.kernel.routes import Lanes
from mbactor.kernel.worker import Worker
from mbactor.mailbox import KeyedQueue, MailboxQueue

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell


class Gate:
    """Messages pass it in order, `limit` at once."""

    __slots__ = ("cell", "keyed", "limit", "name", "parked", "queue", "shut", "taking", "workers")

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
        self.shut = True
        """Whether no worker may begin: the actor does not run."""
        self.taking = True
        """Whether messages are accepted; they are while the actor restarts."""
        self.workers: list[Worker] = []
        self.parked: list[Worker] = []

    @property
    def running(self) -> Call | None:
        """The one call it runs, where it lets one pass at a time: all others wait for that."""
        return self.workers[0].call if self.limit == 1 and self.workers else None

    def kick(self) -> None:
        """There is a message: wake a worker, or start one."""
        if self.parked:
            self.parked.pop().wake()
        elif len(self.workers) < self.limit and not self.shut:
            self._add_worker()

    def admit(self, call: Call) -> None:
        """Run a message that waits here at once, beside the others."""
        incarnation = self.cell.current
        if incarnation is not None and not self.shut and self.queue.withdraw(call):
            worker = Worker(self, incarnation, only=call)
            self.workers.append(worker)
            self.cell.node.linger(worker)

    def open(self) -> None:
        """A new incarnation runs: start workers for what waits."""
        self.shut = False
        self.taking = True
        for _ in range(min(len(self.queue), self.limit - len(self.workers))):
            self._add_worker()

    def halt(self) -> None:
        """No worker takes another message."""
        self.shut = True
        self.taking = not self.cell.node.stopping
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

    def worker_of(self, call: Call) -> Worker | None:
        return next((worker for worker in self.workers if worker.call is call), None)

    def cancel_overdue(self, now: float) -> float:
        """Cancel what runs past its deadline; the next deadline of what goes on."""
        nearest = math.inf
        for worker in self.workers:
            call = worker.call
            if call is None or worker.cancelled:
                continue
            if call.deadline <= now:
                worker.cancel(BudgetSpent(f"{call.route.name} ran out of its time budget"))
                worker.abandon_where_it_cannot_stop()
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


def _admitted(call: Call) -> None:
    call.cell.admitted(call)
