"""Who is reached here: the actors of this process by host, and what each of them has on the bus."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mbactor.errors import AddressTooLong
from mbactor.kernel.feature import EVERY
from mbactor.kernel.presence import Presence
from mbactor.transport import subjects
from mbactor.transport.bus import matches
from mbactor.transport.locality import places_of
from mbactor.transport.peers import Group, Peers
from mbactor.transport.reserved import kept_at, tell_kept

if TYPE_CHECKING:
    from collections.abc import Collection

    from mbactor.kernel.cell import Cell
    from mbactor.kernel.node import Node
    from mbactor.kernel.routes import Route
    from mbactor.transport.bus import Delivery, Subscription


class Served:
    """The replicas of one host in this process; of those that serve a method each in turn, but for one that is full or
    in a long backoff while another is not.

    A method that is not in turn, because it has a queue of its own or none, or is left to another process, is reached
    over the bus only.
    """

    __slots__ = ("_by_name", "_peers", "_turns", "cells")

    def __init__(self, node: Node, host: str) -> None:
        self._peers = Peers(node.remote.bus, node.plane, host, self._with_room)
        self.cells: list[Cell] = []
        self._by_name: dict[str, list[Cell]] = {}
        self._turns: dict[str, int] = {}

    def next(self, name: str) -> Cell | None:
        """Who is to have the next message for a method; None where nobody here serves it."""
        cells = self._by_name.get(name)
        if cells is None:
            return None
        if len(cells) == 1:
            return cells[0]
        turn = self._turns[name] = self._turns.get(name, 0) + 1
        cell = cells[turn % len(cells)]
        return cell if cell.takes(name) else next((other for other in cells if other.takes(name)), cell)

    def hosts(self) -> set[str]:
        """At which its replicas listen: their own, and those of the events that they sink."""
        active = (route for cell in self.cells for route in cell.routes.by_name.values() if cell.is_active(route))
        return {route.feature.subscribed(route.owner.host or "").host for route in active}

    def replica(self, id: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.replica == id), None)

    def close(self) -> None:
        """No replica is left."""
        self._peers.close()

    def _with_room(self, asks: str, groups: list[Group]) -> list[Group]:
        """Of these groups, those that a replica here has room for, but for the one that asks."""
        found: set[Group] = set()
        for cell in self.cells:
            if cell.served is not None and cell.replica != asks and len(found) < len(groups):
                found |= cell.served.tell([group for group in groups if group not in found])
        return [group for group in groups if group in found]

    def add(self, route: Route, cell: Cell) -> None:
        if route.feature.queue is None and not route.feature.elsewhere:
            self._by_name.setdefault(route.feature.name, []).append(cell)

    def remove(self, route: Route, cell: Cell) -> None:
        name = route.feature.name
        cells = self._by_name.get(name, [])
        if cell in cells:
            cells.remove(cell)
            if not cells:
                del self._by_name[name]


class Serving:
    """What one actor serves: a subscription for each feature and place, and one for itself by its id."""

    def __init__(self, node: Node, cell: Cell) -> None:
        self._node = node
        self._cell = cell
        self._host = cell.cls.host or ""
        if self._host not in node.served:
            node.served[self._host] = Served(node, self._host)
            node.serves(self._host, True)
        self._served = node.served[self._host]
        self.beside = self._served.cells
        """All replicas of its host in this process, its own among them."""
        self._subscriptions: dict[str, list[Subscription]] = {}
        self.presence = Presence(node, cell, self)
        routes = [route for route in cell.routes.by_name.values() if cell.is_active(route)]
        self._announce(routes)
        self.beside.append(cell)
        pattern = subjects.instance_pattern(node.plane, self._host, cell.replica)
        self._own = node.remote.bus.subscribe(pattern, partial(node.remote.receive, cell, None))
        try:
            for route in routes:
                self._add(route)
        except BaseException:
            self.end()  # or what was subscribed would take messages for an actor that never starts
            raise

    def activate(self, route: Route) -> None:
        """A manual feature is served from now on."""
        if route.feature.name not in self._subscriptions:
            self._announce([route])
            self._add(route)

    def deactivate(self, route: Route) -> None:
        subscriptions = self._subscriptions.pop(route.feature.name, ())
        self.presence.forget(route.feature.name)
        self._served.remove(route, self._cell)
        for subscription in subscriptions:
            subscription.unsubscribe()

    def leave(self) -> None:
        """Take no more from the bus that another replica could have; what is meant for this one still comes."""
        self.presence.close()
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.unsubscribe()

    def end(self) -> None:
        self.presence.close()
        for name in list(self._subscriptions):
            self.deactivate(self._cell.routes.by_name[name])
        self._end_own()
        self.beside.remove(self._cell)
        if not self.beside:
            del self._node.served[self._host]
            self._served.close()
            self._node.serves(self._host, False)

    def _end_own(self) -> None:
        """No more is meant for it, but for who asks for the rest of what it has answered."""
        remote, replica = self._node.remote, self._cell.replica
        if remote.parts.transfers.owed(f".{replica}"):
            pattern = subjects.instance_pattern(self._node.plane, self._host, replica)
            late = remote.bus.subscribe(pattern, self._receive_late)
            self._node.background(self._let_go(late), name=f"what {self._cell.address} has answered")
        remote.let_go()  # who finds nobody here takes what has no answer yet for lost
        self._own.unsubscribe()

    def _receive_late(self, delivery: Delivery) -> None:
        if self._cell.served is None:  # else it is wanted again, and has this too
            self._node.remote.receive(self._cell, None, delivery)

    async def _let_go(self, late: Subscription) -> None:
        await self._node.remote.parts.left(self._cell.replica)
        late.unsubscribe()

    def taker(self, name: str) -> Cell:
        """Who has a message that the bus has given to this replica: another of its class here where this one is full,
        or in a long backoff, and that one is not.
        """
        cell = self._cell
        if cell.takes(name):
            return cell
        return next((other for other in self.beside if self._stands_in(other, name)), cell)

    def _stands_in(self, other: Cell, name: str) -> bool:
        served = other.served
        return served is not None and other.cls is self._cell.cls and name in served.names and other.takes(name)

    def takes(self, subject: str) -> bool:
        """Whether it is among those that get what is sent to all at an address; `subject` is that, at its own."""
        by_name, asked = self._cell.routes.by_name, _what(subject)
        names = self.names.difference(self.presence.away)
        addresses = (by_name[name].feature.subscribed(self._host) for name in names)
        patterns = (_what(subjects.endpoint_pattern(self._node.plane, address)) for address in addresses)
        return not self._node.leaving and any(matches(pattern, asked) for pattern in patterns)

    def groups(self) -> dict[Group, str]:
        """The queue groups of what it serves, and the features that they are for: those too that it is away from."""
        queues = {name: self._queue(self._cell.routes.by_name[name]) for name in self._subscriptions}
        return {(self._pattern(name), queue): name for name, queue in queues.items() if queue is not None}

    def tell(self, asked: Collection[Group]) -> set[Group]:
        """Of these groups, those that another is told there is room for here."""
        groups = {} if self._node.leaving else self.groups()
        names = {group: groups[group] for group in asked if group in groups}
        return {group for group, name in names.items() if self._cell.has_room(name) and self.presence.tells(name)}

    def move(self, name: str, *, away: bool) -> None:
        """Leave a feature to the others of its group, or be there again. What is on its way still comes."""
        route, before = self._cell.routes.by_name[name], self._subscriptions[name]
        self._subscriptions[name] = self._subscribe(route, away=away)
        for subscription in before:
            subscription.unsubscribe()
        if away:
            self._served.remove(route, self._cell)
        else:
            self._served.add(route, self._cell)

    def announce(self, names: Collection[str]) -> None:
        """Features are going to be served once more."""
        self._announce([self._cell.routes.by_name[name] for name in names])

    def _add(self, route: Route) -> None:
        self._subscriptions[route.feature.name] = self._subscribe(route, away=False)
        self._served.add(route, self._cell)

    def _subscribe(self, route: Route, *, away: bool) -> list[Subscription]:
        """In its queue group; or, while it is away, where is asked whether somebody will be back."""
        bus, plane, queue = self._node.remote.bus, self._node.plane, self._queue(route)
        address = route.feature.subscribed(self._host)
        addresses = [address, *(address.at(place) for place in places_of(self._node.locality))]
        if away and route.feature.elsewhere:
            return []  # an event that nobody takes is no error: it is not asked whether somebody will be back
        if away:
            found = []
            for at in addresses:
                with suppress(AddressTooLong):  # who finds nobody there cannot ask that either
                    found.append(bus.subscribe(subjects.endpoint_pattern(plane, kept_at(at)), self._missed))
            return found
        receive = partial(self._node.remote.receive, self._cell, route)
        patterns = [subjects.endpoint_pattern(plane, at) for at in addresses]  # all of them, or none is subscribed to
        return [bus.subscribe(pattern, receive, queue=queue) for pattern in patterns]

    def _missed(self, delivery: Delivery) -> None:
        self.presence.missed()
        tell_kept(self._node.remote.bus, delivery)

    def _queue(self, route: Route) -> str | None:
        return None if route.feature.queue == EVERY else route.feature.queue or self._host

    def _pattern(self, name: str) -> str:
        address = self._cell.routes.by_name[name].feature.subscribed(self._host)
        return subjects.endpoint_pattern(self._node.plane, address)

    def _announce(self, routes: list[Route]) -> None:
        """Whoever waits for those that are known to answer has to know of one more, before it is there."""
        new = {
            route.feature.subscribed(self._host).host
            for route in routes
            if route.feature.queue == EVERY or not self._is_served(route)
        }
        if new:
            self._node.remote.to_all.announce(self._host, sorted(new))

    def _is_served(self, route: Route) -> bool:
        """Whether another replica here serves it already, in the same queue."""
        name, cls = route.feature.name, self._cell.cls
        others = (cell.served for cell in self.beside if cell is not self._cell and cell.cls is cls)
        return any(one is not None and name in one.names and name not in one.presence.away for one in others)

    @property
    def names(self) -> set[str]:
        """The features that it serves at this moment."""
        return set(self._subscriptions)


def _what(subject: str) -> tuple[str, ...]:
    """Port, method and path of a subject, or of a pattern."""
    _, _, port, _, _, _, *what = subject.split(".")
    return (port, *what)
