"""`Cell`: one actor running. It owns what outlives an incarnation: the address, the mailbox, the routes.

A supervisor drives it by `start`, `stop`, `pause` and `close`, and is told of an end it did not ask for by
`on_exit`. What waits for the actor is in `inbox.py`; it is run by resident workers of the inbox's gates. A worker
lives while there is work and a moment longer, so an idle actor holds neither a task nor a scope.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from itertools import islice
from typing import TYPE_CHECKING, Any

from mbactor import observe
from mbactor.errors import (
    ActorCrashed,
    BudgetSpent,
    Deadlock,
    MbactorError,
    NoSuchActor,
    NoSuchChild,
)
from mbactor.kernel.context import Call, Hooked, current
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.kernel.inbox import LONG_PAUSE, Inbox
from mbactor.kernel.incarnation import Incarnation
from mbactor.kernel.properties import differing
from mbactor.kernel.ref import ActorRef
from mbactor.kernel.routes import SERIAL
from mbactor.mailbox import Lane, Mailbox

if TYPE_CHECKING:
    from mbactor.kernel.actor import Actor
    from mbactor.kernel.node import Node
    from mbactor.kernel.routes import Route

EXITS_KEPT = 8


def tell_start_failed(actor: str, error: BaseException) -> None:
    """Show the traceback of a start that failed: whoever waits for the start is told the error's text only.

    An error that was raised on purpose (`MbactorError`) says itself what is wrong.
    """
    if isinstance(error, Exception) and not isinstance(error, MbactorError):
        observe.emit("actor.start_failed", actor=actor, error=error)


class Cell(Inbox):
    """Runs one actor, incarnation after incarnation. Everything happens on one event loop."""

    __slots__ = (
        "__weakref__", "_killed", "_replica", "args", "config", "exits", "hook", "idle_after",
        "incarnation", "kwargs",
        "on_exit", "shutdown", "started_at", "terminate", "watchers",
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
        super().__init__(node, cls, id, mailbox)
        self.args = args
        self.kwargs = kwargs or _NOTHING
        self.config = config or _NOTHING
        self.shutdown = shutdown
        self.incarnation = 0
        self.on_exit: Callable[[Exit], None] | None = None
        self.terminate: Callable[[], Awaitable[None]] | None = None
        self.started_at = 0.0
        self.exits: deque[tuple[float, Exit]] | tuple[()] = ()
        """The last ends of incarnations, with the loop's time."""
        self.hook: Hooked | None = None
        """`on_start` or `on_stop`, while it runs: messages wait for that."""
        self.idle_after: float | None = None
        self.watchers: dict[Incarnation, None] | None = None
        self._killed: Exit | None = None
        """How `ref.kill()` ended it, before its supervisor closes it as one that does not run."""
        self._replica: str | None = None

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

    # --- what is served ----------------------------------------------------------------------------------------

    def activate(self, route: Route) -> None:
        """Take messages for a manual feature, until this incarnation ends or says otherwise."""
        self.active = self.active if self.active is not None else {}
        self.active[route.feature.name] = self.incarnation
        if self.served is not None:
            self.served.activate(route)

    def deactivate(self, route: Route) -> None:
        if self.active is not None:
            self.active.pop(route.feature.name, None)
        if self.served is not None:
            self.served.deactivate(route)

    def _keep_active(self) -> None:
        """An incarnation has started. What it has not activated was the affair of the one before: until now messages
        have waited for it, as they do for all that a restarted actor serves.
        """
        for name, number in tuple((self.active or {}).items()):
            if number != self.incarnation:
                route = self.routes.by_name[name]
                self.deactivate(route)
                queue = self.gate(route.gate).queue
                for call in [call for call in queue.everything() if call.route is route]:
                    queue.withdraw(call)
                    self._refuse(call, NoSuchActor(route.address, "it is not active now"))

    # --- its own hooks ---------------------------------------------------------------------------------

    def notice(self, name: str, lane: Lane = Lane.SYSTEM, **arguments: Any) -> Call | None:
        """Let one of the actor's own hooks run, before all messages. Meant for the incarnation that runs now."""
        incarnation = self.current
        if incarnation is None:
            return None
        gate = self.gate(SERIAL)
        call = Call(self.routes.hooks[name], arguments, self, incarnation=incarnation.number)
        call.arrived = asyncio.get_running_loop().time()
        gate.queue.offer(call, lane)
        if not gate.kick():
            # It passes what a worker was woken for: nobody has looked at the deadlines of those.
            for passed in list(islice(gate.work, gate.limit)):  # a thread may put more there meanwhile
                self.watch_no_later_than(passed.deadline)
        return call

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
        # A worker that waits for a message would outlast the stop by a turn of the loop; awaited, it does not.
        busy = any(gate.workers for gate in self.gates)
        if busy or self.state != "running" or not begun.ends_at_once():
            return False
        begun.end_now(exit)
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
            for gate in self.gates:
                gate.let_in(False)
            if self.served is not None:
                self.served.presence.unwilling(at_once=True)

    def close(self, exit: Exit) -> None:
        """End for good: asks that wait get ActorStopped, the rest become dead letters, watchers are told."""
        if self.state == "closed":
            return
        self.state = "closed"
        self.ended = exit = self._killed or exit
        self.refuse_all()
        if self.served is not None:
            self.node.unregister(self)
        self.node.refs.forget(self)
        watchers, self.watchers = self.watchers, None
        for watcher in watchers or ():
            watcher.has_ended(self, exit)

    async def end(self, timeout: float | None) -> None:
        """What `ref.stop()` and `ref.kill()` do: an end for good, whatever its restart type."""
        call = current.get()
        if call is not None and call.cell is self and self.worker_of(call) is not None:
            ends = f"{call.route.name} waits for the end of its own actor"
            raise Deadlock(ends, instead="call self.stop(), which waits for nothing")
        if self.state != "closed":
            self.node.check_running()
        if timeout == 0 and self.current is not None:
            self._killed = await self.stop(0)
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

    def respecify(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        config: Mapping[str, Any] | None,
        shutdown: float | None,
    ) -> None:
        """What its next incarnation is constructed with; how long the one that runs has to stop. A changed `config` is
        the running one's too, before its next message.
        """
        self.args = args
        self.kwargs = kwargs or _NOTHING
        before, self.config = self.config, config or _NOTHING
        self.shutdown = shutdown
        same = before.keys() == self.config.keys() and not differing(before, self.config)
        if not same and (changed := self.notice("on_config_changed")) is not None:
            # For whichever incarnation: another has the new values already, and nothing comes of it there.
            changed.incarnation = 0

    def note_exit(self, ended: Exit) -> None:
        """Remember how an incarnation ended."""
        exits = self.exits
        if isinstance(exits, tuple):
            exits = self.exits = deque(maxlen=EXITS_KEPT)
        exits.append((self.node.time(), ended))

    def _begin(self) -> Incarnation:
        self.state = "starting"
        self.ended = self._killed = None  # it may have been closed, and is wanted again
        self._paused = 0.0
        for gate in self.gates:
            if not gate.taking:
                gate.let_in(True)
        self.incarnation += 1
        return Incarnation(self, self.incarnation, copy_context())

    def _construct(self, begun: Incarnation) -> None:
        token = current.set(None)
        try:
            begun.actor = self._made_actor()
        except BaseException as error:
            self.state = "down"
            tell_start_failed(self.address, error)
            raise
        finally:
            current.reset(token)
        begun.actor._incarnation = begun  # noqa: SLF001 - the cell is the actor's machinery
        self.current = begun

    def _made_actor(self) -> Actor:
        properties = self.routes.properties
        if properties is None:
            return self.cls(*self.args, **self.kwargs)
        # As a call of the class makes it, but that its properties are there before its constructor runs.
        actor = self.cls.__new__(self.cls, *self.args, **self.kwargs)
        actor._configuration = properties.complete(self.config)  # noqa: SLF001 - as above
        actor.__init__(*self.args, **self.kwargs)  # type: ignore[misc]
        return actor

    async def _start_with_hook(self, begun: Incarnation) -> None:
        self._construct(begun)
        call = Call(self.routes.hooks["on_start"], {}, self)
        self.hook = hook = Hooked(call, asyncio.current_task())
        token = current.set(call)
        try:
            await begun.actor.on_start()
            begun.check_current()  # it may have been killed, or left behind, meanwhile
        except BaseException as error:
            tell_start_failed(self.address, error)
            begun.release()
            begun.cancel_tasks()
            if self.current is begun:
                self.current = None
                self.state = "down"
            raise
        finally:
            current.reset(token)
            if self.hook is hook:
                self.hook = None

    def _running(self, begun: Incarnation) -> None:
        self.state = "running"
        self.started_at = self.node.time()
        if self.active is not None:
            self._keep_active()
        if self.cls.host is not None:
            self.node.register(self)
        if observe.active():
            observe.emit("actor.started", actor=self.address, incarnation=self.incarnation)
        for gate in self.gates:
            if gate.keyed:
                gate.queue.release_all()
            gate.open()
        begun.started()

    # --- failures and deadlines ------------------------------------------------------------------------------

    def crashed(self, error: BaseException, call: Call | None, where: str, by: Incarnation) -> None:
        """Something raised what is no answer. Told or not, restart or go on, is decided here."""
        told = call is not None and call.asked
        if call is not None:
            call.fail(error)
        ends = call is None or call.route.ends
        if observe.heard():
            more = {} if ends else {"goes_on": True}
            observe.emit("actor.crashed", actor=self.address, method=where, error=error, told=told, **more)
        if self.current is by and ends:
            by.end_by_itself(Exit("failed", error, told and self.cls.on_error != "fail"), over=call)

    def gone_astray(self, error: ActorCrashed, method: str, by: Incarnation) -> None:
        """A method of an incarnation does not end: leave both behind. Its asker has been told."""
        observe.emit("actor.crashed", actor=self.address, method=method, error=error, told=True)
        if self.current is by:
            by.end_by_itself(Exit("failed", error, told=True))

    def call_off(self, call: Call) -> None:
        """Nobody wants the answer any more: cancel the method, where it runs."""
        worker = self.worker_of(call)
        if worker is not None:
            worker.cancel(BudgetSpent(f"{call.route.name} was called off"))

    # --- idleness -----------------------------------------------------------------------------------------------

    def watch_idleness(self) -> None:
        """The queue is empty: after `idle_after` without another message `on_receive_timeout` is due."""
        if self.current is not None and self.idle_after is not None:
            self.current.at_rest(self.idle_after)


_NOTHING: Mapping[str, Any] = {}
