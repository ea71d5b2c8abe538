"""How a node reaches the others, and what is kept of it while it is away: one `Place` for each of its processes.

Over a broker the process connects by itself, and its parent keeps the places of the hosts it serves (`Reserved`). On
the bus within a process it gets a link to the parent, which is the hub.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Protocol, cast
from weakref import WeakSet

from mbactor.errors import InvalidSpec
from mbactor.kernel.node import Node
from mbactor.transport.bus import Bus
from mbactor.transport.link import Hub, Lendable
from mbactor.transport.reserved import Reserved


class Place(Protocol):
    """What a process serves: whoever asks for it while the process is away is told that it will be back."""

    def reserve(self) -> None:
        """The process is going to be restarted."""

    async def close(self) -> None:
        """The process is gone; its places stay kept."""

    def release(self) -> None:
        """Nobody will serve them again, or somebody else does so already."""


def url_of(bus: Bus) -> str | None:
    """Where another process connects to, to be on this bus; None where it cannot."""
    found: str | None = getattr(bus, "url", None)
    return found


def check_reachable(node: Node) -> None:
    """InvalidSpec where no other process can be on the node's bus."""
    bus = node.remote.bus
    if url_of(bus) is None and not hasattr(bus, "reserve"):
        raise InvalidSpec(
            f"process: True given, and {type(bus).__name__} cannot be shared with another process; the transport "
            "'local', 'embedded' or nats://host:port expected"
        )


async def place_of(node: Node) -> tuple[Place, list[socket.socket]]:
    """A place at the node's bus for a new process, and the sockets that it needs."""
    bus = node.remote.bus
    if url_of(bus) is not None:
        return Reserved(bus, node.plane, node.serves, node.locality), []
    lent, theirs = socket.socketpair()
    links.add(lent)
    return await Hub(cast("Lendable", bus)).attach(lent), [theirs]


links: WeakSet[socket.socket] = WeakSet()
"""This process's ends of what leads to its nodes."""


def _let_go() -> None:
    """In a fork of this process: it would keep the nodes from seeing that their parent has ended."""
    for link in list(links):
        with suppress(OSError):  # it is closed already
            os.close(link.detach())
    links.clear()


os.register_at_fork(after_in_child=_let_go)
