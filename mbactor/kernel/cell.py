"""`Cell`: one actor running. It owns what outlives an incarnation: the address, the mailbox, the routes.

A supervisor drives it by `start`, `stop`, `pause` and `close`, and is told of an end it did not ask for by
`on_exit`. Messages come in by `accept`, wait in a gate, and are run by the gate's resident workers. A worker
lives while there is work and a moment longer, so an idle actor holds neither a task nor a scope.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from mbactor import observe
from mbactor.errors import (
    ActorCrashed,
    ActorRestarting,
    ActorStopped,
    BudgetSpent,
    Deadlock,
    MailboxFull,
    MbactorError,
    NoSuchChild,
)
from mbactor.kernel import waits
from mbactor.kernel.context import Call, Hooked, current
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.kernel.gate import Gate
from mbactor.kernel.incarnation import Incarnation
from mbactor.kernel.ref import ActorRef
from mbactor.kernel.routes import SERIAL, routes_of
from mbactor.kernel.sending import NO_WAYS, Way
from mbactor.kernel.worker import Worker
from mbactor.mailbox import Lane, Mailbox, MailboxStatistics

if TYPE_CHECKING:
    from mbactor.kernel.actor import Actor
    from mbactor.kernel.node import Node

LONG_PAUSE = 1.0
"""In a backoff longer than this the mailbox refuses instead of queueing."""
EXITS_KEPT = 8

State = Literal["new", "starting", "running", "stopping", "down", "closed"]


class Cell:
    """Runs one actor, incarnation after incarnation. Everything happens on one event loop."""

    __slots__ = (
        "__weakref__",
        "_paused",
        "_replica",
        "_tells",
        "_timer",
        "args",
        "bound",
        "cls",
        "config",
        "current",
        "ended",
        "exits",
        "hook",
        "id",
        "idle_after",
        "incarnation",
        "kwargs",
        "main",
        "node",
        "on_exit",
        "other",
        "routes",
        "served",
        "shutdown",
        "started_at",
        "stashed",
        "state",
        "terminate",
        "timer_at",
        "watchers",
        "ways",
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
        self.kwargs = kwargs or _NOTHING
        self.config = config or _NOTHING
        self.served: Any = None
        self.shutdown = shutdown
        self.routes = routes_of(cls)
        self.state: State = "new"
        self.incarnation = 0
        self.current: Incarnation | None = None
        self.on_exit: Callable[[Exit], None] | None = None
        self.terminate: Callable[[], Awaitable[None]] | None = None
        self.bound = mailbox or cls.mailbox
        self.main: Gate | None = None
        """The serial gate, made when the first message comes: an actor that was never asked has no queue."""
        self.other: dict[int, Gate] | None = None
        self.timer_at = math.inf
        self.started_at = 0.0
        self.ended: Exit | None = None
        """How it ended for good."""
        self.exits: deque[tuple[float, Exit]] | tuple[()] = ()
        """The last ends of incarnations, with the loop's time."""
        self.hook: Hooked | None = None
        """`on_start` or `on_stop`, while it runs: messages wait for that."""
        self.idle_after: float | None = None
        self.watchers: dict[Incarnation, None] | None = None
        self.ways: Mapping[Any, Way] = NO_WAYS
        """The operations whose tells may take the short way in: see `ActorRef.tell`."""
        self.stashed: list[tuple[Call, Call | None]] | None = None
        """Messages to be handled later, with those that made them."""
        self._paused = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tells: dict[Call, asyncio.Future[None]] | None = None
        self._replica: str | None = None

    @property
    def address(self) -> str:
        """For people: host (or class) and id."""
        host = self.cls.host
        return f"{host}#{self.id}" if host and host != self.id else self.id

    @property
    def replica(self) -> str:
        """Names this one among the replicas of its host, in addresses and in refs that travel."""
        if self._replica is None:
            self._replica = f"id-{secrets.token_hex(5)}"
            self.node.cells[self._replica] = self
        return self._replica

    @property
    def ref(self) -> ActorRef[Any]:
        return ActorRef(self)

    # --- messages in ----------------------------------------------------------------------------------

    def accept(self, call: Call) -> bool:
        """Queue a message, or answer at once why not. False when it was refused."""
        route = call.route
        gate = self.main if route.gate == SERIAL else self._other(route.gate)
        if gate is None:
            gate = self.main = self._made(SERIAL)
        if not gate.taking:
            return self._refuse(call, self._why_not())
        if route.key is not None and not self._keyed(call):
            return False
        accepted = gate.queue.offer(call)
        if accepted is not True:
            return self._overflowed(gate, call, accepted)
        self._queued(gate, call)
        return True

    def _queued(self, gate: Gate, call: Call) -> None:
        # A worker that begins with a message of a key in flight leaves it where it is.
        if not gate.kick() or gate.keyed:
            self.waits_in_line(gate, call)

    def waits_in_line(self, gate: Gate, call: Call) -> None:
        """A message was queued behind others: its time budget runs, and it may be behind the one that waits for it."""
        if call.deadline < self.timer_at:
            self.watch_deadline(call.deadline)
        if call.future is not None and (call.caller is not None or call.via) and gate.limit == 1:
            waits.suspect(call)

    def accept_waiting(self, call: Call, budget: float) -> asyncio.Future[None]:
        """Queue a message as soon as there is room; the future ends when it is accepted, or with the reason why not."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate = self.gate(call.route.gate)
        self._tells = self._tells if self._tells is not None else {}
        self._tells[call] = future
        if not gate.taking:
            self._refuse(call, self._why_not())
        elif not gate.queue.full or gate.queue.bound.overflow == "drop_oldest":
            if self.accept(call):
                self.admitted(call)
        elif call.route.key is None or self._keyed(call):
            self._await_room(gate, call, future, budget)
        return future

    def notice(self, name: str, lane: Lane = Lane.SYSTEM, **arguments: Any) -> Call | None:
        """Let one of the actor's own hooks run, before all messages. Meant for the incarnation that runs now."""
        incarnation = self.current
        if incarnation is None:
            return None
        gate = self.gate(SERIAL)
        call = Call(self.routes.hooks[name], arguments, self, incarnation=incarnation.number)
        call.arrived = asyncio.get_running_loop().time()
        gate.queue.offer(call, lane)
        gate.kick()
        return call

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
        now = asyncio.get_running_loop().time()
        return MailboxStatistics.of([gate.queue.statistics(now) for gate in self.gates()])

    # --- gates ------------------------------------------------------------------------------------------

    def gate(self, number: int) -> Gate:
        if number != SERIAL:
            return self._other(number)
        if self.main is None:
            self.main = self._made(SERIAL)
        return self.main

    def gates(self) -> list[Gate]:
        """In the order in which they are shut: what runs aside may still ask the actor itself."""
        return [*(self.other.values() if self.other else ()), *((self.main,) if self.main else ())]

    def worker_of(self, call: Call) -> Worker | None:
        """Who runs a call, while it runs."""
        return next((worker for gate in self.gates() if (worker := gate.worker_of(call)) is not None), None)

    def _other(self, number: int) -> Gate:
        if self.other is None:
            self.other = {}
        gate = self.other.get(number)
        if gate is None:
            gate = self.other[number] = self._made(number)
        return gate

    def _made(self, number: int) -> Gate:
        gate = Gate(self, self.routes.gates[number])
        gate.shut = self.state != "running"
        gate.let_in(self.state != "closed" and self._paused <= LONG_PAUSE)
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
        stashed = self._take_stash()
        gates = {call.route.gate: self.gate(call.route.gate) for call in stashed}
        for number, gate in gates.items():
            gate.queue.put_back(call for call in stashed if call.route.gate == number)
            for _ in stashed:
                gate.kick()
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
        return ActorStopped(self.address)

    def _full(self, gate: Gate) -> MailboxFull:
        return MailboxFull(self.address, gate.queue.bound.capacity)

    def _overflowed(self, gate: Gate, call: Call, evicted: bool | Call) -> bool:
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
        value = arguments.get(call.route.key or "")
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
            timer.cancel()
            if self._tells and self._tells.pop(call, None) is not None and (done.cancelled() or done.exception()):
                gate.queue.withdraw(call)

        error = BudgetSpent(f"{call.route.name}: the mailbox of {self.address} stayed full within the time budget")
        error.taken = "no"
        loop = asyncio.get_running_loop()
        timer = loop.call_later(budget, lambda: None if future.done() else future.set_exception(error))
        future.add_done_callback(withdrawn)

    # --- driven by a supervisor --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start a new incarnation: construct, `on_start`, then the mailbox opens. Raises what they raise."""
        begun = self._begin()
        if self.routes.starts_plainly:
            self._construct(begun)
        else:
            await self._start_with_hook(begun)
        self._running(begun)

    def start_now(self) -> bool:
        """As `start`, at once, for an actor without an `on_start` of its own; False where that has to be awaited."""
        if not self.routes.starts_plainly:
            return False
        begun = self._begin()
        self._construct(begun)
        self._running(begun)
        return True

    def stop_now(self, exit: Exit) -> bool:
        """Stop at once where nothing runs and there is nothing to wait for; False where there is."""
        begun = self.current
        if begun is None:
            return self.state != "starting"
        busy = (self.main is not None and self.main.workers) or self.other
        if busy or self.state != "running" or not self.routes.stops_plainly or begun.holds_anything():
            return False
        self.current = None
        self.state = "down"
        for gate in self.gates():
            gate.halt()
        self.unstash()
        self.watch_those_that_wait()
        if self.node.stopping:
            self.close(exit)
        if observe.active():
            observe.emit("actor.stopped", actor=self.address, incarnation=self.incarnation, exit=str(exit))
        return True

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
        self._paused = round(seconds, 6)  # a moment less another is not exact: a second may be more than one
        if self._paused > LONG_PAUSE:
            for gate in self.gates():
                gate.let_in(False)

    def close(self, exit: Exit) -> None:
        """End for good: asks that wait get ActorStopped, the rest become dead letters, watchers are told."""
        if self.state == "closed":
            return
        self.state = "closed"
        self.ended = exit
        if self.served is not None:
            self.node.unregister(self)
        self.node.refs.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for gate in self.gates():
            gate.retire()
            gate.let_in(False)
            for call in gate.queue.drain():
                self._refuse(call, ActorStopped(self.address))
        for call in self._take_stash():
            self._refuse(call, ActorStopped(self.address))
        watchers, self.watchers = self.watchers, None
        for watcher in watchers or ():
            watcher.has_ended(self, exit)

    async def end(self, timeout: float | None) -> None:
        """What `ref.stop()` and `ref.kill()` do: an end for good, whatever its restart type."""
        call = current.get()
        if call is not None and call.cell is self and self.worker_of(call) is not None:
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

    def note_exit(self, ended: Exit) -> None:
        """Remember how an incarnation ended."""
        if not self.exits:
            self.exits = deque(maxlen=EXITS_KEPT)
        assert isinstance(self.exits, deque)
        self.exits.append((asyncio.get_running_loop().time(), ended))

    def _begin(self) -> Incarnation:
        self.state = "starting"
        self._paused = 0.0
        for gate in self.gates():
            gate.let_in(True)
        self.incarnation += 1
        return Incarnation(self, self.incarnation)

    def _construct(self, begun: Incarnation) -> None:
        token = current.set(None)
        try:
            begun.actor = self.cls(*self.args, **self.kwargs)
        except BaseException:
            self.state = "down"
            raise
        finally:
            current.reset(token)
        begun.actor._incarnation = begun  # noqa: SLF001 - the cell is the actor's machinery
        self.current = begun

    async def _start_with_hook(self, begun: Incarnation) -> None:
        self._construct(begun)
        call = Call(self.routes.hooks["on_start"], {}, self)
        self.hook = Hooked(call, asyncio.current_task())
        token = current.set(call)
        try:
            await begun.actor.on_start()
        except BaseException:
            self.current = None
            self.state = "down"
            begun.release()
            begun.cancel_tasks()
            raise
        finally:
            current.reset(token)
            self.hook = None

    def _running(self, begun: Incarnation) -> None:
        self.state = "running"
        self.started_at = asyncio.get_running_loop().time()
        if self.cls.host is not None:
            self.node.register(self)
        if observe.active():
            observe.emit("actor.started", actor=self.address, incarnation=self.incarnation)
        for gate in self.gates():
            gate.queue.release_all()
            gate.open()
        begun.started()

    # --- failures and deadlines ------------------------------------------------------------------------------

    def crashed(self, error: BaseException, call: Call | None, where: str, by: Incarnation) -> None:
        """Something raised what is no answer. Told or not, restart or go on, is decided here."""
        told = call is not None and call.asked
        if call is not None:
            call.fail(error)
        gate = self.routes.gates[call.route.gate] if call is not None else None
        aside = call is not None and call.route.feature.aside
        policy = self.cls.on_error or ("resume" if gate is not None and gate.limit > 1 else "restart")
        ends = not aside and (policy != "resume" or call is None)
        observe.emit("actor.crashed", actor=self.address, method=where, error=error, told=told)
        if ends and self.current is by:
            by.end_by_itself(Exit("failed", error, told=told and policy != "fail"))

    def gone_astray(self, error: ActorCrashed, by: Incarnation) -> None:
        """A thread of an incarnation does not end: leave both behind. Its asker has been told."""
        observe.emit("actor.crashed", actor=self.address, method="(thread)", error=error, told=True)
        if self.current is by:
            by.end_by_itself(Exit("failed", error, told=True))

    def call_off(self, call: Call) -> None:
        """Nobody wants the answer any more: cancel the method, where it runs."""
        worker = self.worker_of(call)
        if worker is not None:
            worker.cancel(BudgetSpent(f"{call.route.name} was called off"))

    def watch_no_later_than(self, deadline: float) -> None:
        """See to it that the timer fires at this deadline or before."""
        if deadline < self.timer_at:
            self.watch_deadline(deadline)

    def watch_those_that_wait(self) -> None:
        """No worker looks at them for a while: each is told at its own deadline all the same."""
        for gate in self.gates():
            for call in gate.queue.everything():
                self.watch_no_later_than(call.deadline)

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
            nearest = min(nearest, _answer_overdue(gate.queue.everything(), now))
        nearest = min(nearest, _answer_overdue((call for call, _ in self.stashed or ()), now))
        if nearest < math.inf:
            self.watch_deadline(nearest)

    # --- idleness -----------------------------------------------------------------------------------------------

    def watch_idleness(self) -> None:
        """The queue is empty: after `idle_after` without another message `on_receive_timeout` is due."""
        if self.current is not None and self.idle_after is not None:
            self.current.watch_idleness(self.idle_after)


def _answer_overdue(calls: Iterable[Call], now: float) -> float:
    """Tell those whose asks wait and have run out of time; the next deadline of the others."""
    nearest = math.inf
    for call in calls:
        if call.deadline > now:
            nearest = min(nearest, call.deadline)
        elif not call.done():
            call.fail(BudgetSpent(f"{call.route.name} waited at {call.cell.address} until its time budget was spent"))
    return nearest


_NOTHING: Mapping[str, Any] = {}


def _arguments(call: Call) -> dict[str, Any] | None:
    try:
        return call.arguments()
    except MbactorError:
        return None
