"""Asks and tells that go to the nearest place that is known to serve their address: see `locality.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import structs

from mbactor.errors import MbactorError, NoSuchActor, NotAcknowledged, Unavailable
from mbactor.transport.address import Address
from mbactor.transport.ask import Ask, Sending
from mbactor.transport.locality import Nearest
from mbactor.transport.message import Message
from mbactor.transport.waiting import Waiter


class NearAsk(Ask, eq=False, kw_only=True):
    """An ask whose answer tells how near its replica was. Where nobody takes it at the place it went to, it goes to the
    plain address, once; where nobody says so, who comes after it does: what is there may stand still.
    """

    plain: Address
    nearest: Nearest
    publish: Callable[[str, Address, Message, Waiter], None]
    ticks: int
    """Its patience as it was at the beginning."""

    def answered(self, message: Message) -> None:
        self.nearest.answered(self.plain, message.envelope.locality, asyncio.get_running_loop().time())
        super().answered(message)

    def failed(self, error: MbactorError) -> None:
        message = self.sent()
        if self.address is not self.plain and isinstance(error, NotAcknowledged):
            self.nearest.nobody(self.plain)
        if self.address is self.plain or message is None or not isinstance(error, NoSuchActor | Unavailable):
            super().failed(error)
            return
        self.nearest.nobody(self.plain)
        self.address, self.patience = self.plain, self.ticks
        if self.holder:  # of whose fragments the bus may still have to tell: it rests until that has come
            super().failed(error)
            return
        try:
            self.publish(self.source, self.plain, message, self)
        except MbactorError as failed:
            super().failed(failed)

    def _refused(self, error: MbactorError, replica: str) -> None:
        self.address = self.plain  # others may take it, wherever they are
        super()._refused(error, replica)


class NearSending(Sending, eq=False, kw_only=True):
    """A tell that learns how near it was taken, where its envelope asks that. Where nobody takes it at the place it
    went to, it goes to the plain address, once.
    """

    plain: Address
    nearest: Nearest
    publish: Callable[[str, Address, Message, Waiter], None]
    message: Message

    def acked(self, message: Message) -> None:
        self.nearest.answered(self.plain, message.envelope.locality, asyncio.get_running_loop().time())

    def unsent(self, error: MbactorError) -> None:
        super().failed(error)  # the bus would not take it for another place

    def failed(self, error: MbactorError) -> None:
        if self.address is self.plain or not isinstance(error, NoSuchActor | Unavailable):
            super().failed(error)
            return
        self.nearest.nobody(self.plain)
        if self.leaving is not None and isinstance(error, Unavailable):
            super().failed(error)  # who had a part of it is gone: what the bus tells of the others is of the same loss
            return
        self.address = self.plain
        try:
            self.publish(self.source, self.plain, self.message, self)
        except MbactorError as failed:
            super().failed(failed)


def asking_where(message: Message, address: Address, nearest: Nearest, now: float) -> Message:
    """A tell as it is sent to an address: by the locality of who sends it, it asks for that of who takes it."""
    if not nearest.to_ask(address, now):
        return message
    return Message(structs.replace(message.envelope, locality=nearest.locality), message.body)
