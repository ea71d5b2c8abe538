"""Who is away for a while, over any bus: who finds nobody at an address is told that somebody will be back.

    place = Reserved(bus, plane, told)
    place.serves("orders.example", on=True)     # a process serves it: its place is kept from now on
    place.release()                             # nobody will be back, or somebody is

A broker knows only of those who are there, and a process that was killed is not. Its parent is: it listens at an
address of its own beside the host's, `RESERVED`, where nobody asks but who has found nobody at the host. So it never
takes a message away from other replicas, and there is no moment between the death of a process and the reservation.
A replica that has left its queue group listens beside the address of each feature that it has left. Costs one
subscription a host, one more for each place at which that is reached, and who asks an address that nobody serves a
second round trip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain

from mbactor.errors import BadRequest, BudgetSpent, MbactorError, NoSuchActor, Unavailable
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus, Delivery, Subscription
from mbactor.transport.locality import places_of
from mbactor.transport.message import Envelope, Message, messages_of
from mbactor.transport.waiting import Waiter

RESERVED = "reserved"
"""Stands for the replica in the address of a place that is kept."""
WITHIN = 1.0
"""Seconds that an inquiry may take. Whoever keeps a place and does not answer has not given it up."""


class Reserved:
    """What one process serves, as its parent knows, anywhere and at its locality. `told` hears of each host that is
    kept, and of its end.
    """

    def __init__(self, bus: Bus, plane: str, told: Callable[[str, bool], None], locality: str = "") -> None:
        self._bus = bus
        self._plane = plane
        self._told = told
        self._places = places_of(locality)
        self._kept: dict[str, list[Subscription]] = {}
        self._times: Counter[str] = Counter()

    def serves(self, host: str, *, on: bool) -> None:
        """The process serves a host, or does so no more and not because it ends."""
        self._told(host, on)
        self._times[host] += 1 if on else -1
        if self._times[host] > 0 and host not in self._kept:
            with suppress(Unavailable):  # the bus is being closed around us
                self._kept[host] = [
                    self._bus.subscribe(
                        subjects.instance_pattern(self._plane, host, replica), self._inquired, queue=RESERVED
                    )
                    for replica in (RESERVED, *(f"{RESERVED}-loc-{place}" for place in self._places))
                ]
        elif self._times[host] <= 0:
            for subscription in self._kept.pop(host, ()):
                subscription.unsubscribe()

    def reserve(self) -> None:
        """Its places are kept as long as it is there anyway."""

    async def close(self) -> None:
        """The process is gone; its places stay kept."""

    def release(self) -> None:
        """Nobody will serve its hosts again, or somebody else does so already."""
        for subscription in chain.from_iterable(self._kept.values()):
            subscription.unsubscribe()
        self._kept.clear()
        for host in self._times.elements():
            self._told(host, False)
        self._times.clear()

    def _inquired(self, delivery: Delivery) -> None:
        tell_kept(self._bus, delivery)


def kept_at(address: Address) -> Address:
    """Where is asked whether the place of an address is kept, at which nobody was."""
    return replace(address, replica=f"{RESERVED}-{address.replica}" if address.replica else RESERVED)


def tell_kept(bus: Bus, delivery: Delivery) -> None:
    """Answer an inquiry: somebody will be back."""
    if delivery.reply is None or not subjects.own_inbox(delivery.subject, delivery.reply):
        return
    with suppress(BadRequest, Unavailable):
        for message in messages_of(delivery.data):
            answer = Message(Envelope("ack", message.envelope.id), b"")
            bus.publish(delivery.reply, answer.to_bytes())


class Inquiry(Waiter, eq=False):
    """Whether whoever serves an address that a request has found nobody at is only away; `found` is told what the
    request fails with.
    """

    asked: Address
    found: Callable[[MbactorError], None] | None

    def done(self) -> bool:
        return self.found is None

    def acked(self, message: Message) -> None:  # noqa: ARG002 - that there is one says all
        self._tell(_away(self.asked))

    def answered(self, message: Message) -> None:
        self.acked(message)

    def failed(self, error: MbactorError) -> None:
        match error:
            case BudgetSpent():
                self._tell(_away(self.asked))
            case Unavailable():
                self._tell(error)
            case _:  # nobody keeps it, or this node may not ask
                self._tell(NoSuchActor(str(self.asked)))

    def _tell(self, error: MbactorError) -> None:
        found, self.found = self.found, None
        if found is not None:
            found(error)


def inquiry(id: str, waiter: Waiter, now: float) -> tuple[Message, Inquiry]:
    """The message that asks whether a place is kept, and who waits for its answer in the name of `waiter`."""
    address = kept_at(waiter.address)
    deadline = min(waiter.deadline, now + WITHIN)
    return Message(Envelope("probe", id), b""), Inquiry(id, address, deadline, waiter.address, partial(_fail, waiter))


def _fail(waiter: Waiter, error: MbactorError) -> None:
    if not waiter.done():
        waiter.failed(error)


def _away(address: Address) -> Unavailable:
    return Unavailable(f"{address} takes no messages now: whoever serves it is being restarted, or full")
