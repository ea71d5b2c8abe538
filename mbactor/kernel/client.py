"""Calls that carry bytes: from the bus, from the gateway, and for addresses whose class is not importable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mbactor.errors import MbactorError, to_wire
from mbactor.kernel.context import Call
from mbactor.kernel.feature import Route
from mbactor.transport.codec import decode, encode
from mbactor.transport.message import JSON, Envelope, Message


@dataclass(frozen=True, slots=True)
class Response:
    """What an address answered: `status`, `headers` and the `body` as bytes; `json()` decodes it."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return msgspec.json.decode(self.body) if self.body else None


class BytesCall(Call):
    """A call whose arguments came as bytes and whose result leaves as bytes, of the same content type."""

    __slots__ = ("body", "content_type", "query")

    def __init__(
        self,
        route: Route,
        body: bytes,
        content_type: str,
        query: str,
        deadline: float,
        future: asyncio.Future[Any] | None,
        caller: Call | None,
    ) -> None:
        super().__init__(route, None, deadline, future, caller)
        self.body = body
        self.content_type = content_type
        self.query = query

    def arguments(self) -> dict[str, Any]:
        return self.route.signature.decode(self.body, self.content_type, self.query)

    def answer(self, value: Any) -> None:
        if self.future is not None and not self.future.done():
            try:
                body, content_type = self.route.encode_result(value, self.content_type)
            except MbactorError as error:
                self.fail(error)
            else:
                self.future.set_result(Response(200, body, {"content-type": content_type}))


class SerializedCall(BytesCall):
    """A call within the process that goes through bytes all the same, both ways."""

    __slots__ = ()

    def answer(self, value: Any) -> None:
        if self.future is not None and not self.future.done():
            try:
                body, content_type = self.route.encode_result(value, self.content_type)
                result = decode(body, content_type, self.route.signature.returns)
            except MbactorError as error:
                self.fail(error)
            else:
                self.future.set_result(result)


class BusCall(BytesCall):
    """A call that came over the bus; the answer is published to the asker's inbox."""

    __slots__ = ("_answered", "_respond")

    def __init__(
        self, route: Route, message: Message, deadline: float, respond: Callable[[Message], None] | None
    ) -> None:
        envelope = message.envelope
        super().__init__(route, message.body, envelope.content_type, envelope.query, deadline, None, None)
        self.path = envelope.path
        self.trace = envelope.trace
        self.identity = envelope.identity
        self.baggage = envelope.baggage or None
        self._respond = respond
        self._answered = False

    @property
    def asked(self) -> bool:
        return self._respond is not None

    @property
    def told(self) -> bool:
        return self._respond is not None and not self._answered

    def answer(self, value: Any) -> None:
        if self.told:
            try:
                body, content_type = self.route.encode_result(value, self.content_type)
            except MbactorError as error:
                self.fail(error)
            else:
                self._send(Envelope("reply", str(self.id), content_type=content_type), body)

    def fail(self, error: BaseException) -> None:
        if self.told:
            wire = to_wire(error)
            body = msgspec.json.encode(wire)
            self._send(Envelope("error", str(self.id), status=wire["statusCode"], content_type=JSON), body)

    def _send(self, envelope: Envelope, body: bytes) -> None:
        self._answered = True
        if self._respond is not None:
            self._respond(Message(envelope, body))


def body_of(value: Any) -> bytes:
    """The body of a request: bytes as they are, None as nothing, anything else as JSON."""
    if value is None:
        return b""
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else encode(value, JSON)[0]
