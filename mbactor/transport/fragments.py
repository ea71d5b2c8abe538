"""Messages above what a bus carries at once, cut into fragments. Pure; `reassembly.py` puts them together again.

    cut = Cut(message, bus.max_payload)
    first = cut[1]                       # of cut.of

A fragment is a message of its own, whose envelope has `fragment` (number, of how many):

- The first has the envelope of the whole message, the others only its `op`, `id` and `replica`; each has a part of the
  body. All but the last have equally much of it, at least 1,024 bytes.
- The first of a request goes to the queue; whoever takes it answers at once with an `ack` that names it (`replica`).
  The others go to that replica's own address (`id-....host`). Those of an answer all go to the reply subject.
- An `ack` with `fragment` (k, n) asks for the fragments up to number k. One for a request comes to the reply subject;
  one for an answer goes to the own address of the replica that answered, at the path that was asked.
- Number 0 ends it: from the sender, no more will come; in an `ack`, no more is wanted.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from mbactor.errors import MessageTooLarge
from mbactor.transport.message import Envelope, Message, Op
from mbactor.transport.reassembly import LEAST

CHUNK = 256 * 1024
"""Bytes of the body in a fragment, where the bus carries that."""
WHOLE = (1, 1)
"""The `fragment` of a message that is not cut."""
_LENGTH = 3
"""Bytes more that the length of a body takes than that of none."""
_LONGEST = (2**31, 2**31)
"""As a `fragment`: no pair of numbers takes more bytes."""
_TOO_LITTLE = "the broker carries at most {} (its setting max_payload), which is too little for a part of it"


class Cut:
    """A message as fragments, from 1 to `of`; each is made when it is asked for, without a copy of the body.

    MessageTooLarge where the envelope alone leaves too little of `limit`.
    """

    __slots__ = ("_body", "_chunk", "_envelope", "of")

    def __init__(self, message: Message, limit: int) -> None:
        self._envelope = message.envelope
        self._body = memoryview(message.body)
        head = len(Message(replace(message.envelope, fragment=_LONGEST), b"").to_bytes()) + _LENGTH
        self._chunk = min(CHUNK, limit - head)
        if self._chunk < LEAST:
            raise MessageTooLarge(head + len(self._body), limit, _TOO_LITTLE)
        self.of = -(-len(self._body) // self._chunk)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self._body)

    def __getitem__(self, number: int) -> Message:
        start, whole, fragment = (number - 1) * self._chunk, self._envelope, (number, self.of)
        part: Any = self._body[start : start + self._chunk]
        envelope = replace(whole, fragment=fragment) if number == 1 else self._short(whole.op, number)
        return Message(envelope, part)

    def last_word(self) -> Message:
        """No more will come."""
        return Message(self._short(self._envelope.op, 0), b"")

    def _short(self, op: Op, number: int) -> Envelope:
        whole = self._envelope
        return Envelope(op, whole.id, fragment=(number, self.of), replica=whole.replica)
