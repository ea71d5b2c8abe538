"""What travels: an envelope and a body.

On the wire: one version byte, the envelope's length in four bytes, the envelope as a msgpack array, the
body. Envelope fields are only ever appended, with a default, so replicas of two versions understand each
other; a test holds the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

import msgspec

from mbactor.errors import BadRequest

Op = Literal["ask", "tell", "publish", "reply", "error", "ack"]
JSON = "application/json"
MSGPACK = "application/msgpack"

_VERSION = 1
_HEAD = struct.Struct(">BI")


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    """The control fields of a message. `budget` is what remains, in seconds; None is no deadline.

    `path` holds the ids of the asks this one is made for, outermost first: a receiver that finds its own
    running call there would wait for itself. `trace` is a W3C traceparent. `fragment` is (number, of how many).
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


@dataclass(frozen=True, slots=True)
class Message:
    """An envelope and its body, as handed to and received from a bus."""

    envelope: Envelope
    body: bytes

    def to_bytes(self) -> bytes:
        envelope = _encoder.encode(self.envelope)
        return b"".join((_HEAD.pack(_VERSION, len(envelope)), envelope, self.body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """BadRequest where the bytes are no message of ours."""
        try:
            version, length = _HEAD.unpack_from(data)
            end = _HEAD.size + length
            if version != _VERSION or len(data) < end:
                raise BadRequest(f"message of version {version}, {len(data)} bytes: expected version {_VERSION}, {end}")
            return cls(_decoder.decode(memoryview(data)[_HEAD.size : end]), data[end:])
        except (struct.error, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise BadRequest(f"not a message of mbactor: {error}") from error


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)
