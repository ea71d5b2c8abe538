"""Ways out: where what leaves for other nodes goes, and how what comes back is read. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mbactor.errors import BadRequest, BudgetSpent, MbactorError
from mbactor.kernel.client import Response
from mbactor.kernel.feature import Operation
from mbactor.kernel.routes import Route
from mbactor.transport.address import Address
from mbactor.transport.codec import decode, encode, unpacker
from mbactor.transport.lines import Line
from mbactor.transport.message import MSGPACK, Message

_NONE = encode(None)[0]


class Sent:
    """An ask on its way to another node, as far as its maker waits for it."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future

    def done(self) -> bool:
        return self.future.done()


class WayOut:
    """How asks of one operation from one source leave, and how their answers are read."""

    __slots__ = ("exact", "line", "only", "read", "route", "unpack")

    def __init__(self, route: Route, line: Line) -> None:
        self.route = route
        self.line = line
        self.unpack = unpacker(route.signature.returns)
        self.read = _reader(route, self.unpack)
        self.only = route.only if route.signature.positional else ""
        self.exact = route.signature.exact.get(self.only, frozenset())
        """The types of which the value of the only parameter is sent as it is; none where it has to be named."""


def spent(what: str) -> BudgetSpent:
    """There is no time left to send it."""
    error = BudgetSpent(f"{what} was not sent: the time budget was already spent")
    error.taken = "no"
    return error


def address_of(operation: Operation[Any, ..., Any], host: str, replica: str | None) -> Address:
    """Where messages for an operation go: to any replica of a host, or to one."""
    address = operation.feature.address(host)
    return address if replica is None else Address(host, address.path, address.method, address.port, replica)


def _reader(route: Route, unpack: Callable[[bytes], Any]) -> Callable[[Message], Any]:
    """Reads the result of a method, as its annotation has it."""
    returns = route.signature.returns

    def result_in(message: Message) -> Any:
        if message.body and message.envelope.content_type == MSGPACK:
            try:
                return unpack(message.body)
            except Exception:  # noqa: BLE001, S110 - what is wrong, the long way says
                pass
        try:
            return value_in(message, returns)
        except BadRequest as error:
            raise MbactorError(f"{route.name} answered what does not fit its annotation: {error}") from None

    return result_in


def value_in(message: Message, returns: Any) -> Any:
    """What an answer says, as an annotation has it; an empty one says None. BadRequest where it does not fit."""
    if not message.body:
        return decode(_NONE, MSGPACK, returns)
    return decode(message.body, message.envelope.content_type, returns)


def response_in(message: Message) -> Response:
    """The answer to a request of bytes."""
    return Response(message.envelope.status, message.body, {"content-type": message.envelope.content_type})
