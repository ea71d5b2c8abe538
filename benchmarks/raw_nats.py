"""The floor of a request over NATS: a client of one screen that does nothing but the protocol.

No errors, no reconnecting, no budgets, no envelope, no permissions: what it costs is the least that this event loop and
a NATS server ask for a request and its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any, cast
from urllib.parse import urlsplit

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"0","protocol":1}\r\n'

Receive = Callable[[str, bytes], None]
"""Gets the subject to answer to ("" without one), and the payload."""


class RawNats(asyncio.Protocol):
    """One connection. What is published in a turn of the loop leaves in one write at its end."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._out: list[bytes] = []
        self._receivers: dict[int, Receive] = {}
        self._tokens = count(1)
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._pongs: list[asyncio.Future[None]] = []
        self._inbox = f"_INBOX.{id(self):x}"

    @classmethod
    async def connect(cls, url: str) -> RawNats:
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 4222
        _, client = await asyncio.get_running_loop().create_connection(cls, host, port)
        client._send(CONNECT)
        client._send(f"SUB {client._inbox}.* 0\r\n".encode())
        await client.barrier()
        return client

    def close(self) -> None:
        self._transport.close()

    async def barrier(self) -> None:
        """The server has taken all that was sent before."""
        pong: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(pong)
        self._send(b"PING\r\n")
        await pong

    def subscribe(self, subject: str, receive: Receive) -> None:
        sid = len(self._receivers) + 1
        self._receivers[sid] = receive
        self._send(f"SUB {subject} {sid}\r\n".encode())

    def publish(self, subject: str, data: bytes) -> None:
        self._send(b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(data), data))

    def request(self, subject: str, data: bytes) -> asyncio.Future[bytes]:
        token = str(next(self._tokens))
        answer = self._waiting[token] = self._loop.create_future()
        self._send(f"PUB {subject} {self._inbox}.{token} {len(data)}\r\n".encode() + data + b"\r\n")
        return answer

    def _send(self, command: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._write)
        self._out.append(command)

    def _write(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    # --- in ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is none

    def connection_lost(self, exc: Exception | None) -> None:
        waiting: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._pongs]
        for future in waiting:
            if not future.done():
                future.set_exception(exc or ConnectionError("the server has closed the connection"))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            line = data[at:end]
            if line.startswith(b"MSG"):
                fields = line.decode().split(" ")
                begins, ends = end + 2, end + 2 + int(fields[-1])
                if len(data) < ends + 2:
                    break
                self._received(fields, data[begins:ends])
                at = ends + 2
            else:
                self._told(line)
                at = end + 2
        self._rest = data[at:]

    def _received(self, fields: list[str], data: bytes) -> None:
        """`fields`: MSG, the subject, the subscription, the subject to answer to where there is one, the size."""
        if fields[2] != "0":
            self._receivers[int(fields[2])](fields[3] if len(fields) == 5 else "", data)
            return
        waiting = self._waiting.pop(fields[1].rpartition(".")[2])
        if not waiting.done():
            waiting.set_result(data)

    def _told(self, line: bytes) -> None:
        if line == b"PING":
            self._send(b"PONG\r\n")
        elif line == b"PONG":
            self._pongs.pop(0).set_result(None)
        elif line.startswith(b"-ERR"):
            raise ConnectionError(line.decode())
