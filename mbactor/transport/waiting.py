"""Who waits for what comes of a request, and one sweep for all of them: their deadlines, and the ticks of their age.

Most requests are answered long before their deadline, so a deadline costs nothing while its request is young: those
that came lately are looked at a few times a second, and only what still waits then is kept in order of time.

Ages are counted in ticks and not by the clock: one that comes late, because the loop stood still meanwhile, counts for
nobody. What arrived while nobody read is so read before anybody is told that it did not come.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count

import msgspec

from mbactor.errors import MbactorError, Taken
from mbactor.transport.address import Address
from mbactor.transport.message import Message
from mbactor.transport.subjects import host_token


class Waiter(msgspec.Struct, eq=False):
    """Waits for what comes of one request. It is told of nothing once it is `done`."""

    id: str
    """That of the request's envelope."""
    address: Address
    deadline: float
    """By the loop's clock."""

    @property
    def taken(self) -> Taken:
        """Whether the actor's code may have seen the request by now."""
        return "unknown"

    def hears(self, by: str, host: str) -> bool:  # noqa: ARG002 - others may go by it
        """Whether what comes is of somebody who was asked. `by` is the token of the host that has published it, as the
        broker has verified; `host` is the one that it says of itself, if any.
        """
        return by == host_token(self.address.host)

    def ticked(self) -> None:
        """It has waited for one tick more, while the loop was alive."""

    def done(self) -> bool:
        """Whether it waits for nothing more."""
        raise NotImplementedError

    def acked(self, message: Message) -> None:
        """Somebody has taken the request, and will answer later."""

    def answered(self, message: Message) -> None:
        """A reply, or an error (by the envelope's `op`); a request to one gets the first, one to all gets many."""
        raise NotImplementedError

    def unsent(self, error: MbactorError) -> None:
        """The bus does not take the request."""
        self.failed(error)

    def failed(self, error: MbactorError) -> None:
        """There will be no answer, or no more of them."""
        raise NotImplementedError


class Waiting:
    """The waiters of a loop, by the id of their request.

    `expired` is told within about a millisecond of a deadline. `ticked` is called after the waiters have been told of a
    tick of so many seconds, as long as there are any.
    """

    def __init__(self, expired: Callable[[Waiter], None], ticked: Callable[[], None], tick: float) -> None:
        self._expired = expired
        self._ticked = ticked
        self._tick = tick
        self._next_tick = 0.0
        self.young: dict[str, Waiter] = {}
        """Those that came lately; which of them go, and which are old by now, is decided between two turns of the loop.
        Who has many at once to add or to find does so here.
        """
        self._old: dict[str, Waiter] = {}
        self._due: list[tuple[float, int, Waiter]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf
        """When they are looked at next: one of an earlier deadline has to be given to `add`."""
        self._read_first = False

    def add(self, waiter: Waiter, now: float) -> None:
        self.young[waiter.id] = waiter
        if self._timer is None:
            self._next_tick = now + self._tick
            self._arm(min(waiter.deadline, self._next_tick))
        elif waiter.deadline < self.timer_at:
            self._arm(waiter.deadline)

    def find(self, id: str) -> Waiter | None:
        return self.young.get(id) or self._old.get(id)

    def take(self, id: str) -> Waiter | None:
        """As `find`, and it is not here any more."""
        return self.young.pop(id, None) or self._old.pop(id, None)

    def remove(self, id: str) -> None:
        if self.young.pop(id, None) is None:
            self._old.pop(id, None)

    def everyone(self) -> list[Waiter]:
        """In the order of their requests."""
        return [*self._old.values(), *self.young.values()]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.timer_at = None, math.inf
        self.young.clear()
        self._old.clear()
        self._due.clear()

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._sweep)

    def _sweep(self) -> None:
        now, due = asyncio.get_running_loop().time(), self.timer_at
        self._timer, self.timer_at = None, math.inf
        stood_still = now - due > self._tick / 2
        if stood_still and not self._read_first:
            self._read_first = True
            self._arm(now)  # in the next turn of the loop: what has arrived is read before
            return
        self._read_first = False
        try:
            self._look(now)
        finally:  # whatever one of them raised, the others have deadlines too
            if self._old or self.young:
                due = self._due[0][0] if self._due else math.inf
                self._arm(min(due, self.timer_at, self._next_tick))

    def _look(self, now: float) -> None:
        self._age()
        while self._due and self._due[0][0] <= now:
            _, _, waiter = heapq.heappop(self._due)
            self._old.pop(waiter.id, None)
            if not waiter.done():
                self._expired(waiter)
        if now >= self._next_tick:
            stood_still = now - self._next_tick > self._tick / 2
            self._next_tick = now + self._tick
            if not stood_still:
                self._tell_tick()
            self._tidy()

    def _tell_tick(self) -> None:
        for waiter in list(self._old.values()):
            if not waiter.done():
                waiter.ticked()
        self._ticked()

    def _age(self) -> None:
        """What is young no longer is put in order of its deadline; what was given up is forgotten."""
        young, self.young = self.young, {}
        for waiter in young.values():
            if not waiter.done():
                self._old[waiter.id] = waiter
                heapq.heappush(self._due, (waiter.deadline, next(self._order), waiter))

    def _tidy(self) -> None:
        """What is answered, behind one that still waits, would keep its result alive for as long."""
        self._old = {waiter.id: waiter for waiter in self._old.values() if not waiter.done()}
        self._due = [entry for entry in self._due if not entry[2].done()]
        heapq.heapify(self._due)
