"""`Inbox`: what waits for an actor, and how it comes in: gates, bounds, the stash, the deadlines of what waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from mbactor.errors import (
    ActorRestarting,
    ActorStopped,
    BudgetSpent,
    MailboxFull,
    MbactorError,
    NodeLeaving,
    NoSuchActor,
)
from mbactor.kernel.context import Call
from mbactor.kernel.gate import Gate
from mbactor.kernel.routes import SERIAL, routes_of
from mbactor.kernel.sending import NO_WAYS, Way
from mbactor.kernel.worker import Worker
from mbactor.mailbox import Mailbox, MailboxStatistics

if TYPE_CHECKING:
    from mbactor.kernel.actor import Actor
    from mbactor.kernel.exit import Exit
    from mbactor.kernel.incarnation import Incarnation
    from mbactor.kernel.node import Node
    from mbactor.kernel.routes import Route
    from mbactor.kernel.serving import Serving

MANY, REST = 1000, 5e-6
"""Of more than so many messages that wait, each puts the next look at their deadlines off by so many seconds: who waits
for room is not bounded, and where each of ten thousand has a deadline of its own, looking took all of the loop's time.
"""
LONG_PAUSE = 1.0
"""In a backoff longer than this the mailbox refuses instead of queueing."""

State = Literal["new", "starting", "running", "stopping", "down", "closed"]


class Inbox:
    """The half of a cell that senders meet. Everything happens on one event loop."""

    __slots__ = (
        "_paused",
        "_tells",
        "_timer",
        "active",
        "bound",
        "cls",
        "current",
        "ended",
        "gates",
        "id",
        "main",
        "node",
        "other",
        "routes",
        "served",
        "stashed",
        "state",
        "timer_at",
        "ways",
    )  # fmt: skip

    def __init__(self, node: Node, cls: type[Actor], id: str, mailbox: Mailbox | None) -> None:
        self.node = node
        self.cls = cls
        self.id = id
        self.routes = routes_of(cls)
        self.state: State = "new"
        self.current: Incarnation | None = None
        self.bound = mailbox or cls.mailbox
        self.main: Gate | None = None
        """The serial gate, made when the first message comes: an actor that was never asked has no queue."""
        self.other: dict[int, Gate] | None = None
        self.gates: tuple[Gate, ...] = ()
        """All there are, in the order in which they are shut: what runs aside may still ask the actor itself."""
        self.ways: Mapping[Any, Way] = NO_WAYS
        """The operations whose messages may take the short way in: see `ActorRef.ask` and `ActorRef.tell`."""
        self.stashed: list[tuple[Call, Call | None]] | None = None
        """Messages to be handled later, with those that made them."""
        self.timer_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._paused = 0.0
        self._tells: dict[Call, asyncio.Future[None]] | None = None
        self.ended: Exit | None = None
        """How it ended for good."""
        self.served: Serving | None = None
        self.active: dict[str, int] | None = None
        """The manual features that are served, with the incarnation that said so."""

    @property
    def address(self) -> str:
        """For people: host (or class) and id."""
        host = self.cls.host
        return f"{host}#{self.id}" if host and host != self.id else self.id

    def is_active(self, route: Route) -> bool:
        """Whether messages for it are taken."""
        feature = route.feature
        return feature.served and (not feature.manual or (self.active is not None and feature.name in self.active))

    def takes(self, name: str) -> bool:
        """Whether a message for a feature would be queued at once: there is room, and it is in no long backoff."""
        gate = self._made_for(name)
        return self._paused <= LONG_PAUSE if gate is None else gate.taking and not gate.queue.full

    def has_room(self, name: str) -> bool:
        """Whether it runs, and has half its mailbox free at least for the messages of a feature."""
        gate = self._made_for(name)
        half_free = gate is None or (gate.taking and 2 * len(gate.queue) <= gate.queue.bound.capacity)
        return self.state == "running" and half_free

    def _made_for(self, name: str) -> Gate | None:
        """The gate of a feature; None where no message has come for it."""
        number = self.routes.by_name[name].gate
        return self.main if number == SERIAL else (self.other or {}).get(number)

    # --- messages in ----------------------------------------------------------------------------------

    def accept(self, call: Call) -> bool:
        """Queue a message, or answer at once why not. False when it was refused."""
        route = call.route
        gate = self.main if route.gate == SERIAL else self._other(route.gate)
        if gate is None:
            gate = self.main = self._made(SERIAL)
        if not gate.taking:
            self._unwilling()
            return self._refuse(call, self._why_not())
        if route.manual and not self.is_active(route):
            return self._refuse(call, NoSuchActor(route.address, "it is not active now"))
        if route.budget is not None and call.asked:
            call.deadline = min(call.deadline, call.arrived + route.budget)
        if route.key is not None and not self._keyed(call):
            return False
        accepted = gate.queue.offer(call)
        if accepted is not True:
            return self._overflowed(gate, call, accepted)
        self._queued(gate, call)
        return True

    def _queued(self, gate: Gate, call: Call) -> None:
        # A worker that begins with a message of a key in flight leaves it where it is.
        if not gate.idle or not gate.kick() or gate.keyed:
            self.waits_in_line(gate, call)

    def waits_in_line(self, gate: Gate, call: Call) -> None:
        """A message was queued behind others: its time budget runs, and it may be behind the one that waits for it."""
        if call.deadline < self.timer_at:
            self.watch_deadline(call.deadline)
        one_passes = gate.limit == 1 or gate.keyed or gate.shut
        if (one_passes or self.cls.reentrant) and call.future is not None and (call.caller is not None or call.via):
            self.node.suspects.add(call)

    def accept_waiting(self, call: Call, budget: float) -> asyncio.Future[None]:
        """Queue a message as soon as there is room; the future ends when it is accepted, or with the reason why not."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate = self.gate(call.route.gate)
        self._tells = self._tells if self._tells is not None else {}
        self._tells[call] = future
        if not gate.taking:
            self._unwilling()
            self._refuse(call, self._why_not())
        elif call.route.manual and not self.is_active(call.route):
            self._refuse(call, NoSuchActor(call.route.address, "it is not active now"))
        elif not gate.queue.full or gate.queue.bound.overflow == "drop_oldest":
            if self.accept(call):
                self.admitted(call)
        elif call.route.key is None or self._keyed(call):
            self._await_room(gate, call, future, budget)
        return future

    def admitted(self, call: Call) -> bool:
        """A message that waited for room has it. False where its sender has been told otherwise meanwhile."""
        waiting = self._tells.pop(call, None) if self._tells else None
        if waiting is not None and waiting.done():
            return False
        if waiting is not None:
            waiting.set_result(None)
        return True

    def statistics(self) -> MailboxStatistics:
        """The mailbox at this moment: all queues of the actor together."""
        now = self.node.time()
        return MailboxStatistics.of([gate.statistics(now) for gate in self.gates])

    def rebound(self, mailbox: Mailbox | None) -> None:
        """Another bound (None: that of the class), at once. What waits beyond a lower one is handled all the same."""
        self.bound = mailbox or self.cls.mailbox
        for gate in self.gates:
            gate.rebound(self.bound)

    # --- gates ------------------------------------------------------------------------------------------

    def gate(self, number: int) -> Gate:
        if number != SERIAL:
            return self._other(number)
        if self.main is None:
            self.main = self._made(SERIAL)
        return self.main

    def worker_of(self, call: Call) -> Worker | None:
        """Who runs a call, while it runs."""
        if self.main is not None and self.main.workers and self.main.workers[0].call is call:
            return self.main.workers[0]
        return next((worker for gate in self.gates if (worker := gate.worker_of(call)) is not None), None)

    def _other(self, number: int) -> Gate:
        if self.other is None:
            self.other = {}
        gate = self.other.get(number)
        if gate is None:
            gate = self.other[number] = self._made(number)
        return gate

    def _made(self, number: int) -> Gate:
        cell: Any = self  # an inbox is always half of a cell
        gate = Gate(cell, self.routes.gates[number])
        gate.shut = self.state != "running"
        gate.let_in(self.state != "closed" and self._paused <= LONG_PAUSE)
        aside = self.gates if self.main is None else self.gates[:-1]
        self.gates = (*aside, gate, *self.gates[len(aside) :])
        return gate

    # --- messages that are not taken ------------------------------------------------------------------------

    def dead(self, call: Call, reason: str) -> None:
        """A message that nobody waits for could not be delivered: it is kept, told, and returned to its sender."""
        letter = self.node.dead_letters.add(
            self.address, call.route.feature.name, _arguments(call), call.sender, reason
        )
        sender = call.caller.cell if call.caller is not None else None
        if sender is not None and sender.routes.returns_letters:
            sender.notice("on_undelivered", letter=letter)

    def keep(self, call: Call) -> None:
        """Stash a message until `unstash`. As many are kept as the mailbox may hold."""
        stashed = self.stashed = self.stashed if self.stashed is not None else []
        if len(stashed) >= self.bound.capacity:
            self._refuse(call, MailboxFull(f"the stash of {self.address}", self.bound.capacity))
        else:
            stashed.append((call, call.caller))  # which its worker takes from a message that it has run
            self.watch_no_later_than(call.deadline)

    def unstash(self) -> int:
        """Put what was stashed before all that waits, in the order in which it came. How many there were."""
        if self.stashed is None:
            return 0
        stashed = self._take_stash()
        gates = {call.route.gate: self.gate(call.route.gate) for call in stashed}
        for number, gate in gates.items():
            gate.queue.put_back(call for call in stashed if call.route.gate == number)
            for _ in stashed:
                gate.kick()
            for call in gate.queue.everything():  # also one that a worker was woken for, and that is passed now
                self.watch_no_later_than(call.deadline)
        return len(stashed)

    def _take_stash(self) -> list[Call]:
        stashed, self.stashed = self.stashed or [], None
        for call, caller in stashed:
            call.caller = caller
        return [call for call, _ in stashed]

    def _refuse(self, call: Call, error: MbactorError) -> bool:
        if self._tells and call in self._tells:
            waiting = self._tells.pop(call)
            if not waiting.done():
                waiting.set_exception(error)
        elif call.asked:
            call.fail(error)
        else:
            self.dead(call, str(error))
        return False

    def _why_not(self) -> MbactorError:
        if self.state != "closed" and self._paused > LONG_PAUSE:
            return ActorRestarting(self.address, self._paused)
        return self.stopped()

    def _full(self, gate: Gate) -> MailboxFull:
        return MailboxFull(self.address, gate.queue.bound.capacity)

    def _unwilling(self) -> None:
        """It takes no messages now: others are to have those that come next."""
        if self.served is not None:
            self.served.presence.unwilling()

    def _overflowed(self, gate: Gate, call: Call, evicted: bool | Call) -> bool:
        self._unwilling()
        if evicted is False:
            if gate.queue.bound.overflow == "wait" and call.asked:
                gate.queue.wait(call)
                self.waits_in_line(gate, call)
                return True
            return self._refuse(call, self._full(gate))
        if evicted is not True:
            self._refuse(evicted, self._full(gate))
        self._queued(gate, call)
        return True

    def _keyed(self, call: Call) -> bool:
        """Read the key; the arguments have to be decoded for that."""
        try:
            arguments = call.arguments()
        except MbactorError as error:
            return self._refuse(call, error)
        call.kwargs = arguments
        value = arguments.get(call.route.key or "", call.route.key_default)
        try:
            hash(value)
        except TypeError:
            value = repr(value)
        call.key = (call.route.key, value)
        return True

    def _await_room(self, gate: Gate, call: Call, future: asyncio.Future[None], budget: float) -> None:
        gate.queue.rejected += 1  # taken back by `wait`
        gate.queue.wait(call)

        def withdrawn(done: asyncio.Future[None]) -> None:
            if timer is not None:
                timer.cancel()
            if self._tells and self._tells.pop(call, None) is not None and (done.cancelled() or done.exception()):
                gate.queue.withdraw(call)

        error = BudgetSpent(f"{call.route.name}: the mailbox of {self.address} stayed full within the time budget")
        error.taken = "no"
        loop = asyncio.get_running_loop()
        timer = None
        if budget < math.inf:
            timer = loop.call_later(budget, lambda: None if future.done() else future.set_exception(error))
        future.add_done_callback(withdrawn)

    def stopped(self) -> MbactorError:
        """Why nothing is taken any more."""
        ended = self.ended
        if self.node.leaving:
            return NodeLeaving(self.address)
        return ActorStopped(self.address, "" if ended is None or ended.clean else str(ended))

    def refuse_all(self) -> None:
        """The actor has ended for good: nothing that waits will be handled, and nothing more is taken."""
        for gate in self.gates:
            gate.retire()
            gate.let_in(False)
            for call in gate.queue.drain():
                self._refuse(call, self.stopped())
        for call in self._take_stash():
            self._refuse(call, self.stopped())
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self.timer_at = None, math.inf

    # --- deadlines ----------------------------------------------------------------------------------------

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
        for gate in self.gates:
            nearest = min(nearest, gate.cancel_overdue(now))
            nearest = min(nearest, _answer_overdue(gate.queue.everything(), now))
            gate.queue.expire_waiting(_nobody_waits)
        nearest = min(nearest, _answer_overdue((call for call, _ in self.stashed or ()), now))
        if nearest < math.inf:
            lines = self.statistics()
            self.watch_deadline(max(nearest, now + REST * max(0, lines.depth + lines.waiting - MANY)))


def _answer_overdue(calls: Iterable[Call], now: float) -> float:
    """Tell those whose asks wait and have run out of time; the next deadline of the others."""
    nearest = math.inf
    for call in calls:
        if call.deadline > now:
            nearest = min(nearest, call.deadline)
        elif not call.done():
            call.fail(BudgetSpent(f"{call.route.name} waited at {call.cell.address} until its time budget was spent"))
    return nearest


def _nobody_waits(call: Call) -> bool:
    """Whether an ask has its answer, or its asker has gone. (A `tell_wait` is withdrawn by whoever makes it.)"""
    return call.asked and call.done()


def _arguments(call: Call) -> dict[str, Any] | None:
    try:
        return call.arguments()
    except MbactorError:
        return None
