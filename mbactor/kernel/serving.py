"""Who is reached here: the actors of this process by host, and what each of them has on the bus."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mbactor.kernel.feature import EVERY
from mbactor.transport import subjects
from mbactor.transport.bus import matches
from mbactor.transport.locality import places_of

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.node import Node
    from mbactor.kernel.routes import Route
    from mbactor.transport.bus import Subscription


class Served:
    """The replicas of one host in this process; of those that serve a method each in turn, but for one that is full or
    in a long backoff while another is not.

    A method that is not in turn, because it has a queue of its own or none, is reached over the bus only.
    """

    __slots__ = ("_by_name", "_turn", "cells")

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self._by_name: dict[str, list[Cell]] = {}
        self._turn = 0

    def next(self, name: str) -> Cell | None:
        """Who is to have the next message for a method; None where nobody here serves it."""
        cells = self._by_name.get(name)
        if cells is None:
            return None
        if len(cells) == 1:
            return cells[0]
        self._turn += 1
        cell = cells[self._turn % len(cells)]
        return cell if cell.takes(name) else next((other for other in cells if other.takes(name)), cell)

    def hosts(self) -> set[str]:
        """At which its replicas listen: their own, and those of the events that they sink."""
        active = (route for cell in self.cells for route in cell.routes.by_name.values() if cell.is_active(route))
        return {route.feature.subscribed(route.owner.host or "").host for route in active}

    def replica(self, id: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.replica == id), None)

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
            node.served[self._host] = Served()
            node.serves(self._host, True)
        self._served = node.served[self._host]
        self._subscriptions: dict[str, list[Subscription]] = {}
        routes = [route for route in cell.routes.by_name.values() if cell.is_active(route)]
        self._announce(routes)
        self._served.cells.append(cell)
        for route in routes:
            self._add(route)
        pattern = subjects.instance_pattern(node.plane, self._host, cell.replica)
        self._own = node.remote.bus.subscribe(pattern, partial(node.remote.receive, cell, None))

    def activate(self, route: Route) -> None:
        """A manual feature is served from now on."""
        if route.feature.name not in self._subscriptions:
            self._announce([route])
            self._add(route)

    def deactivate(self, route: Route) -> None:
        subscriptions = self._subscriptions.pop(route.feature.name, ())
        self._served.remove(route, self._cell)
        for subscription in subscriptions:
            subscription.unsubscribe()

    def leave(self) -> None:
        """Take no more from the bus that another replica could have; what is meant for this one still comes."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.unsubscribe()

    def end(self) -> None:
        for name in list(self._subscriptions):
            self.deactivate(self._cell.routes.by_name[name])
        self._own.unsubscribe()
        self._served.cells.remove(self._cell)
        if not self._served.cells:
            del self._node.served[self._host]
            self._node.serves(self._host, False)

    def taker(self, name: str) -> Cell:
        """Who has a message that the bus has given to this replica: another of its class here where this one is full,
        or in a long backoff, and that one is not.
        """
        cell = self._cell
        if len(self._served.cells) == 1 or cell.takes(name):
            return cell
        return next((other for other in self._served.cells if self._stands_in(other, name)), cell)

    def _stands_in(self, other: Cell, name: str) -> bool:
        served = other.served
        return served is not None and other.cls is self._cell.cls and name in served.names and other.takes(name)

    def takes(self, subject: str) -> bool:
        """Whether it is among those that get what is sent to all at an address; `subject` is that, at its own."""
        by_name, asked = self._cell.routes.by_name, _what(subject)
        addresses = (by_name[name].feature.subscribed(self._host) for name in self._subscriptions)
        patterns = (_what(subjects.endpoint_pattern(self._node.plane, address)) for address in addresses)
        return not self._node.leaving and any(matches(pattern, asked) for pattern in patterns)

    def _add(self, route: Route) -> None:
        feature, remote = route.feature, self._node.remote
        queue = None if feature.queue == EVERY else feature.queue or self._host
        address = feature.subscribed(self._host)
        receive = partial(remote.receive, self._cell, route)
        self._subscriptions[feature.name] = [
            remote.bus.subscribe(subjects.endpoint_pattern(self._node.plane, there), receive, queue=queue)
            for there in (address, *(address.at(place) for place in places_of(self._node.locality)))
        ]
        self._served.add(route, self._cell)

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
        others = (cell for cell in self._served.cells if cell is not self._cell and cell.cls is cls)
        return any(cell.served is not None and name in cell.served.names for cell in others)

    @property
    def names(self) -> set[str]:
        """The features that it serves at this moment."""
        return set(self._subscriptions)


def _what(subject: str) -> tuple[str, ...]:
    """Port, method and path of a subject, or of a pattern."""
    _, _, port, _, _, _, *what = subject.split(".")
    return (port, *what)
