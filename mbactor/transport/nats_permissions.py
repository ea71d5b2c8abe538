"""What a NATS server lets a connection publish, asked at each connection and now and then: it may change meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mbactor.errors import BadRequest, Unavailable
from mbactor.transport.bus import Bus, Delivery
from mbactor.transport.permissions import Permissions, read

SUBJECT = "$SYS.REQ.USER.INFO"
"""Where a server tells whoever asks who that is; a user with permissions of its own needs that to publish here."""


class Inquiry:
    """Asks, and tells: None for as long as it is not known."""

    def __init__(self, bus: Bus, reply: str, tell: Callable[[Permissions | None], None]) -> None:
        self._bus = bus
        self._reply = reply
        self._tell = tell
        self._told = False
        self._subscription = bus.subscribe(reply, self._receive)

    def begin(self, *, guarded: bool) -> None:
        """The connection was made. A server that lets in everybody is taken to restrict nobody, until it says so."""
        self._told = False
        self._tell(None if guarded else Permissions())
        self._ask()

    def again(self) -> None:
        """Where the server has told once, it is asked whether that has changed."""
        if self._told:
            self._ask()

    def _ask(self) -> None:
        with suppress(Unavailable):  # lost again: there will be another time
            self._bus.publish(SUBJECT, b"", reply=self._reply)

    def _receive(self, delivery: Delivery) -> None:
        if delivery.failure is None:
            with suppress(BadRequest):  # what cannot be read is not known
                self._tell(read(delivery.data))
                self._told = True
        elif self._told:
            self._told = False
            self._tell(None)
