"""What a node owes to those who ask it over the bus: an answer, and an acknowledgement where that takes longer.

An answer leaves at once, and is the acknowledgement of its request when it does so soon. What is not answered within
an eighth of the ack window is acknowledged by one sweep over all of them; a request to all (`multi`) and the first
fragment of a larger one are acknowledged on arrival, for their asker goes by that.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from mbactor.errors import MessageTooLarge, Unavailable, to_wire
from mbactor.kernel.client import BytesCall
from mbactor.transport.bus import Bus
from mbactor.transport.message import JSON, Envelope, Message

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.routes import Route

ACCEPTED = 202
"""The status of an acknowledgement."""


class Answers:
    """The asks of other nodes that this one has taken; with `window`, those not answered soon are acknowledged."""

    def __init__(self, bus: Bus, window: float) -> None:
        self._bus = bus
        self._after = window / 8
        self._open: dict[Answer, float] = {}
        """Those that are neither answered nor acknowledged, and when they came."""
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._open.clear()

    def owe(self, answer: Answer, now: float) -> None:
        """An ask has been taken."""
        if answer.at_once:
            self._acknowledge(answer)
        elif not self._bus.tells_all:
            self._open[answer] = now
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._after, self._sweep)

    def give(self, answer: Answer, message: Message) -> None:
        self._open.pop(answer, None)
        with suppress(Unavailable):  # the bus was closed, or cut off, meanwhile
            self._bus.publish(answer.reply, message.to_bytes())

    def _acknowledge(self, answer: Answer) -> None:
        message = Message(Envelope("ack", answer.request, status=ACCEPTED, replica=answer.replica), b"")
        with suppress(Unavailable):
            self._bus.publish(answer.reply, message.to_bytes())

    def _sweep(self) -> None:
        """Acknowledge what is older than a sweep."""
        loop = asyncio.get_running_loop()
        before = loop.time() - self._after
        for answer, came in list(self._open.items()):
            if came > before:
                break
            del self._open[answer]
            self._acknowledge(answer)
        self._timer = loop.call_later(self._after, self._sweep) if self._open else None


class Answer:
    """Stands where the future of a local ask would: what it is set to is published, to the asker's inbox."""

    __slots__ = ("_answers", "_given", "at_once", "replica", "reply", "request")

    def __init__(self, answers: Answers, reply: str, request: str, replica: str, *, at_once: bool) -> None:
        self._answers = answers
        self._given = False
        self.reply = reply
        self.request = request
        """The id that the answer has to have."""
        self.replica = replica
        self.at_once = at_once
        """Whether the asker goes by the acknowledgement."""

    def done(self) -> bool:
        return self._given

    def set_result(self, message: Message) -> None:
        self._answers.give(self, message)
        self._given = True


class BusCall(BytesCall, eq=False, kw_only=True):
    """A call that came over the bus; the answer is published to the asker's inbox, with the request's id."""

    request: str = ""

    @classmethod
    def of(cls, route: Route, cell: Cell, message: Message) -> BusCall:
        """The call that a message makes: a tell, unless an answer is owed."""
        envelope = message.envelope
        call = cls(route, None, cell, body=message.body, content_type=envelope.content_type, query=envelope.query)
        call.request = envelope.id
        call.trace = envelope.trace
        call.baggage = envelope.baggage or None
        return call

    def _result(self, body: bytes, content_type: str) -> Any:
        return Message(Envelope("reply", self.request, content_type=content_type, replica=self.cell.replica), body)

    def fail(self, error: BaseException) -> None:
        if self.future is not None and not self.future.done():
            try:
                self.future.set_result(self._error(error))
            except MessageTooLarge as too_large:
                self.future.set_result(self._error(too_large))

    def _error(self, error: BaseException) -> Any:
        wire = to_wire(error)
        status, replica = wire["statusCode"], self.cell.replica
        envelope = Envelope("error", self.request, status=status, content_type=JSON, replica=replica)
        return Message(envelope, msgspec.json.encode(wire))
