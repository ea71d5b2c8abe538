"""Calls that carry bytes: from the gateway, and for addresses whose class is not importable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mbactor.errors import BadRequest, MbactorError
from mbactor.kernel.context import Call
from mbactor.transport.codec import decode, encode
from mbactor.transport.message import JSON

_LARGE = 64 * 1024
"""Bytes of a body above which it is not kept beside the arguments in it."""


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
        try:
            arguments = self.route.signature.decode(self.body, self.content_type, self.query)
        except MbactorError:
            self.refused = True
            raise
        if len(self.body) > _LARGE:
            # It would be there twice for as long as the method runs.
            self.kwargs, self.body = arguments, b""
        return arguments

    def answer(self, value: Any) -> bool:
        if self.future is None or self.future.done():
            return self.future is None
        try:
            body, content_type = self.route.encode_result(value, self.content_type)
            self.future.set_result(self._result(body, content_type))
        except MbactorError as error:  # it does not fit its annotation, or is too large: the method has run
            error.taken = "yes"
            self.fail(error)
        return True

    def _result(self, body: bytes, content_type: str) -> Any:
        return Response(200, body, {"content-type": content_type})


class SerializedCall(BytesCall, eq=False, kw_only=True):
    """A call within the process that goes through bytes all the same, both ways."""

    def _result(self, body: bytes, content_type: str) -> Any:
        return decode(body, content_type, self.route.signature.returns)


def check_texts(method: Any, url: Any, query: Any, headers: Mapping[Any, Any]) -> None:
    """BadRequest where one is no text, or none that has bytes. Who gets a message that cannot be read answers nothing,
    and reads none of those that travel with it.
    """
    parts = [("method", method), ("url", url), ("query", query)]
    for name, value in headers.items():
        parts += [("header", name), (f"header {name!r}", value)]
    for what, text in parts:
        if not isinstance(text, str):
            raise BadRequest(f"{what}: {text!r} given, a text expected")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(f"{what}: {text!r} given, and it cannot travel: {error}") from None


def body_of(value: Any) -> bytes:
    """The body of a request: bytes as they are, None as nothing, anything else as JSON."""
    if value is None:
        return b""
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else encode(value, JSON)[0]
