"""Calls that carry bytes: from the bus, from the gateway, and for addresses whose class is not importable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from mbactor.errors import MbactorError, MessageTooLarge, Unavailable, to_wire
from mbactor.kernel.context import Call
from mbactor.transport.codec import decode, encode
from mbactor.transport.message import JSON, Envelope, Message

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.routes import Route


@dataclass(frozen=True, slots=True)
class Response:
    """What an address answered: `status`, `headers` and the `body` as bytes; `json()` decodes it."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return msgspec.json.decode(self.body) if self.body else None


class BytesCall(Call, eq=False, kw_only=True):
    """A call whose arguments came as bytes and whose result leaves as bytes, of the same content type."""

    body: bytes = b""
    content_type: str = JSON
    query: str = ""

    def arguments(self) -> dict[str, Any]:
        if self.kwargs is not None:
            return self.kwargs  # type: ignore[no-any-return]
        return self.route.signature.decode(self.body, self.content_type, self.query)

    def answer(self, value: Any) -> bool:
        if self.future is None or self.future.done():
            return self.future is None
        try:
            body, content_type = self.route.encode_result(value, self.content_type)
            self.future.set_result(self._result(body, content_type))
        except MbactorError as error:
            self.fail(error)
        return True

    def _result(self, body: bytes, content_type: str) -> Any:
        return Response(200, body, {"content-type": content_type})


class SerializedCall(BytesCall, eq=False, kw_only=True):
    """A call within the process that goes through bytes all the same, both ways."""

    def _result(self, body: bytes, content_type: str) -> Any:
        return decode(body, content_type, self.route.signature.returns)


class BusCall(BytesCall, eq=False, kw_only=True):
    """A call that came over the bus; the answer is published to the asker's inbox, with the request's id."""

    request: str = ""

    @classmethod
    def of(
        cls, route: Route, cell: Cell, message: Message, publish: Callable[[str, bytes], None], reply: str | None
    ) -> BusCall:
        """The call that a message makes; one without a reply subject is a tell."""
        envelope = message.envelope
        call = cls(route, None, cell, body=message.body, content_type=envelope.content_type, query=envelope.query)
        call.request = envelope.id
        call.trace = envelope.trace
        call.baggage = envelope.baggage or None
        if reply is not None:
            publishing: Any = Publishing(publish, reply)
            call.future = publishing
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


class Publishing:
    """Stands where the future of a local ask would: what it is set to is published."""

    __slots__ = ("_answered", "_publish", "_reply")

    def __init__(self, publish: Callable[[str, bytes], None], reply: str) -> None:
        self._publish = publish
        self._reply = reply
        self._answered = False

    def done(self) -> bool:
        return self._answered

    def set_result(self, answer: Message) -> None:
        with suppress(Unavailable):  # the bus was closed, or cut off, meanwhile
            self._publish(self._reply, answer.to_bytes())
        self._answered = True


def body_of(value: Any) -> bytes:
    """The body of a request: bytes as they are, None as nothing, anything else as JSON."""
    if value is None:
        return b""
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else encode(value, JSON)[0]
