"""A bus lent to another process over a socket: the hub is with the bus, each other process has a `LinkBus`.

    ours, theirs = socket.socketpair()
    port = await Hub(LocalBus()).attach(ours)       # in the process with the bus
    bus = LinkBus(theirs)                            # in the other one
    await bus.connect()

A link keeps the contract of `Bus` as it is. What it adds is what a process may do to a message: one that does not read
gets no more of them once `FULL` bytes wait for it (requests are refused then, and may be repeated), and when one dies,
whoever asked it is told at once that the request is lost. The subjects it served stay reserved until `Port.release`:
a request to them is refused, as by somebody who will be back, and not answered with "nobody serves this".

On the wire: the length in four bytes, then a msgpack array whose first element says what it is.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Protocol, cast

import msgspec
from msgspec.structs import replace

from mbactor.errors import BadRequest, Unavailable
from mbactor.transport.bus import Bus, Delivery, Failure, Receive, Reservation, Subscription, check_pattern
from mbactor.transport.message import Message, Op, messages_of, payload_of
from mbactor.transport.permissions import Permissions

FULL = 64 * 1024 * 1024
"""Bytes that may wait for a process that does not read."""
MAX_PAYLOAD = 1024 * 1024 * 1024
BURST = 1024 * 1024
"""Bytes that are kept until the end of a turn of the loop; more are written at once, and count as waiting."""
AGED = 0.01
"""Seconds on the way that count: so much less time is there for the answer."""
_LENGTH = struct.Struct(">I")
_PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE, _DELIVER, _PING, _PONG, _RESERVE, _RELEASE, _FAIL, _HOLD, _REFUSED = range(11)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Lendable(Bus, Protocol):
    """A bus that a hub can lend out."""

    def reserve(self, subject: str) -> Reservation:
        """Whoever served a subject will be back: refuse requests that find nobody there."""
        ...

    def fail(self, reply: str, failure: Failure) -> None:
        """Tell whoever waits for an answer that there will be none, in turn with what is published."""


class _Wire(asyncio.Protocol):
    """Frames in and out. What is sent within one turn of the loop leaves in one write."""

    def __init__(self, take: Callable[[list[Any]], None], lost: Callable[[], None]) -> None:
        self.open = False
        self.full = False
        self._take = take
        self._lost = lost
        self._transport: asyncio.Transport
        self._in = bytearray()
        self._out: list[bytes] = []
        self._size = 0
        self._gone = asyncio.Event()

    async def connect(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def send(self, *frame: Any) -> None:
        if not self.open:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._write)
        data = _encode(frame)
        self._out += (_LENGTH.pack(len(data)), data)
        self._size += len(data)
        if self._size >= BURST:
            self._write()

    def waiting(self) -> int:
        """Bytes that have not left yet."""
        return self._size + self._transport.get_write_buffer_size() if self.open else 0

    async def close(self) -> None:
        """Send what is to be sent, and end."""
        if self.open:
            self._write()
            self._transport.close()
            await self._gone.wait()

    async def abort(self) -> None:
        if self.open:
            self._transport.abort()
            await self._gone.wait()

    def _write(self) -> None:
        out, self._out, self._size = self._out, [], 0
        if out and self.open:
            self._transport.write(b"".join(out))

    # --- what asyncio calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=FULL)
        self.open = True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def data_received(self, data: bytes) -> None:
        buffer = self._in
        buffer += data
        start, size = 0, len(buffer)
        while size - start >= _LENGTH.size:
            end = start + _LENGTH.size + _LENGTH.unpack_from(buffer, start)[0]
            if end > size:
                break
            with memoryview(buffer) as view:
                frame = _decode(view[start + _LENGTH.size : end])
            start = end
            self._take(frame)
        if start:
            del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name is asyncio's
        self.open = False
        self._in.clear()
        self._lost()
        self._gone.set()


# --- in the process with the bus ----------------------------------------------------------------------------------


class Hub:
    """Lends a bus to other processes."""

    def __init__(self, bus: Lendable) -> None:
        self._bus = bus

    async def attach(self, sock: socket.socket) -> Port:
        """Serve the process at the other end of a connected socket, until that is closed."""
        port = Port(self._bus)
        await port.wire.connect(sock)
        return port


class Port:
    """One process at a hub: it subscribes, publishes and receives through this."""

    def __init__(self, bus: Lendable) -> None:
        self.wire = _Wire(self._take, self._lost)
        self._bus = bus
        self._subscriptions: dict[int, tuple[str, Subscription]] = {}
        self._reserved: dict[int | str, Reservation] = {}
        self._asked: dict[str, None] = {}
        """The reply subjects of asks that the process has and has not answered."""
        self._flushes: set[asyncio.Task[None]] = set()
        self._released = False

    def reserve(self) -> None:
        """The process is going to be restarted: what it serves stays reserved when it goes."""
        for subject, _ in self._subscriptions.values():
            if subject not in self._reserved:
                self._reserved[subject] = self._bus.reserve(subject)

    async def close(self) -> None:
        """End the link; what the process served stays reserved."""
        await self.wire.abort()

    def release(self) -> None:
        """Nobody will serve its subjects again, or somebody else does so already."""
        self._released = True
        for reservation in self._reserved.values():
            reservation.release()
        self._reserved.clear()

    def _take(self, frame: list[Any]) -> None:  # noqa: C901 - a case a frame
        match frame:
            case [0, subject, reply, data, at]:
                if subject in self._asked and not _has(data, "ack"):
                    del self._asked[subject]
                data = _aged(reply, data, at)
                with suppress(Unavailable):  # the bus is being closed around us
                    self._bus.publish(subject, data, reply=reply)
            case [1, number, subject, queue]:
                made = self._bus.subscribe(subject, partial(self._deliver, number), queue=queue)
                self._subscriptions[number] = (subject, made)
            case [2, number]:
                if number in self._subscriptions:
                    self._subscriptions.pop(number)[1].unsubscribe()
            case [4, number]:
                flush = asyncio.get_running_loop().create_task(self._flush(number))
                self._flushes.add(flush)
                flush.add_done_callback(self._flushes.discard)
            case [6, number, subject]:
                self._reserved[number] = self._bus.reserve(subject)
            case [7, number]:
                if number in self._reserved:
                    self._reserved.pop(number).release()
            case [8, reply, failure]:
                self._asked.pop(reply, None)
                self._bus.fail(reply, failure)
            case [9]:
                self.reserve()
            case _:
                raise BadRequest(f"{frame!r} is no frame of a link")

    async def _flush(self, number: int) -> None:
        lost = None
        try:
            await self._bus.flush()
        except Unavailable as error:
            lost = error.message
        for refused, (_, subscription) in self._subscriptions.items():
            if subscription.refused is not None:
                self.wire.send(_REFUSED, refused, subscription.refused)
        self.wire.send(_PONG, number, lost)

    def _deliver(self, number: int, delivery: Delivery) -> None:
        reply = delivery.reply
        if reply is not None:
            if self.wire.full:
                self._bus.fail(reply, "refused")
                return
            if _has(delivery.data, "ask"):
                self._asked[reply] = None
        at = time.monotonic()
        self.wire.send(_DELIVER, number, delivery.subject, reply, delivery.failure, delivery.data, at)

    def _lost(self) -> None:
        for flush in self._flushes:
            flush.cancel()
        if not self._released:
            self.reserve()
        for _, subscription in self._subscriptions.values():
            subscription.unsubscribe()
        self._subscriptions.clear()
        for reply in self._asked:
            self._bus.fail(reply, "lost")
        self._asked.clear()


def _has(data: bytes, op: Op) -> bool:
    """Whether somebody waits for an answer: a tell has a reply subject as well, for the news that nobody is there. An
    acknowledgement is none.
    """
    try:
        return any(message.envelope.op == op for message in messages_of(data))
    except BadRequest:
        return False


def _aged(reply: str | None, data: bytes, at: float) -> bytes:
    """The message, with less time to be answered in where it was on the way for long: a process may have been stopped,
    or its loop blocked. Both processes have the same monotonic clock.
    """
    waited = time.monotonic() - at
    if reply is None or waited < AGED:
        return data
    try:
        messages = messages_of(data)
    except BadRequest:
        return data
    return payload_of([_older(message, waited).part() for message in messages])


def _older(message: Message, waited: float) -> Message:
    budget = message.envelope.budget
    if budget is None:
        return message
    return Message(replace(message.envelope, budget=budget - waited), message.body)


# --- in the other process -----------------------------------------------------------------------------------------


class LinkBus:
    """The bus of another process, at the other end of a connected socket."""

    max_payload = MAX_PAYLOAD
    tells_all = True
    round_trip = 0.0

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._wire = _Wire(self._take, self._lost)
        self._numbers = count(1)
        self._subscriptions: dict[int, _Subscription] = {}
        self._pongs: dict[int, asyncio.Future[str | None]] = {}
        self._cut: list[Callable[[], None]] = []
        self._closed = False

    async def connect(self) -> None:
        await self._wire.connect(self._socket)

    def publish(self, subject: str, data: bytes, *, reply: str | None = None) -> None:
        if self._closed or not self._wire.open:
            raise Unavailable("the bus is closed")
        if reply is not None and self._wire.full:
            raise Unavailable(f"the process with the bus does not read: {FULL} bytes wait for it")
        self._wire.send(_PUBLISH, subject, reply, data, time.monotonic())

    def publish_alone(self, subject: str, data: bytes, reply: str | None) -> bool:  # noqa: ARG002 - all leaves later
        return False

    def subscribe(self, subject: str, receive: Receive, *, queue: str | None = None) -> _Subscription:
        check_pattern(subject)
        made = _Subscription(self, next(self._numbers), receive)
        self._subscriptions[made.number] = made
        self._wire.send(_SUBSCRIBE, made.number, subject, queue)
        return made

    def receivers(self, subject: str) -> int | None:  # noqa: ARG002 - the process with the bus knows
        return None

    def when_back(self, tell: Callable[[], None]) -> None:
        """Never: what is cut stays so."""

    def when_permitted(self, reply: str, tell: Callable[[Permissions | None], None]) -> None:
        """Nobody restricts it: what is lent has no broker. Where there is one, each process has its own connection."""

    def when_cut(self, tell: Callable[[], None]) -> None:
        self._cut.append(tell)

    def watch(self, subject: str) -> None:
        """The process with the bus watches that; the way to it is one within this machine."""

    def unready(self) -> str | None:
        return None if self._wire.open and not self._closed else "the process with the bus is gone"

    def when_turn_ends(self, work: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(work)

    def waiting(self) -> int:
        return self._wire.waiting()

    async def flush(self) -> None:
        if not self._wire.open:
            return
        lost = await self._ping()
        if lost is not None:
            raise Unavailable(lost)

    def _ping(self) -> asyncio.Future[str | None]:
        """Set when all that was sent before has reached the bus, to why it has not."""
        number = next(self._numbers)
        pong = self._pongs[number] = asyncio.get_running_loop().create_future()
        self._wire.send(_PING, number)
        return pong

    async def close(self) -> None:
        if self._closed:
            return
        with suppress(Unavailable):
            await self.flush()
        self._closed = True
        self._subscriptions.clear()
        await self._wire.close()

    def reserve(self, subject: str) -> Reservation:
        number = next(self._numbers)
        self._wire.send(_RESERVE, number, subject)
        return _Reservation(self, number)

    def fail(self, reply: str, failure: Failure) -> None:
        self._wire.send(_FAIL, reply, failure)

    def hold(self) -> None:
        """This process ends, and another may be started in its place: what it serves stays reserved."""
        self._wire.send(_HOLD)

    def let_go(self, verb: int, number: int) -> None:
        self._wire.send(verb, number)
        if not self._wire.open:
            self._subscriptions.pop(number, None)
        elif number in self._subscriptions:  # what is on its way is handed over still
            self._ping().add_done_callback(lambda _: self._subscriptions.pop(number, None))

    def _take(self, frame: list[Any]) -> None:
        match frame:
            case [3, number, subject, reply, failure, data, at]:
                subscription = self._subscriptions.get(number)
                if subscription is not None:
                    subscription.receive(Delivery(subject, _aged(reply, data, at), reply, failure))
            case [5, number, lost]:
                pong = self._pongs.pop(number)
                if not pong.done():
                    pong.set_result(lost)
            case [10, number, why]:
                if number in self._subscriptions:
                    self._subscriptions[number].refused = why
            case _:
                raise BadRequest(f"{frame!r} is no frame of a link")

    def _lost(self) -> None:
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_result(None)
        self._pongs.clear()
        for tell in self._cut:
            tell()


class _Subscription:
    __slots__ = ("_bus", "number", "receive", "refused")

    def __init__(self, bus: LinkBus, number: int, receive: Receive) -> None:
        self._bus = bus
        self.number = number
        self.receive = receive
        self.refused: str | None = None

    def unsubscribe(self) -> None:
        self._bus.let_go(_UNSUBSCRIBE, self.number)


class _Reservation:
    __slots__ = ("_bus", "_number")

    def __init__(self, bus: LinkBus, number: int) -> None:
        self._bus = bus
        self._number = number

    def release(self) -> None:
        self._bus.let_go(_RELEASE, self._number)
