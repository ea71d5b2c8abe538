"""Who answers a request to all, and when nobody more is to be waited for. Pure: no bus, no clock.

The first request to an address waits for a window in which whoever takes it says so. The queues that did are kept, and
the next request waits for these only: it takes as long as the slowest of them. That there are no others is dropped as
soon as it may be wrong: when one of them does not answer, when somebody answers after the end, and when a node
announces that it is going to serve the host. Who has taken one before is expected to take the next, until it is known
to be gone: one that stands still is missed (`unheard`), and not left out as if nobody were there.
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
Seen = dict[str, tuple[str, str]]
"""The queues from which requests were taken, and who did so last: its id, and its host."""


def private_queue(replica: str, host: str) -> str:
    """The name of what one replica takes for itself alone."""
    return f"{replica}@{host}"


class Gathering:
    """One request to all: who has taken it, who has answered."""

    __slots__ = (
        "_answered", "_expected", "_known", "_left", "_receivers", "_refused", "_taken", "_window_over", "address",
        "changed", "id",
    )  # fmt: skip

    def __init__(
        self, id: str, address: Address, known: frozenset[str], receivers: int | None, expected: Seen | None = None
    ) -> None:
        self.id = id
        self.address = address
        self.changed = False
        """Whether others may answer the next: a node has said meanwhile that it is going to serve the host, say."""
        self._known = known
        self._expected: Seen = dict(expected or {})
        self._receivers = receivers
        self._refused = 0
        self._taken: dict[Responder, str] = {}
        """Those that have it, and their hosts."""
        self._answered: set[Responder] = set()
        self._left: set[str] = set()
        self._window_over = False

    def acked(self, by: Responder, host: str = "") -> None:
        self._taken[by] = host

    def answered(self, by: Responder, host: str = "") -> bool:
        """False where it has answered before."""
        self._taken[by] = host
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
        self._left.update(queue for queue, one in self._taken if one == replica)
        self.changed = True

    def left(self, queue: str) -> None:
        """Who was expected to take it from a queue is not there any more."""
        self._expected.pop(queue, None)
        self._left.add(queue)
        self._known -= {queue}

    def host_of(self, by: Responder) -> str:
        """Of one that has it."""
        return self._taken.get(by) or self.address.host

    def end_window(self) -> None:
        """Whoever has not said anything is not waited for any more."""
        self._window_over = True

    def announced(self) -> None:
        """There is going to be one more than is known of."""
        self.changed = True
        self._known = frozenset()
        self._left.clear()

    @property
    def queues(self) -> frozenset[str]:
        """Those from which it was taken."""
        return frozenset(queue for queue, _ in self._taken)

    @property
    def missed(self) -> Seen:
        """The queues from which it is expected to be taken, and was not yet."""
        heard = self.queues
        return {} if self._counted else {queue: who for queue, who in self._expected.items() if queue not in heard}

    @property
    def unheard(self) -> list[tuple[str, str]]:
        """Id and host of those that have it, or may have it, and have said nothing; no id where nobody knows whose."""
        missed = [who if queue == private_queue(*who) else ("", "") for queue, who in self.missed.items()]
        if self._receivers is None:
            return missed[self._refused :]
        more = max(0, self._receivers - len(self._taken) - self._refused)
        return (missed + [("", "")] * more)[:more]

    @property
    def seen(self) -> Seen:
        """Who is there."""
        taken = {queue: (replica, self.host_of((queue, replica))) for queue, replica in self._taken}
        return {queue: who for queue, who in (self.missed | taken).items() if queue not in self._left}

    @property
    def gone(self) -> Collection[str]:
        """The queues that were expected to take it, and from which nobody does any more."""
        return self._left | (self._expected.keys() - self.queues if self._counted else set())

    @property
    def _counted(self) -> bool:
        """Whether everybody to whom the bus gave it has said something."""
        return self._receivers is not None and len(self._taken) + self._refused >= self._receivers

    @property
    def silent(self) -> list[Responder]:
        """Those that have taken it and not answered, in the order in which they took it."""
        return [one for one in self._taken if one not in self._answered]

    @property
    def complete(self) -> bool:
        """Whether no other responder is expected."""
        if self._window_over or self._counted:
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
        self._seen: Remembered[Address, Seen] = Remembered(KEPT, KEPT_FOR)
        self._running: dict[str, Gathering] = {}
        self._over: Remembered[str, Address] = Remembered(KEPT, LATE_WITHIN)

    def begin(self, id: str, address: Address, now: float, receivers: int | None = None) -> Gathering:
        """A request to all is sent. `receivers` says how many get it, where the bus knows."""
        known = self._known.get(address, now) or frozenset()
        made = self._running[id] = Gathering(id, address, known, receivers, self._seen.get(address, now))
        return made

    def end(self, gathering: Gathering, now: float) -> None:
        """It is over: keep who answered, where nothing speaks against it."""
        if self._running.pop(gathering.id, None) is None:
            return
        self._over.put(gathering.id, gathering.address, now)
        before = self._seen.get(gathering.address, now) or {}
        seen = {queue: who for queue, who in before.items() if queue not in gathering.gone} | gathering.seen
        if seen:
            self._seen.put(gathering.address, seen, now)
        else:
            self._seen.drop(gathering.address)
        if gathering.over and seen and not gathering.changed:
            self._known.put(gathering.address, frozenset(seen), now)
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
