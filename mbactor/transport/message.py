"""What travels: an envelope and a body.

    payload = Message(Envelope("ask", "17", budget=2.5), b"...").to_bytes()
    [message] = messages_of(payload)

On the wire a payload is one version byte and then a msgpack array of one or more messages, each an array of envelope
and body. One message and a batch are the same format. Envelope fields are only ever appended, with a default, so
replicas of two versions understand each other; a test holds the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

import msgspec

from mbactor.errors import BadRequest

Op = Literal["ask", "tell", "publish", "reply", "error", "ack", "probe", "cancel"]
"""What a message is. A probe is for nobody: it only shows whether anybody is at an address. A cancel has the id of an
ask of the same asker, who does not want it done any more.
"""
JSON = "application/json"
MSGPACK = "application/msgpack"

_VERSION = b"\x03"
_HEAD = struct.Struct(">cBI")
_ARRAY = 0xDD
HEAD_OF_ONE = _HEAD.pack(_VERSION, _ARRAY, 1)
"""What a payload of one message has before what `Message.part` made of that."""
_SMALL = 16 * 1024
"""Bytes that are copied sooner than a view of them is made."""
OVERHEAD = _HEAD.size
"""Bytes of a payload beside its messages."""
MANY = 1024
"""Messages that a payload may have: a loop takes all of one in the same turn, and has others to serve."""


class _Nothing(dict[str, str]):
    """Stays empty, so that all envelopes can share one: a mapping for each would be a sixth of reading it."""

    def __setitem__(self, key: str, value: str) -> None:
        raise TypeError(f"{key!r} was put into what all envelopes share: expected a mapping of its own")


_NOTHING = _Nothing()


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The control fields of a message, those that most messages have first: an end of defaults need not be written.

    `id` is unique among the requests of who asks; the reply, the error and the acknowledgement of a request have the
    same. `budget` is what remains, in seconds; None is no deadline. `path` holds the ids of the asks this one is made
    for, outermost first: a receiver that finds its own running call there would wait for itself. `trace` is a W3C
    traceparent. `fragment` is (number, of how many). `replica` is who sends this, in replies, errors and
    acknowledgements, and in what a replica asks the others of its host; an ask does not say it. `queue` is, in those of
    who answers, the queue the request was taken from, or `replica@host` where that is none. `multi` says that the
    request is one to all, and of a probe that whoever does not serve its address is to say so.
    `locality` is that of who sends it, in what answers and in tells, which are acknowledged for that.
    """

    op: Op
    id: str
    budget: float | None = None
    replica: str = ""
    locality: str = ""
    content_type: str = MSGPACK
    status: int = 200
    path: tuple[str, ...] = ()
    trace: str | None = None
    identity: str | None = None
    baggage: dict[str, str] = _NOTHING
    fragment: tuple[int, int] = (1, 1)
    query: str = ""
    headers: dict[str, str] = _NOTHING
    queue: str = ""
    multi: bool = False
    host: str = ""


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An envelope and its body, as handed to and received from a bus."""

    envelope: Envelope
    body: bytes

    def part(self) -> bytes:
        """Its share of a payload: see `payload_of`."""
        return _encode(self)

    def to_bytes(self) -> bytes:
        """A payload of this message alone."""
        return HEAD_OF_ONE + _encode(self)


def ask_part(id: str, budget: float, body: bytes) -> bytes:
    """`Message.part` of an ask whose envelope says nothing more."""
    return _encode((("ask", id, budget), body))


def reply_part(id: str, replica: str, locality: str, body: bytes) -> bytes:
    """`Message.part` of a reply in msgpack whose envelope says nothing more."""
    if locality:
        return _encode((("reply", id, None, replica, locality), body))
    return _encode((("reply", id, None, replica), body))


def payload_of(parts: Sequence[bytes]) -> bytes:
    """One payload of several messages, in this order: what `Message.part` made of each."""
    return b"".join((_HEAD.pack(_VERSION, _ARRAY, len(parts)), *parts))


def messages_of(data: bytes) -> list[Message]:
    """The messages of a payload, at least one and at most `MANY`. BadRequest where the bytes are none of ours."""
    if not data.startswith(_VERSION):
        raise BadRequest(f"a payload of version {data[:1].hex() or 'none'}: expected version {_VERSION.hex()}")
    try:
        messages = _decode(data[1:] if len(data) < _SMALL else memoryview(data)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"no message of mbactor: {error}") from error
    if not messages:
        raise BadRequest("a payload without a message: expected one at least")
    if len(messages) > MANY:
        raise BadRequest(f"a payload of {len(messages)} messages: expected {MANY} at most")
    return messages


def message_of(part: bytes) -> Message:
    """What `Message.part` was made of."""
    return _decode_part(part)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode
_decode_part = msgspec.msgpack.Decoder(Message).decode
