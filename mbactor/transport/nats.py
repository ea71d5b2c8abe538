"""The bus over a NATS server: `NatsBus`.

    bus = NatsBus("nats://127.0.0.1:4222")
    await bus.connect()

What is promised, beside the contract of every bus:

- A message goes from the socket to its receiver in the same turn of the loop. No queue lies between that could
  overflow. A process that does not read for long is cut off by the server, which is told (`bus.cut`).
- While the connection is gone, `publish` raises Unavailable at once and nothing is kept for later: what a broker gets
  after an outage may find nobody yet. Who waits for an answer is told at the moment of the loss (`when_cut`).
- The connection is made again for as long as it takes, after a pause drawn at random so that not all come at once, and
  every subscription with it, those made meanwhile included. A server that says nothing is left after `SILENT`.
- `flush` is a true barrier: the server has taken all that was published and subscribed before.
- A connection that looks good and brings nothing (`watch`), or of which the server has lost a subscription, is noticed
  within `every` seconds, told (`bus.deaf`, `bus.forgot`), and mended: see `nats_watch.py`.
- `close` drains: the server is told to send no more, what is on its way is delivered, answers to it still leave.

Not promised: a message is at most once, and one that was with the server when that died is gone. So is one on its way
from a server of a cluster to another while the last receiver there ends; whoever asked learns of it by the ack window.
Of what was told in the seconds before, `message.unknown` says how much that may be.

The connection itself is in `nats_client.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mbactor.errors import Unavailable
from mbactor.transport.bus import Receive, check_pattern
from mbactor.transport.nats_access import Access
from mbactor.transport.nats_client import Connection
from mbactor.transport.nats_dispatch import Subscribed
from mbactor.transport.nats_permissions import Inquiry
from mbactor.transport.nats_url import broker_of, without_secrets
from mbactor.transport.nats_watch import Watch
from mbactor.transport.permissions import Permissions

DRAIN = 5.0
"""Seconds that what is on its way may take when the bus is closed."""
EVERY = 5.0
"""Seconds between two looks whether what is published comes back."""


class NatsBus:
    """A `Bus` over the NATS servers of a URL (`nats_url.py`). Every so many seconds it looks whether it is deaf."""

    tells_all = False
    round_trip = 0.0

    def __init__(self, url: str, *, every: float = EVERY) -> None:
        broker_of(url)  # a wrong one is refused before anything is started
        self.url = url
        self._every = every
        self._watching: Watch | None = None
        self._client: Connection | None = None
        self._cut: list[Callable[[], None]] = []
        self._back: list[Callable[[], None]] = []
        self._inquiry: Inquiry | None = None
        self._closing = False

    async def connect(self) -> None:
        """Unavailable where no server takes the connection, with the reason; InvalidSpec for a file of no use."""
        broker = broker_of(self.url)
        client = Connection(Access(broker.files), self._was_cut, self._is_back, self._tell_back)
        await client.open(broker.servers)
        self._client = client
        self._closing = False
        self.round_trip = min([await _seconds_of(client.barrier()) for _ in range(3)])

    @property
    def max_payload(self) -> int:
        """As the server says, once connected."""
        return 1024 * 1024 if self._client is None else self._client.max_payload

    def publish(self, subject: str, data: bytes, *, reply: str | None = None) -> None:
        client = self._client
        if client is None or not client.up:
            client = self._connected()
        client.carry(subject, data, reply)

    def publish_alone(self, subject: str, data: bytes, reply: str | None) -> bool:
        client = self._client
        if client is None or not (client.up and client.end_of_turn.quiet):
            return False
        client.carry(subject, data, reply)
        return True

    def when_turn_ends(self, work: Callable[[], None]) -> None:
        if self._client is None:
            asyncio.get_running_loop().call_soon(work)
        else:
            self._client.end_of_turn.do(work)

    def subscribe(self, subject: str, receive: Receive, *, queue: str | None = None) -> Subscribed:
        check_pattern(subject)
        if queue is not None and (not queue.isprintable() or " " in queue):
            raise ValueError(f"queue {queue!r}: no blanks and no control characters expected")
        if self._client is None or self._closing:
            raise Unavailable("the bus is closed")
        return self._client.add(subject, receive, queue)

    def receivers(self, subject: str) -> int | None:  # noqa: ARG002 - the broker knows, and does not tell
        return None

    def when_cut(self, tell: Callable[[], None]) -> None:
        self._cut.append(tell)

    def when_back(self, tell: Callable[[], None]) -> None:
        self._back.append(tell)

    def when_permitted(self, reply: str, tell: Callable[[Permissions | None], None]) -> None:
        self._inquiry = Inquiry(self, reply, tell)
        self._inquiry.begin(guarded=self._connected().guarded)

    def watch(self, subject: str) -> None:
        self._watching = Watch(self._connected(), self._every, self._looked)
        self._watching.begin(subject)

    def unready(self) -> str | None:
        if self._client is None or self._closing:
            return "the bus is closed"
        seen = self._watching.why if self._watching is not None else ""
        if not self._client.up and (self._client.why or not seen):
            return self._why_lost(self._client)
        return seen or None

    def waiting(self) -> int:
        return 0 if self._client is None else self._client.waiting()

    async def flush(self) -> None:
        """Unavailable where the connection is lost meanwhile."""
        await self._connected().barrier()

    async def close(self) -> None:
        client = self._client
        if client is None or self._closing:
            return
        self._closing = True
        if client.up:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(DRAIN):
                    client.send(b"".join(b"UNSUB %d\r\n" % sid for sid in client.subscribed()))
                    await client.barrier()
                    await client.barrier()  # what was answered to the last messages
        self._client = None
        if self._watching is not None:
            await self._watching.end()
            self._watching = None
        await client.end()

    def _connected(self) -> Connection:
        client = self._client
        if client is None:
            raise Unavailable("the bus is closed")
        if not client.up:
            raise Unavailable(self._why_lost(client))
        return client

    def _why_lost(self, client: Connection) -> str:
        text = f"the connection to {without_secrets(self.url).partition('?')[0]} is lost; it is tried again"
        return f"{text}: {client.why}" if client.why else text

    def _looked(self) -> None:
        if self._inquiry is not None:
            self._inquiry.again()

    def _is_back(self) -> None:
        if self._inquiry is not None and self._client is not None:
            self._inquiry.begin(guarded=self._client.guarded)
        self._tell_back()

    def _tell_back(self) -> None:
        for tell in self._back:
            tell()

    def _was_cut(self) -> None:
        for tell in self._cut:
            tell()


async def _seconds_of(work: Awaitable[object]) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began
