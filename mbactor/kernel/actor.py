"""`Actor`: the class that users extend. It has no machinery of its own; `cell.py` runs it."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, ParamSpec, Self, TypeVar

import anyio

from mbactor.durations import Duration, seconds
from mbactor.errors import DeclarationError
from mbactor.kernel.context import current
from mbactor.kernel.exit import Exit
from mbactor.kernel.feature import Operation, Reference, check_operation, shown, take_from
from mbactor.kernel.features.config import shown_values
from mbactor.kernel.log import Log
from mbactor.kernel.ref import ActorRef, Answer, At, hint_at
from mbactor.kernel.sending import tell_wait
from mbactor.kernel.timers import Timer
from mbactor.kernel.worker import Stashed
from mbactor.mailbox import Mailbox

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.client import Response
    from mbactor.kernel.dead_letters import DeadLetter
    from mbactor.kernel.features.event import EventReference
    from mbactor.kernel.incarnation import Incarnation
    from mbactor.kernel.multicast import Replies
    from mbactor.kernel.names import Names

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

OnError = Literal["restart", "resume", "fail"]


def _does_nothing(hook: F) -> F:
    """Marks the hooks of `Actor` itself: what a class has not written need not be called."""
    hook.does_nothing = True  # type: ignore[attr-defined]
    return hook


class Actor:
    """A class with a mailbox.

        class Counter(Actor):
            host = "counter.example"

            def __init__(self, start: int = 0) -> None:
                self.total = start

            @endpoint
            async def add(self, by: int = 1) -> int:
                self.total += by
                return self.total

    Its endpoints run one at a time, so its state needs no lock. An error it answers with (any `MbactorError`)
    goes to the asker; any other exception is a crash, and its supervisor starts a new incarnation.

    Context variables are the actor's, not the message's: a method finds what was set when the system was started, and
    may find what an earlier one has set. `var.reset(token)` ends what is meant for one message.
    """

    host: ClassVar[str | None] = None
    """Where all replicas of the class are reached; None: only through refs."""
    mailbox: ClassVar[Mailbox] = Mailbox()
    concurrency: ClassVar[int] = 1
    """How many messages may be handled at once."""
    reentrant: ClassVar[bool] = False
    """Whether an ask that comes back to the actor while that waits for it is handled at once, beside the waiting
    method, instead of failing as a deadlock: the state may then change under an `await`."""
    on_error: ClassVar[OnError | None] = None
    """What an unexpected exception does: `restart` (the default of a serial actor), `resume` (the default where
    `concurrency` is above 1), `fail` (a restart that is always charged to the supervisor's budget)."""

    _incarnation: Incarnation | None = None
    _configuration: Mapping[str, Any] | None = None
    """The values of its properties; None on an instance made by hand of which nobody has asked for any."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        take_from(cls)
        hint_at(cls)

    # --- hooks ------------------------------------------------------------------------------------------

    @_does_nothing
    async def on_start(self) -> None:
        """Runs before the first message of each incarnation. An exception is a failed start; `Ignore` leaves the
        actor unstarted without an error.
        """

    @_does_nothing
    async def on_stop(self, exit: Exit) -> None:
        """Runs at the end of each incarnation whose `on_start` had returned, after a crash too, not after a kill."""

    @_does_nothing
    async def on_exit(self, ref: ActorRef[Any], exit: Exit) -> None:
        """A watched actor has ended for good. Runs as a message, before those that wait."""

    @_does_nothing
    async def on_undelivered(self, letter: DeadLetter) -> None:
        """A message this actor told could not be delivered. Runs as a message, before those that wait."""

    @_does_nothing
    async def on_receive_timeout(self) -> None:
        """No message came for as long as `set_receive_timeout` says. Once, until another message was handled."""

    @_does_nothing
    async def on_config_changed(self, changed: frozenset[str]) -> None:
        """Properties (`config()`) have become others: these, all that were changed at once. Runs as a message, before
        those that wait; the values are the new ones already.
        """

    # --- to others --------------------------------------------------------------------------------------

    def ask(self, operation: Operation[Any, P, R], *args: P.args, **kwargs: P.kwargs) -> Answer[R]:
        """Ask any replica of the operation's class: `await self.ask(Counter.add, by=1)`.

        In a thread (`@endpoint(thread=True)`): `self.ask(Counter.add, by=1).result()`.
        """
        answer: Answer[R] = self._alive().cell.node.ask(operation, args, kwargs)
        return answer

    def tell(self, operation: Operation[Any, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell any replica of the operation's class. False when it was refused here."""
        return self._alive().cell.node.tell(operation, args, kwargs)

    def ask_all(self, operation: Reference[P, R], *args: P.args, **kwargs: P.kwargs) -> Replies[R]:
        """Ask all that serve the operation, one of each queue: its replies as they come.

            async for reply in self.ask_all(Stock.level, sku="a-17"):
                print(reply.source, reply.value if reply.error is None else reply.error)

        Nobody is an empty iteration; what one fails with is the `error` of its reply: BudgetSpent (408) where it has
        taken the message and does not answer within the time budget, ActorCrashed where its process dies with it. The
        message leaves at once, iterated or not. Over a broker the first for an address takes at least the ack window,
        in which whoever takes it says so; after that as long as the slowest of those that did, until somebody new is
        there. Within one process nobody is waited for in vain. Given an event, it asks the event's sinks.
        """
        self._on_loop("ask_all")
        return self._alive().cell.node.ask_all(operation, args, kwargs)

    def publish(self, event: EventReference[P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell all that sink the event: `self.publish(Orders.on_placed, order_id="17", total=9.5)`.

        Waits for nobody, and nobody there is no error. False where it could not leave, because the connection to the
        broker is lost: it is a dead letter then.
        """
        return self._alive().cell.node.publish(event, args, kwargs)

    def at(self, host: str) -> At:
        """The same operations at another host: `await self.at("counter.two").ask(Counter.add)`; at one replica of it,
        `self.at(reply.source)`.
        """
        return At(self._alive().cell.node, host)

    def request(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, query: str = ""
    ) -> Awaitable[Response]:
        """Call an address whose class is not importable. `body` is bytes, or a value that is sent as JSON."""
        return self._alive().cell.node.request(method, url, body, headers or {}, query)

    # --- itself ------------------------------------------------------------------------------------------

    @property
    def ref(self) -> ActorRef[Self]:
        """Reaches this actor, this incarnation and its successors."""
        return ActorRef(self._alive().cell)

    @property
    def refs(self) -> Names:
        """The names of this node's actors: `self.refs.register("till", self.ref)`, `self.refs["till"].ask(...)`."""
        return self._alive().cell.node.refs

    def supervisor(self, name: str) -> Any:
        """The running `Supervisor` with this id, or path of ids, in this process: to start children under it.

            await self.supervisor("sessions").start_child(child(Session, id=name))

        It is the present incarnation: ask for it anew rather than keep it. NoSuchChild where there is none.
        """
        return self._on_loop("supervisor").cell.node.supervisor(name)

    @property
    def id(self) -> str:
        """Names this incarnation; the next has another."""
        return self._alive().id

    @property
    def config(self) -> Mapping[str, Any]:
        """All properties that the class declares (`config()`) by name, to be read: `self.config["max_items"]`."""
        return shown_values(self)

    @property
    def log(self) -> Log:
        """Lines on the event stream, with fields."""
        return Log(self._incarnation.cell.address if self._incarnation else type(self).__name__)

    def stop(self) -> None:
        """End cleanly once the message in hand is finished."""
        incarnation = self._alive()
        if get_ident() == incarnation.cell.node.thread:
            incarnation.finish()
        else:
            incarnation.cell.node.loop.call_soon_threadsafe(incarnation.finish)

    def activate(self, feature: Reference[..., Any]) -> None:
        """Serve a method that is declared `manual` from now on, until `deactivate` or the end of this incarnation.

            @endpoint(manual=True)
            async def query(self, sql: str) -> list[Row]: ...

            async def on_start(self) -> None:
                self.pool = await open_pool()
                self.activate(Reports.query)

        Until then it is as if this replica did not have it: others get its messages, or they fail with 404. While the
        actor restarts they wait, and the next incarnation activates it anew or they fail.
        """
        cell = self._on_loop("activate").cell
        cell.activate(cell.routes.manual(feature))

    def deactivate(self, feature: Reference[..., Any]) -> None:
        """Serve a manual method no more. What waits in the mailbox is still handled."""
        cell = self._on_loop("deactivate").cell
        cell.deactivate(cell.routes.manual(feature))

    # --- messages for later ----------------------------------------------------------------------------------

    def stash(self) -> NoReturn:
        """Keep the message in hand for later, and leave the method: it begins again after `unstash_all`.

            if not self.ready:
                self.stash()

        Its asker goes on waiting, within its time budget. As many are kept as the mailbox may hold (MailboxFull to
        the asker beyond). What is stashed when the incarnation ends is handled first by the next.
        """
        routes, call = self._alive().cell.routes, current.get()
        if call is None or call.route in {routes.background, routes.hooks["on_start"], routes.hooks["on_stop"]}:
            raise RuntimeError(
                "self.stash() was called where no message is in hand: in on_start, on_stop or background work"
            )
        raise Stashed

    def unstash_all(self) -> int:
        """Handle what was stashed next, in the order in which it came. How many messages there were."""
        return self._on_loop("unstash_all").cell.unstash()

    def send_after(
        self, delay: Duration, operation: Operation[Any, P, Any], *args: P.args, **kwargs: P.kwargs
    ) -> Timer:
        """Tell itself later: `self.send_after("5s", Counter.flush)`. Ends with this incarnation, if not cancelled."""
        return self._timer(seconds(delay), None, operation, args, kwargs)

    def send_every(
        self, period: Duration, operation: Operation[Any, P, Any], *args: P.args, **kwargs: P.kwargs
    ) -> Timer:
        """Tell itself again and again, a period from now first. A time at which the message before still waits in the
        mailbox is skipped. Ends with this incarnation, if not cancelled before.
        """
        every = seconds(period)
        if every <= 0:
            raise ValueError(f"send_every: a period of {period!r} given, more than 0 expected")
        return self._timer(every, every, operation, args, kwargs)

    def set_receive_timeout(self, duration: Duration | None) -> None:
        """Have `on_receive_timeout` run when no message came for so long; None switches it off."""
        incarnation = self._on_loop("set_receive_timeout")
        incarnation.cell.idle_after = None if duration is None else seconds(duration)
        incarnation.watch_idleness(incarnation.cell.idle_after)

    # --- background work --------------------------------------------------------------------------------------

    def spawn_task(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run work in the background of this incarnation: its exception is a crash of the actor, the incarnation's
        end cancels it.
        """
        if not inspect.iscoroutine(work):
            raise TypeError(
                f"spawn_task({work!r}): a coroutine expected: call the method, self.spawn_task(self.work())"
            )
        try:
            incarnation = self._on_loop("spawn_task")
        except BaseException:
            work.close()
            raise
        return incarnation.spawn_task(work, name)

    def pipe_to_self(
        self,
        work: Awaitable[R],
        operation: Operation[Any, [R], Any],
        *,
        failed: Operation[Any, [str], Any] | None = None,
    ) -> asyncio.Task[Any]:
        """Await something in the background and tell itself the result: `self.pipe_to_self(fetch(), Cache.fetched)`.

        The actor goes on meanwhile, and the result comes through its mailbox, so the state needs no lock. An exception
        is told to `failed` as a text; without that it is a crash of the actor. `MailboxFull` never loses the result:
        it waits for room. It never reaches a later incarnation: one that waits when this one ends is a dead letter.
        """
        if not inspect.isawaitable(work):
            raise TypeError(f"pipe_to_self({work!r}): an awaitable expected, such as a coroutine or an ask")
        try:
            for one in (operation, *(() if failed is None else (failed,))):
                check_operation(one)
            return self.spawn_task(self._piped(work, operation, failed), name=f"piped to {operation!r}")
        except BaseException:
            if inspect.iscoroutine(work):
                work.close()
            raise

    async def _piped(self, work: Awaitable[Any], operation: Any, failed: Any) -> None:
        try:
            result = await work
        except Exception as error:
            if failed is None:
                raise
            operation, result = failed, f"{type(error).__name__}: {error}"
        incarnation = self._alive()
        await tell_wait(incarnation.cell, operation, (result,), {}, budget=math.inf, incarnation=incarnation.number)

    async def sleep(self, duration: Duration) -> None:
        """Wait, while others go on; a serial actor handles no other message meanwhile."""
        await anyio.sleep(seconds(duration))

    # --- watching ---------------------------------------------------------------------------------------------

    def watch(self, ref: ActorRef[Any]) -> None:
        """Have `on_exit(ref, exit)` run once when that actor has ended for good; at once where it has ended already.

        Restarts are not told. The watch is this incarnation's: the next one watches again in its `on_start`.
        """
        self._on_loop("watch").watch(_reached(ref, "watch"))

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """No notice of that actor comes any more, not even one that is on its way."""
        self._on_loop("unwatch").unwatch(_reached(ref, "unwatch"))

    # --- inside -----------------------------------------------------------------------------------------------

    def _timer(
        self,
        delay: float,
        every: float | None,
        operation: Operation[Any, ..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Timer:
        incarnation = self._on_loop("send_after" if every is None else "send_every")
        if not isinstance(operation, Operation):
            raise TypeError(f"{shown(operation)} given, a reference to an endpoint of this actor expected")
        route = incarnation.cell.routes.by_name.get(operation.feature.name)
        if route is None:
            raise DeclarationError(
                f"{type(self).__name__} has no {operation.feature.name}: timers tell the actor itself"
            )
        bound = route.signature.bind(args, kwargs)
        return Timer(incarnation, route, bound, delay, every)

    def _on_loop(self, what: str) -> Incarnation:
        """What only the event loop may do: a method in a thread may ask and tell."""
        incarnation = self._alive()
        if get_ident() != incarnation.cell.node.thread:
            raise RuntimeError(f"self.{what} was called in a thread; there, an actor may ask and tell itself instead")
        return incarnation

    def _alive(self) -> Incarnation:
        incarnation = self._incarnation
        if incarnation is None:
            raise RuntimeError(
                f"{type(self).__name__} is not running as an actor: this works from on_start to on_stop, not in"
                " __init__ and not on an instance made by hand"
            )
        incarnation.check_current()
        return incarnation


def _reached(ref: Any, what: str) -> Cell:
    if not isinstance(ref, ActorRef):
        raise TypeError(f"self.{what}({ref!r}): an ActorRef expected")
    return ref.cell
