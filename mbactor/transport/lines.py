"""The ways of messages from a source to an address: their subjects, made once and remembered.

    lines = Lines("plane", "node")
    line = lines("shop.example", Address.parse("https://stock.example/level", "POST"))
    line.subject, line.inbox

To make a subject takes many times as long as to send a message, and nearly all go where others went before.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from mbactor.errors import AddressTooLong
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.locality import Nearest

MOST = 4096
"""So many are remembered."""


class Line(msgspec.Struct, frozen=True):
    """One way, as each message that goes there takes it. `inbox` is where the answers go, but for the last token."""

    source: str
    address: Address
    subject: str
    inbox: str


class Lines:
    """Those of one node."""

    def __init__(self, plane: str, node: str) -> None:
        self._plane = plane
        self._node = node
        self._known: dict[tuple[str, Address], Line] = {}

    def __call__(self, source: str, address: Address) -> Line:
        """AddressTooLong."""
        line = self._known.get((source, address))
        if line is None:
            if len(self._known) >= MOST:
                self._known.clear()
            subject = subjects.request_subject(self._plane, source, address)
            inbox = subjects.reply_subject(self._plane, address.host, source, self._node, "")
            line = self._known[source, address] = Line(source, address, subject, inbox)
        return line

    def place(self, source: str, address: Address, nearest: Nearest, now: float) -> Address:
        """The nearest that is known to serve an address; any where a place in it would make it too long."""
        place = nearest(address, now)
        with suppress(AddressTooLong):
            self(source, place)
            return place
        return address
