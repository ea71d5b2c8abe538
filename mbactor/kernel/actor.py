"""`Actor`: the class that users extend. It has no machinery of its own; `cell.py` runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, Self, TypeVar

import anyio

from mbactor.durations import Duration, seconds
from mbactor.kernel.exit import Exit
from mbactor.kernel.feature import Operation
from mbactor.kernel.log import Log
from mbactor.kernel.ref import ActorRef, At
from mbactor.mailbox import Mailbox

if TYPE_CHECKING:
    from mbactor.kernel.client import Response
    from mbactor.kernel.incarnation import Incarnation

P = ParamSpec("P")
R = TypeVar("R")

OnError = Literal["restart", "resume", "fail"]


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
    """

    host: ClassVar[str | None] = None
    """Where all replicas of the class are reached; None: only through refs."""
    mailbox: ClassVar[Mailbox] = Mailbox()
    concurrency: ClassVar[int] = 1
    """How many messages may be handled at once."""
    on_error: ClassVar[OnError | None] = None
    """What an unexpected exception does: `restart` (the default of a serial actor), `resume` (the default where
    `concurrency` is above 1), `fail` (a restart that is always charged to the supervisor's budget)."""

    _incarnation: Incarnation | None = None

    async def on_start(self) -> None:
        """Runs before the first message of each incarnation. An exception is a failed start; `Ignore` leaves the
        actor unstarted without an error.
        """

    async def on_stop(self, exit: Exit) -> None:
        """Runs at the end of each incarnation whose `on_start` had returned, after a crash too, not after a kill."""

    # --- to others --------------------------------------------------------------------------------------

    def ask(self, operation: Operation[Any, P, R], *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """Ask any replica of the operation's class: `await self.ask(Counter.add, by=1)`."""
        return self._alive().cell.node.ask(operation, args, kwargs)

    def tell(self, operation: Operation[Any, P, Any], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell any replica of the operation's class. False when it was refused here."""
        return self._alive().cell.node.tell(operation, args, kwargs)

    def at(self, host: str) -> At:
        """The same operations at another host: `await self.at("counter.two").ask(Counter.add)`."""
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
    def id(self) -> str:
        """Names this incarnation; the next has another."""
        return self._alive().id

    @property
    def log(self) -> Log:
        """Lines on the event stream, with fields."""
        return Log(self._incarnation.cell.address if self._incarnation else type(self).__name__)

    def stop(self) -> None:
        """End cleanly once the message in hand is finished."""
        self._alive().finish()

    def spawn_task(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run work in the background of this incarnation: its exception is a crash of the actor, the incarnation's
        end cancels it.
        """
        try:
            incarnation = self._alive()
        except BaseException:
            work.close()
            raise
        return incarnation.spawn_task(work, name)

    async def sleep(self, duration: Duration) -> None:
        """Wait, while others go on; a serial actor handles no other message meanwhile."""
        await anyio.sleep(seconds(duration))

    def _alive(self) -> Incarnation:
        incarnation = self._incarnation
        if incarnation is None:
            raise RuntimeError(
                f"{type(self).__name__} is not running as an actor: this works from on_start to on_stop, not in"
                " __init__ and not on an instance made by hand"
            )
        incarnation.check_current()
        return incarnation
