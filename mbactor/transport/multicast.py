"""Requests to all: every replier answers, and the asker knows when nobody more will.

`responders.py` decides; this sends, and hands on what comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial

import msgspec
from msgspec import structs

from mbactor.errors import ActorCrashed, BudgetSpent, MbactorError, NoSuchActor, Unavailable
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
Failed = Callable[[str, MbactorError], None]
"""Called with the id of somebody who has taken the request and will not answer, or with none where that is unknown."""
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
    hosts: dict[str, str] = msgspec.field(default_factory=dict)
    """Those of the replicas that have it."""
    ticks: int = 0
    errors: list[MbactorError] = msgspec.field(default_factory=list)
    """Of those that have died with it, whoever they were."""
    settled: bool = False

    def done(self) -> bool:
        return self.settled

    def acked(self, message: Message) -> None:
        self.hosts[message.envelope.replica] = message.envelope.host or self.address.host
        self.gathering.acked(_by(message))
        self.check()

    def answered(self, message: Message) -> None:
        if self.gathering.answered(_by(message)):
            self.heard(message)
        self.check()

    def failed(self, error: MbactorError) -> None:
        if isinstance(error, NoSuchActor):
            self.settle(None)
        elif isinstance(error, ActorCrashed):
            self.errors.append(error)
            self.check()
        elif isinstance(error, Unavailable):
            self.gathering.refused()
            self.lost("", error)
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
        if not self.settled and any(one == replica for _, one in self.gathering.silent):
            self.gathering.died(replica)
            self.lost(replica, died(self.address))
            self.check()

    def settle(self, error: MbactorError | None) -> None:
        self.settled = True
        self.over(self)
        for _, replica in self.gathering.silent:
            self.lost(replica, self._why_silent(replica, error))
        for unknown in self.errors:
            self.lost("", unknown)
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
        self, source: str, address: Address, message: Message, deadline: float, heard: Heard, lost: Failed, ended: Ended
    ) -> Gather:
        """Publish a request whose envelope says `multi`. AddressTooLong and Unavailable are raised at once."""
        loop = asyncio.get_running_loop()
        id, now = message.envelope.id, loop.time()
        receivers = self._bus.receivers(subjects.request_subject(self._plane, source, address))
        gathering = self._responders.begin(id, address, now, receivers)
        told = (heard, lost, ended, self._over)
        waiter = Gather(id, address, deadline, gathering, *told, self.patience, source, self._probe)
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
        if self._bus.tells_all:
            return
        for _, replica in waiter.gathering.silent:
            address = Address(waiter.hosts.get(replica, waiter.address.host), waiter.address.path, replica=replica)
            self._requester.probe(waiter.source, address, partial(waiter.gone, replica))

    def _over(self, waiter: Gather) -> None:
        self._responders.end(waiter.gathering, asyncio.get_running_loop().time())

    def _late(self, id: str) -> None:
        self._responders.late(id, asyncio.get_running_loop().time())


def _by(message: Message) -> Responder:
    return message.envelope.queue, message.envelope.replica
