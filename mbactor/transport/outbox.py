"""What leaves within one turn of the loop: messages for one subject travel together.

Each message that a broker carries costs it, its sender and its receiver more than what is in it, so the messages of one
turn are gathered to payloads of at most `MOST` messages and `BYTES` bytes. A payload goes to one replica, which is why
it is not larger: others shall have their share. The messages for one key (a host) leave in the order in which they
came: a message for another subject of the host begins a new payload, and so does the next one for the first subject.
In a long turn `SOON` messages leave without waiting for its end, so that both sides work at the same time. Where the
bus is quiet, and the last turn had not many, a message leaves at once: it is hardly followed by others.
"""

from __future__ import annotations

from collections.abc import Callable

from mbactor.errors import MbactorError, MessageTooLarge
from mbactor.transport.bus import Bus
from mbactor.transport.message import HEAD_OF_ONE, OVERHEAD, payload_of

MOST, BYTES = 64, 64 * 1024
SOON = 128
"""Messages that leave before the end of the turn: others work on them while the rest is made."""
AT_ONCE = 16 * 1024
"""Payloads of which it is remembered what travelled in them."""


class Batch:
    """Messages for one subject; `ids` are those of their envelopes."""

    __slots__ = ("ids", "most", "parts", "reply", "room", "same", "size", "subject")

    def __init__(self, same: str, subject: str, reply: str | None, id: str, part: bytes, most: int, room: int) -> None:
        self.most = most
        self.room = room
        self.same = same
        self.subject = subject
        self.reply = reply
        self.ids = [id]
        self.parts = [part]
        self.size = len(part)


class Together:
    """Which requests have left in one payload: what the bus says of the first of them, it says of all.

    Remembered until `age` was called twice, or `AT_ONCE` payloads have left since.
    """

    def __init__(self) -> None:
        self._young: dict[str, list[str]] = {}
        self._old: dict[str, list[str]] = {}

    def left(self, ids: list[str]) -> None:
        """These have left in one payload, at the reply subject of the first."""
        if len(self._young) >= AT_ONCE:
            self.age()
        self._young[ids[0]] = ids

    def take(self, id: str) -> list[str]:
        """Those that left in the payload of which this is the first; it alone where it is not. They are forgotten."""
        return self._young.pop(id, None) or self._old.pop(id, None) or [id]

    def age(self) -> None:
        self._old, self._young = self._young, {}


class Outbox:
    """Gathers what leaves over a bus; or sends it at once, where `gather` is not set.

    `sent` is told of the messages that have left in one payload, by their ids: what the bus says of it is said of all
    of them, at the reply subject of the first. `unsent` is told of those that could not leave. `most` says how many may
    travel together for a key.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        gather: bool,
        sent: Callable[[list[str]], None],
        unsent: Callable[[Batch, MbactorError], None],
        most: Callable[[str], int] = lambda _: MOST,
    ) -> None:
        self._most = most
        self._bus = bus
        self._gather = gather
        self._sent = sent
        self._unsent = unsent
        self._open: dict[str, Batch] = {}
        self._batches: list[Batch] = []
        self._gathered = 0
        self._ending = False
        """Whether the end of this turn is waited for."""
        self._let_go = 0
        """Messages of this turn that have waited for its end, and left."""
        self._many = True
        """Whether they were several in the last turn that had an end, or may be in the first; True where nothing is
        gathered, for no turn has an end then.
        """

    def put(self, key: str, same: str, subject: str, inbox: str | None, id: str, part: bytes) -> None:
        """Send a message at the end of this turn, together with others that have the `same`. What answers the first of
        them goes to `inbox` and its id.

        MessageTooLarge at once; what else is wrong is told `unsent`, or raised where it is sent at once.
        """
        if not (self._many or self._batches):
            try:
                if self._bus.publish_alone(subject, HEAD_OF_ONE + part, None if inbox is None else inbox + id):
                    return
            except MessageTooLarge:
                raise
            except MbactorError:
                pass  # told at the end of the turn: whoever sends it does not know of it yet
        if self._gathered >= SOON:
            self.flush()  # before this one, of which whoever sends it does not know yet that it has left
        batch = self._open.get(key)
        if batch is not None and batch.same == same:
            parts, size = batch.parts, batch.size + len(part)
            if size <= batch.room and len(parts) < batch.most:
                batch.size = size
                parts.append(part)
                batch.ids.append(id)
                self._gathered += 1
                return
        reply = None if inbox is None else inbox + id
        if not self._gather:
            self._bus.publish(subject, HEAD_OF_ONE + part, reply=reply)
            return
        self._begin(key, same, subject, reply, id, part)

    def _begin(self, key: str, same: str, subject: str, reply: str | None, id: str, part: bytes) -> None:
        """A message that waits for the end of the turn, and may be joined by others."""
        limit = self._bus.max_payload
        if len(part) + OVERHEAD > limit:
            raise MessageTooLarge(len(part) + OVERHEAD, limit)
        batch = Batch(same, subject, reply, id, part, self._most(key), min(BYTES, limit - OVERHEAD))
        if not self._ending:
            self._ending = True
            self._bus.when_turn_ends(self._turn_ended)
        self._open[key] = batch
        self._batches.append(batch)
        self._gathered += 1

    def _turn_ended(self) -> None:
        self._many, self._ending = self._let_go + self._gathered > 1, False
        self.flush()
        self._let_go = 0

    def flush(self) -> None:
        """Let go of what is here."""
        if not self._batches:
            return
        self._let_go += self._gathered
        batches, self._batches, self._open, self._gathered = self._batches, [], {}, 0
        for batch in batches:
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        try:
            self._bus.publish(batch.subject, payload_of(batch.parts), reply=batch.reply)
        except MbactorError as error:
            self._unsent(batch, error)
        else:
            if len(batch.ids) > 1:
                self._sent(batch.ids)
