"""What travels: an envelope and a body.

    payload = Message(Envelope("ask", "17", budget=2.5), b"...").to_bytes()
    [message] = messages_of(payload)

On the wire a payload is one version byte and then one or more messages, each of them: the envelope's length in four
bytes, the body's length in four bytes (both big-endian), the envelope as a msgpack array, the body. One message and a
batch are the same format. Envelope fields are only ever appended, with a default, so replicas of two versions
understand each other; a test holds the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import structs

from mbactor.errors import BadRequest

Op = Literal["ask", "tell", "publish", "reply", "error", "ack", "probe", "cancel"]
"""What a message is. A probe is for nobody: it only shows whether anybody is at an address. A cancel has the id of an
ask of the same asker, who does not want it done any more.
"""
JSON = "application/json"
MSGPACK = "application/msgpack"

_VERSION = b"\x02"
_HEAD = struct.Struct(">II")


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    """The control fields of a message.

    `id` is unique among the requests of who asks; the reply, the error and the acknowledgement of a request have the
    same. `budget` is what remains, in seconds; None is no deadline. `path` holds the ids of the asks this one is made
    for, outermost first: a receiver that finds its own running call there would wait for itself. `trace` is a W3C
    traceparent. `fragment` is (number, of how many). `replica` is who sends this: who answers in replies, errors and
    acknowledgements, who asks in requests. `queue` is, in those of who answers, the queue the request was taken from,
    or `replica@host` where that is none. `multi` says that the request is one to all,
    and of a probe that whoever does not serve its address is to say so.
    `locality` is that of who sends it, in what answers and in tells, which are acknowledged for that.
    """

    op: Op
    id: str
    budget: float | None = None
    path: tuple[str, ...] = ()
    trace: str | None = None
    identity: str | None = None
    baggage: dict[str, str] = {}
    status: int = 200
    fragment: tuple[int, int] = (1, 1)
    content_type: str = MSGPACK
    query: str = ""
    headers: dict[str, str] = {}
    replica: str = ""
    queue: str = ""
    locality: str = ""
    multi: bool = False
    host: str = ""


class Message(msgspec.Struct, frozen=True):
    """An envelope and its body, as handed to and received from a bus."""

    envelope: Envelope
    body: bytes

    def part(self) -> bytes:
        """Its share of a payload: see `payload_of`."""
        envelope = _encode(self.envelope)
        return b"".join((_HEAD.pack(len(envelope), len(self.body)), envelope, self.body))

    def to_bytes(self) -> bytes:
        """A payload of this message alone."""
        return _VERSION + self.part()


def ask_part(id: str, budget: float, body: bytes) -> bytes:
    """`Message.part` of an ask whose envelope says nothing more: fields with their defaults may be left out at its end,
    which makes it quicker to write and to read.
    """
    envelope = _encode(("ask", id, budget))
    return _HEAD.pack(len(envelope), len(body)) + envelope + body


class Template:
    """Parts of messages whose envelopes differ in the id only, without the defaults at their end."""

    __slots__ = ("_after", "_before", "_size")

    def __init__(self, envelope: Envelope) -> None:
        fields, plain = structs.astuple(envelope), structs.astuple(Envelope(envelope.op, envelope.id))
        told = max(at for at in range(len(fields)) if at < 2 or fields[at] != plain[at]) + 1
        whole, after = _encode(fields[:told]), b"".join(map(_encode, fields[2:told]))
        self._after = after
        self._before = whole[: len(whole) - len(after) - len(_encode(envelope.id))]
        self._size = len(self._before) + len(after)

    def part(self, id: str, body: bytes) -> bytes:
        """`Message.part` with this id."""
        named = _encode(id)
        return b"".join((_HEAD.pack(self._size + len(named), len(body)), self._before, named, self._after, body))


def payload_of(parts: Iterable[bytes]) -> bytes:
    """One payload of several messages, in this order: what `Message.part` made of each."""
    return b"".join((_VERSION, *parts))


def messages_of(data: bytes) -> list[Message]:
    """The messages of a payload, at least one. BadRequest where the bytes are none of ours."""
    if data[:1] != _VERSION:
        raise BadRequest(f"a payload of version {data[:1].hex() or 'none'}: expected version {_VERSION.hex()}")
    found, start, size = [], 1, len(data)
    view = memoryview(data)
    try:
        while True:
            envelope, body = _HEAD.unpack_from(data, start)
            start += _HEAD.size
            middle = start + envelope
            end = middle + body
            if end > size:
                raise BadRequest(f"a payload of {size} bytes that ends within a message: expected {end}")
            found.append(Message(_decode(view[start:middle]), data[middle:end]))
            start = end
            if start == size:
                return found
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"no message of mbactor: {error}") from error


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode
