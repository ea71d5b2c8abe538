"""The call at hand: which message is being handled, until when, on whose behalf.

One contextvar holds it, so it survives `gather` and `create_task` in the user's code.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mbactor.errors import ActorStopped, MbactorError, handed_over

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.routes import Route

MAX_DEPTH = 64
"""Calls a chain of asks may have."""
FENCED = 1 << 30
"""A depth no call has: see `fence`."""

_ids = count(1)
_NOBODY: Mapping[str, Any] = MappingProxyType({})
Claims = Mapping[str, Any]
"""The verified claims of the end user a message acts for."""


class Call(msgspec.Struct, eq=False):
    """One message on its way through an actor: an ask (with a future), or a tell (without).

    `caller` is what made it, until that has ended; `asks` are those it made itself, as far as they may still wait.
    `context` is what its method, and the tasks that one begins, find as `current`: None says the call itself. Tells of
    one route for nobody in particular share theirs, for there is nothing in it that tells them apart. `budget` is set
    where the time counts from the start of the method rather than from the asking. A message made for one incarnation
    only, such as a timer's, carries its number. `token` proves who is acted for, where somebody reads it; `passed` are
    the headers that go on to what is asked in turn. `direct` calls the method, where that is all there is to do; `lone`
    does so with the value of the only argument.

    A Struct, because one is made for each message: a class with `__init__` takes three times as long.
    """

    route: Route
    kwargs: Any
    cell: Cell
    arrived: float = 0.0
    caller: Call | None = None
    context: Call | None = None
    deadline: float = math.inf
    future: asyncio.Future[Any] | None = None
    direct: Any = None
    identity: Claims | None = None
    trace: str | None = None
    baggage: Mapping[str, str] | None = None
    depth: int = 0
    asks: Any = None
    budget: float | None = None
    incarnation: int = 0
    key: Any = None
    refused: bool = False
    number: int = 0
    via: tuple[Any, ...] = ()
    token: str | None = None
    passed: Mapping[str, str] | None = None
    lone: Any = None

    def arguments(self) -> dict[str, Any]:
        """What the method is called with. BadRequest where that came as bytes and does not fit."""
        return self.kwargs  # type: ignore[no-any-return]

    @property
    def told(self) -> bool:
        """Whether an error would reach somebody who waits for the answer."""
        return self.future is not None and not self.future.done()

    @property
    def asked(self) -> bool:
        """Whether somebody asked, however that ended: an error of it is their affair, not the supervisor's."""
        return self.future is not None

    @property
    def outside(self) -> bool:
        """Whether it is no message, but code outside of any actor (`acting_for`): without route and cell."""
        return self.route is None

    @property
    def id(self) -> int:
        """A number that no other call of this process has."""
        if not self.number:
            self.number = next(_ids)
        return self.number

    @property
    def sender(self) -> str | None:
        """Which method of which address made it, for people; None where it came from outside any actor."""
        return self.caller.route.address if self.caller is not None and not self.caller.outside else None

    def done(self) -> bool:
        """Whether the asker has its answer."""
        return self.future is None or self.future.done()

    def answer(self, value: Any) -> bool:
        """Give the method's result to whoever asked. False where that came too late."""
        future = self.future
        if future is None:
            return True
        if future.done():
            return False
        try:
            signature = self.route.signature
            future.set_result(value if type(value) in signature.returns_exact else signature.returned(value))
        except MbactorError as error:
            self.fail(error)
        return True

    def fail(self, error: BaseException) -> None:
        """Give the asker an error, as the type and with the trace it has here."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(handed_over(error))

    def call_off(self) -> None:
        """Nobody wants the answer any more: cancel the method, or let the message never reach it."""
        if self.future is not None:
            self.future.cancel()
        self.cell.call_off(self)

    def path(self) -> tuple[Any, ...]:
        """The asks it is made for, outermost first: running calls of this process, texts for those of others."""
        found: list[Any] = []
        call = self.caller if self.asked else None
        while call is not None and not call.outside:
            found.append(call)
            found.extend(reversed(call.via))
            call = call.caller if call.asked else None
        return (*self.via, *reversed(found))

    def note(self, ask: Any) -> None:
        """Remember an ask made while this call runs; those that have their answers are forgotten."""
        asks = self.asks
        if asks is None or (type(asks) is not list and asks.done()):
            self.asks = ask
        elif type(asks) is list:
            if len(asks) > 2 * sum(not one.done() for one in asks[-64:]) + 64:
                asks[:] = [one for one in asks if not one.done()]
            asks.append(ask)
        else:
            self.asks = [asks, ask]

    def pending(self) -> list[Any]:
        """The asks it made that wait for their answers."""
        asks = self.asks if self.context is None else self.context.asks
        every = asks if type(asks) is list else [asks] if asks is not None else []
        return [one for one in every if not one.done()]


class Hooked:
    """A hook that runs, and the task in which it does."""

    __slots__ = ("call", "task")

    def __init__(self, call: Call, task: asyncio.Task[Any] | None) -> None:
        self.call = call
        self.task = task


class Told(msgspec.Struct, eq=False, gc=False):
    """A tell that meets nothing unusual: the fields that it has of its own, and what is so for all of its kind.

    `context` has what those of one route share. A third of what a `Call` costs. Nothing but the queue and its worker
    refers to it, so the garbage collector need not know it.
    """

    context: Call
    given: Any
    """The arguments by their names; the value of the only one, where `context` has what takes just that. A mapping that
    waits costs as much as all else of a tell that waits.
    """
    arrived: float
    caller: Call | None

    deadline: ClassVar[float] = math.inf
    future: ClassVar[None] = None
    identity: ClassVar[None] = None
    trace: ClassVar[None] = None
    budget: ClassVar[None] = None
    asked: ClassVar[bool] = False
    told: ClassVar[bool] = False
    refused: ClassVar[bool] = False
    incarnation: ClassVar[int] = 0
    key: ClassVar[None] = None
    via: ClassVar[tuple[()]] = ()

    @property
    def route(self) -> Route:
        return self.context.route

    @property
    def cell(self) -> Cell:
        return self.context.cell

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.given if self.context.lone is None else {self.context.route.only: self.given}

    def arguments(self) -> dict[str, Any]:
        return self.kwargs

    @property
    def sender(self) -> str | None:
        return self.caller.route.address if self.caller is not None else None

    def done(self) -> bool:
        return True

    def fail(self, error: BaseException) -> None:
        """Nobody asked."""

    def pending(self) -> list[Any]:
        return self.context.pending()


current: ContextVar[Call | None] = ContextVar("mbactor_call", default=None)
"""The message this code runs for; None at a root."""


def fence(call: Call) -> None:
    """What still runs for this call belongs to an incarnation that was left behind: no message of it is taken."""
    # Either of them keeps what it sends off the short ways of `ActorRef`.
    call.depth, call.identity = FENCED, _NOBODY


def check_not_fenced(caller: Call | None) -> None:
    """ActorStopped where a message is made by what was left behind."""
    if caller is not None and caller.depth >= FENCED:
        raise ActorStopped(f"{caller.cell.address} (an incarnation that was left behind)")


@contextmanager
def acting_for(claims: Claims, token: str | None = None) -> Iterator[None]:
    """Let what is asked and told in the block, outside of any actor, act for an end user with these claims."""
    nowhere: Any = None
    proof: object = token
    if not isinstance(proof, str | None):  # nothing could be read of a message that has it, nor of those beside it
        raise TypeError(f"token: {type(proof).__name__} given, a text or None expected")
    before = current.set(Call(nowhere, {}, nowhere, identity=MappingProxyType(dict(claims)), token=token))
    try:
        yield
    finally:
        current.reset(before)
