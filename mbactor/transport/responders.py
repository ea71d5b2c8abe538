"""Who answers a request to all, and when nobody more is to be waited for. Pure: no bus, no clock.

The first request to an address waits for a window in which whoever takes it says so. The queues that did are kept, and
the next request waits for these only: it takes as long as the slowest of them. What is kept is dropped as soon as it
may be wrong: when one of them does not answer, when somebody answers after the end, and when a node announces that it
is going to serve the host.
"""

from __future__ import annotations

from collections.abc import Collection

from mbactor.transport.address import Address
from mbactor.transport.remembered import Remembered

KEPT = 4096
"""Addresses whose responders are kept, and requests to all that are over and may get late answers."""
KEPT_FOR = 24 * 3600.0
LATE_WITHIN = 60.0
"""Seconds for which an answer to a request that is over still tells that somebody was missed."""

Responder = tuple[str, str]
"""The queue it took the request from, and who it is."""


class Gathering:
    """One request to all: who has taken it, who has answered."""

    __slots__ = ("_answered", "_known", "_receivers", "_refused", "_taken", "_window_over", "address", "changed", "id")

    def __init__(self, id: str, address: Address, known: frozenset[str], receivers: int | None) -> None:
        self.id = id
        self.address = address
        self.changed = False
        """Whether others may answer the next: a node has said meanwhile that it is going to serve the host, say."""
        self._known = known
        self._receivers = receivers
        self._refused = 0
        self._taken: dict[Responder, None] = {}
        self._answered: set[Responder] = set()
        self._window_over = False

    def acked(self, by: Responder) -> None:
        self._taken[by] = None

    def answered(self, by: Responder) -> bool:
        """False where it has answered before."""
        self._taken[by] = None
        if by in self._answered:
            return False
        self._answered.add(by)
        return True

    def refused(self) -> None:
        """Somebody whom the bus gave it does not take it, and may take the next."""
        self._refused += 1
        self.changed = True

    def died(self, replica: str) -> None:
        """A replica that has taken it is not there any more."""
        self._answered.update(one for one in self._taken if one[1] == replica)
        self.changed = True

    def end_window(self) -> None:
        """Whoever has not said anything is not waited for any more."""
        self._window_over = True

    def announced(self) -> None:
        """There is going to be one more than is known of."""
        self.changed = True
        self._known = frozenset()

    @property
    def queues(self) -> frozenset[str]:
        """Those from which it was taken."""
        return frozenset(queue for queue, _ in self._taken)

    @property
    def silent(self) -> list[Responder]:
        """Those that have taken it and not answered, in the order in which they took it."""
        return [one for one in self._taken if one not in self._answered]

    @property
    def complete(self) -> bool:
        """Whether no other responder is expected."""
        if self._window_over or (self._receivers is not None and len(self._taken) + self._refused >= self._receivers):
            return True
        return bool(self._known) and self._known <= self.queues

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.complete and len(self._answered) == len(self._taken)


class Responders:
    """What one node knows of those that answer its requests to all."""

    def __init__(self) -> None:
        self._known: Remembered[Address, frozenset[str]] = Remembered(KEPT, KEPT_FOR)
        self._running: dict[str, Gathering] = {}
        self._over: Remembered[str, Address] = Remembered(KEPT, LATE_WITHIN)

    def begin(self, id: str, address: Address, now: float, receivers: int | None = None) -> Gathering:
        """A request to all is sent. `receivers` says how many get it, where the bus knows."""
        known = self._known.get(address, now) or frozenset()
        made = self._running[id] = Gathering(id, address, known, receivers)
        return made

    def end(self, gathering: Gathering, now: float) -> None:
        """It is over: keep who answered, where nothing speaks against it."""
        if self._running.pop(gathering.id, None) is None:
            return
        self._over.put(gathering.id, gathering.address, now)
        if gathering.over and gathering.queues and not gathering.changed:
            self._known.put(gathering.address, gathering.queues, now)
        else:
            self._known.drop(gathering.address)

    def late(self, id: str, now: float) -> None:
        """A message came for what waits for nothing any more: where that was a request to all, somebody was missed."""
        address = self._over.get(id, now)
        if address is not None:
            self._known.drop(address)

    def forget(self) -> None:
        """What nodes have announced may have been missed: begin anew."""
        self._known.drop_where(lambda _: True)

    def announced(self, hosts: Collection[str]) -> None:
        """A node is going to serve these hosts."""
        self._known.drop_where(lambda address: address.host in hosts)
        for gathering in self._running.values():
            if gathering.address.host in hosts:
                gathering.announced()
