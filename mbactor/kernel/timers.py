"""Timers of an actor: messages it sends itself later. They end with the incarnation that set them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mbactor.kernel.context import Call

if TYPE_CHECKING:
    from mbactor.kernel.incarnation import Incarnation
    from mbactor.kernel.routes import Route


class Timer:
    """What `self.send_after` and `self.send_every` return: `cancel()` ends it, `active` says whether it may fire yet.

    It fires through the actor's own mailbox, and never into a later incarnation. One that repeats keeps to its
    schedule however late a message was handled, and skips a time whose message would wait behind the one before.
    """

    __slots__ = ("_arguments", "_due", "_every", "_handle", "_incarnation", "_route", "_sent")

    def __init__(
        self,
        incarnation: Incarnation,
        route: Route,
        arguments: dict[str, Any],
        delay: float,
        every: float | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._incarnation = incarnation
        self._route = route
        self._arguments = arguments
        self._every = every
        self._sent: Call | None = None
        self._due = loop.time() + delay
        self._handle: asyncio.TimerHandle | None = loop.call_at(self._due, self._fire)
        incarnation.timers = incarnation.timers if incarnation.timers is not None else set()
        incarnation.timers.add(self)

    @property
    def active(self) -> bool:
        """Whether it may still fire."""
        return self._handle is not None

    def cancel(self) -> None:
        """It does not fire any more; a message of it that waits in the mailbox is taken out."""
        self.end()
        if self._sent is not None:
            cell = self._incarnation.cell
            cell.gate(self._route.gate).queue.withdraw(self._sent)

    def end(self) -> None:
        """It does not fire any more, for its incarnation ends. A message of it that waits becomes a dead letter."""
        if self._handle is not None:
            self._handle.cancel()
        self._over()

    def _over(self) -> None:
        self._handle = None
        if self._incarnation.timers is not None:
            self._incarnation.timers.discard(self)

    def _fire(self) -> None:
        cell = self._incarnation.cell
        if cell.current is not self._incarnation or cell.state == "stopping":
            self._over()
            return
        loop = asyncio.get_running_loop()
        if self._sent is None or not self._waits():
            self._send(loop.time())
        if self._every is None:
            self._over()
        else:
            now = loop.time()
            behind = now - self._due
            self._due = self._due + self._every if behind < self._every else now + self._every - behind % self._every
            self._handle = loop.call_at(self._due, self._fire)

    def _waits(self) -> bool:
        """Whether the message before still waits in the mailbox."""
        assert self._sent is not None
        return self._sent in self._incarnation.cell.gate(self._route.gate).queue.items()

    def _send(self, now: float) -> None:
        cell = self._incarnation.cell
        # Bound anew, so that each message has values of its own.
        bound = self._route.bind((), dict(self._arguments))
        call = Call(self._route, bound, cell, incarnation=self._incarnation.number)
        call.arrived = now
        self._sent = call
        cell.accept(call)
