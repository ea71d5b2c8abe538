"""The call at hand: which message is being handled, until when, on whose behalf.

One contextvar holds it, so it survives `gather` and `create_task` in the user's code. The time budget of
an ask is decided here: the smallest of the caller's anyio deadline, the deadline of the message being
handled, and the cap.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio

from mbactor.errors import MbactorError, from_wire, to_wire

if TYPE_CHECKING:
    from mbactor.kernel.feature import Route

DEFAULT_BUDGET = 20.0
"""Seconds an ask has where nothing else limits it."""
BUDGET_CAP = 900.0
"""No ask waits longer than this."""
CLEAN_UP_BUDGET = 5.0
"""Seconds for asks made in a shielded clean-up after the deadline has passed."""
SCOPE_MARGIN = 0.002
"""An ask ends that much before the cancel scope around it, so that the asker learns what it waited for."""
MAX_DEPTH = 64
"""Calls a chain of asks may have."""

_ids = count(1)


class Call:
    """One message on its way through an actor: an ask (with a future), or a tell (without).

    `budget` is set where the time counts from the start of the method rather than from the asking.
    """

    __slots__ = (
        "arrived", "baggage", "budget", "deadline", "future", "id", "identity", "kwargs", "path", "route", "sender",
        "trace",
    )  # fmt: skip

    def __init__(
        self,
        route: Route,
        kwargs: Any,
        deadline: float,
        future: asyncio.Future[Any] | None,
        caller: Call | None,
    ) -> None:
        self.route = route
        self.kwargs = kwargs
        self.deadline = deadline
        self.future = future
        self.id = next(_ids)
        self.arrived = 0.0
        self.budget: float | None = None
        if caller is None:
            self.path: tuple[Any, ...] = ()
            self.trace: str | None = None
            self.identity: str | None = None
            self.baggage: Mapping[str, str] | None = None
            self.sender: str | None = None
        else:
            self.path = (*caller.path, caller) if future is not None else ()
            self.trace = caller.trace
            self.identity = caller.identity
            self.baggage = caller.baggage
            self.sender = caller.route.address

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

    def done(self) -> bool:
        """Whether the asker has its answer."""
        return self.future is None or self.future.done()

    def answer(self, value: Any) -> None:
        """Give the method's result to whoever asked."""
        future = self.future
        if future is not None and not future.done():
            try:
                future.set_result(self.route.signature.returned(value))
            except MbactorError as error:
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Give the asker an error, as the type and with the trace it has here."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(from_wire(to_wire(error)))


current: ContextVar[Call | None] = ContextVar("mbactor_call", default=None)
"""The message this code runs for; None at a root."""


def deadline_of_ask(caller: Call | None, now: float) -> float:
    """When an ask made now ends, by the loop's clock."""
    scope = anyio.current_effective_deadline() if asyncio.current_task() is not None else math.inf
    handled = caller.deadline if caller is not None else math.inf
    if handled <= now and scope > now:
        handled = now + CLEAN_UP_BUDGET
    nearest = min(scope - min(SCOPE_MARGIN, (scope - now) / 10) if scope < math.inf else scope, handled)
    return now + DEFAULT_BUDGET if nearest == math.inf else min(nearest, now + BUDGET_CAP)
