"""Requests to all: every replier answers, and the asker knows when nobody more will.

`responders.py` decides; this sends, and hands on what comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import msgspec
from msgspec import structs

from mbactor.errors import ActorCrashed, BudgetSpent, MbactorError, NoSuchActor, NotAcknowledged, Unavailable
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.ask import TICKS, died
from mbactor.transport.bus import Bus
from mbactor.transport.message import Message
from mbactor.transport.requester import Requester
from mbactor.transport.responders import Gathering, Responder, Responders
from mbactor.transport.waiting import Waiter

Heard = Callable[[Message], None]
"""Called with each reply and each error, once for each who answers."""
Failed = Callable[[str, str, MbactorError], None]
"""Called with the id and the host of somebody who has the request and will not answer, or has said nothing of it; with
none where that is unknown.
"""
Ended = Callable[[MbactorError | None], None]
"""Called once, last: with an error where there may have been more."""


class Gather(Waiter, eq=False):
    """Waits for what comes of one request to all."""

    gathering: Gathering
    heard: Heard
    lost: Failed
    ended: Ended
    over: Callable[[Gather], None]
    patience: int
    """Ticks for which whoever has it may say so."""
    source: str
    probe: Callable[[Gather], None]
    """Looks whether those that have it are there."""
    ticks: int = 0
    errors: list[MbactorError] = msgspec.field(default_factory=list)
    """Of those that have died with it, whoever they were."""
    settled: bool = False
    of_event: bool = False
    """Whether those answer that sink an event, whatever their host."""

    def hears(self, by: str, host: str) -> bool:
        return by == subjects.host_token(host if host and self.of_event else self.address.host)

    def done(self) -> bool:
        return self.settled

    def acked(self, message: Message) -> None:
        self.gathering.acked(_by(message), message.envelope.host)
        self.check()

    def answered(self, message: Message) -> None:
        if self.gathering.answered(_by(message), message.envelope.host):
            self.heard(message)
        self.check()

    def failed(self, error: MbactorError) -> None:
        if isinstance(error, NoSuchActor):
            for queue in self.gathering.missed:
                self.gathering.left(queue)
            self.settle(None)
        elif isinstance(error, ActorCrashed):
            self.errors.append(error)
            self.check()
        elif isinstance(error, Unavailable):
            self.gathering.refused()
            self.lost("", "", error)
            self.check()
        elif isinstance(error, BudgetSpent):
            self.settle(None)
        else:
            self.settle(error)

    def check(self) -> None:
        """End it where there is nothing to wait for."""
        if self.gathering.complete and len(self.gathering.silent) <= len(self.errors):
            self.settle(None)

    def ticked(self) -> None:
        self.patience -= 1
        self.ticks += 1
        if self.patience == 0:
            self.gathering.end_window()
            self.check()
        if not self.settled and self.ticks % (TICKS // 2) == 0:
            self.probe(self)

    def gone(self, replica: str) -> None:
        """Nobody is at the address of one that has it."""
        found = [one for one in self.gathering.silent if one[1] == replica]
        if found and not self.settled:
            self.gathering.died(replica)
            self.lost(replica, self.gathering.host_of(found[0]), died(self.address))
            self.check()

    def left(self, queue: str) -> None:
        """Nobody is at the address of one that was expected to take it, or does not serve it any more."""
        if not self.settled:
            self.gathering.left(queue)
            self.check()

    def settle(self, error: MbactorError | None) -> None:
        self.settled = True
        self.over(self)
        for by in self.gathering.silent:
            self.lost(by[1], self.gathering.host_of(by), self._why_silent(by[1], error))
        for unknown in self.errors:
            self.lost("", "", unknown)
        if error is None:
            for who in self.gathering.unheard[len(self.errors) :]:
                text = f"{self.address}: one that should have it has neither answered nor acknowledged it"
                self.lost(*who, NotAcknowledged(f"{text}; it may have taken it"))
        self.ended(error)

    def _why_silent(self, replica: str, error: MbactorError | None) -> MbactorError:
        if self.errors:
            return self.errors.pop()
        return error or BudgetSpent(f"{self.address}: {replica} took it and did not answer within the time budget")


class Multicast:
    """Sends the requests to all of one node, and the events that are too large for one message."""

    def __init__(self, requester: Requester, bus: Bus, plane: str) -> None:
        self._requester = requester
        self._bus = bus
        self._plane = plane
        self._responders = Responders()
        self.patience = TICKS
        requester.when_late = self._late
        bus.when_cut(self._responders.forget)

    def send(
        self,
        source: str,
        address: Address,
        message: Message,
        deadline: float,
        heard: Heard,
        lost: Failed,
        ended: Ended,
        *,
        of_event: bool = False,
    ) -> Gather:
        """Publish a request whose envelope says `multi`. AddressTooLong and Unavailable are raised at once."""
        loop = asyncio.get_running_loop()
        id, now = message.envelope.id, loop.time()
        receivers = self._bus.receivers(subjects.request_subject(self._plane, source, address))
        gathering = self._responders.begin(id, address, now, receivers)
        told = (heard, lost, ended, self._over)
        waiter = Gather(id, address, deadline, gathering, *told, self.patience, source, self._probe, of_event=of_event)
        try:
            self._requester.post(source, message, waiter)
        except BaseException:
            self._over(waiter)
            raise
        if receivers == 0:
            loop.call_soon(waiter.check)
        return waiter

    def spread(self, source: str, address: Address, message: Message, lost: Callable[[MbactorError], None]) -> None:
        """Publish an event in fragments. Whoever does not ask for the second within `Bounds.silent` seconds, because it
        stands still, gets none. MessageTooLarge; Unavailable where so much is on its way that its memory is bounded by
        that.
        """
        whole = Message(structs.replace(message.envelope, multi=True), message.body)
        self._requester.spread(source, address, whole, lost)

    def announced(self, hosts: Collection[str]) -> None:
        """A node is going to serve these hosts."""
        self._responders.announced(hosts)

    def _probe(self, waiter: Gather) -> None:
        """Whether those that have it are there, and those that should have it."""
        gathering, probe = waiter.gathering, self._requester.probe
        if not gathering.complete:
            for queue, (replica, host) in gathering.missed.items():
                expected = replace(waiter.address, host=host, replica=replica)
                probe(waiter.source, expected, partial(waiter.left, queue), serving=True)
        if self._bus.tells_all:
            return
        for by in gathering.silent:
            address = Address(gathering.host_of(by), waiter.address.path, replica=by[1])
            probe(waiter.source, address, partial(waiter.gone, by[1]))

    def _over(self, waiter: Gather) -> None:
        self._responders.end(waiter.gathering, asyncio.get_running_loop().time())

    def _late(self, id: str) -> None:
        self._responders.late(id, asyncio.get_running_loop().time())


def _by(message: Message) -> Responder:
    return message.envelope.queue, message.envelope.replica
