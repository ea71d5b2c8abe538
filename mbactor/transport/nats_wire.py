"""The socket of a connection to a NATS server: what nats-py asks of its transport, without a task that reads.

    wire = Wire(lost)
    await wire.connect(url, 0, 2.0)
    greeting = await wire.readline()        # while nats-py connects
    wire.take(parser.feed, begin)           # from then on: what is read is handed over in the turn in which it is read

`lost` is called once, with the reason, in the turn in which the connection ends.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import cast
from urllib.parse import ParseResult

from mbactor.transport.nats_parser import LINE, MalformedStream

Feed = Callable[[bytes], None]


class Wire(asyncio.Protocol):
    """Lines while it connects, then bytes as they come."""

    def __init__(self, lost: Callable[[Wire, Exception], None]) -> None:
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._feed: Feed | None = None
        self._begin = _nothing
        self.write: Callable[[bytes], None] = _not_connected
        self.waiting: Callable[[], int] = _none
        """Bytes that have not left yet."""
        self._early = bytearray()
        self._more = asyncio.Event()
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reason: Exception | None = None
        """Why the connection ends or has ended, where that is known."""

    # --- what nats-py calls -------------------------------------------------------------------------------------

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(connect_timeout):
            await loop.create_connection(lambda: self, uri.hostname or "", uri.port or 0)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002 - nats-py's
        connect_timeout: float,
    ) -> None:
        """Encrypt the connection that there is."""
        host = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            made = await asyncio.get_running_loop().start_tls(self.transport, self, ssl_context, server_hostname=host)
        if made is not None:
            self.connection_made(made)

    def writelines(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    async def readline(self) -> bytes:
        """The next line, or what there is of it when the connection ends."""
        while (end := self._early.find(b"\n")) < 0 and not self._gone.done():
            if len(self._early) > LINE:
                raise MalformedStream(f"a line of more than {LINE} bytes")
            self._more.clear()
            await self._more.wait()
        end = end + 1 or len(self._early)
        line = bytes(self._early[:end])
        del self._early[:end]
        return line

    def refusal(self) -> str:
        """What the server has said is wrong, where nobody has read that yet."""
        line, _, _ = bytes(self._early).partition(b"\r\n")
        return line[4:].strip(b" '").decode(errors="replace") if line.startswith(b"-ERR") else ""

    async def drain(self) -> None:
        if self._gone.done():
            raise ConnectionResetError("the connection was lost")

    async def wait_closed(self) -> None:
        await asyncio.shield(self._gone)

    def close(self) -> None:
        self.abort()

    def at_eof(self) -> bool:
        return self._gone.done()

    def __bool__(self) -> bool:
        return True

    # --- what the connection calls ------------------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise ConnectionError("not connected")
        return self._transport

    def take(self, feed: Feed, begin: Callable[[], None]) -> None:
        """Call `begin` and hand over what is read, beginning with what was read and is no line that was asked for."""
        self._feed, self._begin = feed, begin
        # What is written leaves at once: uvloop would keep it until the end of the turn, while the other side waits.
        self.transport.set_write_buffer_limits(high=0)
        early = bytes(self._early)
        self._early.clear()
        if early:
            self.data_received(early)

    def abort(self) -> None:
        """End at once, whatever has not left or not arrived."""
        self._feed = _drop
        if self._transport is not None:
            self._transport.abort()
        elif not self._gone.done():
            self._gone.set_result(None)

    # --- what asyncio calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        # Of what is called for every message, the transport's own: a method around each would cost as much as they do.
        self.write, self.waiting = made.write, made.get_write_buffer_size

    def data_received(self, data: bytes) -> None:
        if self._feed is None:
            self._early += data
            self._more.set()
            return
        self._begin()
        try:
            self._feed(data)
        except MalformedStream as error:
            self.reason = error
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._feed = _drop
        # uvloop's own raises what nobody expects of a connection.
        self.write, self.waiting = _not_any_more, _none
        self.reason = self.reason or exc
        self._more.set()
        if not self._gone.done():
            self._gone.set_result(None)
            self._lost(self, self.reason or ConnectionResetError("the server closed the connection"))


def _drop(_: bytes) -> None:
    """Nobody wants it any more."""


def _nothing() -> None:
    """Nobody has to know."""


def _not_connected(_: bytes) -> None:
    raise ConnectionError("not connected")


def _not_any_more(_: bytes) -> None:
    raise ConnectionResetError("the connection was lost")


def _none() -> int:
    return 0
