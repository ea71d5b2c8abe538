"""What a node owes to those who ask it over the bus: an answer, and an acknowledgement where that takes longer.

An answer leaves at once, and is the acknowledgement of its request when it does so soon. What is not answered within
an eighth of the ack window is acknowledged by one sweep over all of them; a request to all (`multi`) is acknowledged on
arrival, for its asker goes by that, and so is the first fragment of a larger one (`parts.py`).

What is answered while the bus is cut off here leaves when it is back: whoever asked need not have been cut off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from mbactor.errors import ActorStopped, MessageTooLarge, NodeLeaving, Unavailable, to_wire
from mbactor.kernel.client import BytesCall
from mbactor.kernel.feature import EVERY
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus
from mbactor.transport.codec import packed
from mbactor.transport.headers import passed_on
from mbactor.transport.message import JSON, MSGPACK, Envelope, Message, Op, reply_part
from mbactor.transport.outbox import BYTES, Outbox
from mbactor.transport.responders import private_queue

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.routes import Route

ACCEPTED = 202
"""The status of an acknowledgement."""
MOST_KEPT, BYTES_KEPT = 1024, 16 * 1024 * 1024
"""So many answers are kept while the bus is cut off, and so much of them."""


class Kept:
    """What could not leave while the bus was cut off: it does when that is back, the latest of it. Who was cut off as
    well waits for it no more, and drops it.
    """

    def __init__(self, bus: Bus) -> None:
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._bytes = 0
        bus.when_back(self.leave)

    def add(self, size: int, send: Callable[[], None]) -> None:
        """Call `send` then, which sends so many bytes."""
        self._waiting.append((size, send))
        self._bytes += size
        while len(self._waiting) > MOST_KEPT or self._bytes > BYTES_KEPT:
            self._bytes -= self._waiting.popleft()[0]

    def clear(self) -> None:
        """Nothing of it will leave."""
        self._waiting.clear()
        self._bytes = 0

    def leave(self) -> None:
        """The bus is back."""
        waiting = [send for _, send in self._waiting]
        self.clear()
        for send in waiting:
            # The bus is cut again, or carries less by now than an envelope needs: whoever still waits goes by its time
            # budget.
            with suppress(Unavailable, MessageTooLarge):
                send()


class Answers:
    """The asks of other nodes that this one has taken; with `window`, those not answered soon are acknowledged."""

    def __init__(
        self,
        bus: Bus,
        window: float,
        publish: Callable[[str, Message], None],
        outbox: Outbox,
        kept: Kept,
        largest: int,
    ) -> None:
        self._bus = bus
        self._outbox = outbox
        self._kept = kept
        self._publish = publish
        self._small = min(BYTES, largest + 1)
        self._after = window / 8
        self._open: dict[Answer, float] = {}
        """Those that are neither answered nor acknowledged, and when they came."""
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._open.clear()
        self._kept.clear()

    def owe(self, answer: Answer, now: float) -> None:
        """An ask has been taken."""
        if answer.at_once:
            self.acknowledge(answer)
        else:
            self.book()[answer] = now

    def book(self) -> dict[Answer, float]:
        """Where an ask that was taken, and goes by no acknowledgement, is noted with the time."""
        if self._bus.tells_all:
            return {}  # whose asker needs none
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._after, self._sweep)
        return self._open

    def give(self, answer: Answer, message: Message) -> None:
        self._open.pop(answer, None)
        try:
            self._publish(answer.reply, message)
        except Unavailable:  # the bus was closed, or cut off, meanwhile
            self._kept.add(len(message.body), partial(self._publish, answer.reply, message))

    def reply(self, answer: Answer, body: bytes) -> bool:
        """Give a result in msgpack; False where that has to be done by `give`."""
        if answer.queue or len(body) >= self._small:
            return False
        inbox = answer.inbox
        part = reply_part(answer.request, answer.replica, answer.cell.node.locality, body)
        try:
            self._outbox.put(inbox, inbox, answer.reply, None, "", part)
        except MessageTooLarge:
            return False
        except Unavailable:
            return False
        self._open.pop(answer, None)
        answer.given = True
        return True

    def forget(self, answer: Answer) -> None:
        """Whoever asked does not wait any more."""
        self._open.pop(answer, None)
        answer.given = True

    def acknowledge(self, answer: Answer) -> None:
        """Say that it was taken, and where."""
        self.give(answer, Message(answer.envelope("ack", JSON, ACCEPTED), b""))

    def _sweep(self) -> None:
        """Acknowledge what is older than a sweep."""
        loop = asyncio.get_running_loop()
        before = loop.time() - self._after
        for answer, came in list(self._open.items()):
            if came > before:
                break
            del self._open[answer]
            self.acknowledge(answer)
        self._timer = loop.call_later(self._after, self._sweep) if self._open else None


class Answer(msgspec.Struct, eq=False):
    """Stands where the future of a local ask would: what it is set to is published, to the asker's inbox."""

    answers: Answers
    reply: str
    inbox: str
    """What the reply subjects of an asker have in common: answers that leave together may take any of them."""
    request: str
    """The id that the answer has to have."""
    cell: Cell
    replica: str
    """Who answers."""
    at_once: bool = False
    """Whether the asker goes by the acknowledgement."""
    queue: str = ""
    """The one that it was taken from, where it is a request to all."""
    given: bool = False

    def envelope(self, op: Op, content_type: str, status: int = 200) -> Envelope:
        """That of a message to whoever asked."""
        cell = self.cell
        return Envelope(
            op, self.request, status=status, content_type=content_type, replica=self.replica, queue=self.queue,
            locality=cell.node.locality, host=(cell.cls.host or "") if self.queue else "",
        )  # fmt: skip

    def error(self, error: BaseException) -> Message:
        """The message that answers with an error."""
        wire = to_wire(error)
        return Message(self.envelope("error", JSON, wire["statusCode"]), msgspec.json.encode(wire))

    def done(self) -> bool:
        return self.given

    def set_result(self, message: Message) -> None:
        self.answers.give(self, message)
        self.given = True


class BusCall(BytesCall, eq=False, kw_only=True):
    """A call that came over the bus; the answer is published to the asker's inbox, with the request's id."""

    @classmethod
    def of(
        cls, route: Route | None, cell: Cell, message: Message, now: float, deadline: float, answer: Any = None
    ) -> BusCall:
        """The call that a message makes: a tell, unless an answer is owed. Its route may have to be found yet."""
        envelope = message.envelope
        found: Any = route
        return cls(
            found, None, cell, now, None, None, deadline, answer, None, None, envelope.trace,
            envelope.baggage or None, body=message.body, content_type=envelope.content_type, query=envelope.query,
            token=envelope.identity, passed=passed_on(envelope.headers) if envelope.headers else None,
        )  # fmt: skip

    def find(self, address: Address) -> None:
        """Find its route, and its arguments that are in the path. Raises as `Routes.find`.

        The bus may have brought it for `/orders/{id}` where there is `/orders/all`: that is in the same queue.
        """
        self.route = self.cell.routes.find(address)
        if self.route.open:
            self.query = self.route.query(address.path, self.query)

    def answer(self, value: Any) -> bool:
        owed: Any = self.future
        if owed is None or owed.given or type(value) not in self.route.returns or self.content_type != MSGPACK:
            return super().answer(value)
        # As above, for nearly all there are.
        try:
            body = packed(value)
        except Exception:  # noqa: BLE001 - what is wrong, or goes as another content type, the long way says
            return super().answer(value)
        return owed.answers.reply(owed, body) or super().answer(value)

    def _result(self, body: bytes, content_type: str) -> Any:
        return Message(self._owed.envelope("reply", content_type), body)

    @property
    def _owed(self) -> Answer:
        answer: Any = self.future
        return answer  # type: ignore[no-any-return]

    def fail(self, error: BaseException) -> None:
        if isinstance(error, ActorStopped) and error.taken == "no" and self.cell.node.stopping:
            error = NodeLeaving(self.cell.address)
        if self.future is not None and not self.future.done():
            try:
                self.future.set_result(self._error(error))
            except MessageTooLarge as too_large:
                too_large.taken = getattr(error, "taken", "yes")
                # Its traceback has the text that was too large.
                self.future.set_result(self._error(too_large.with_traceback(None)))

    def _error(self, error: BaseException) -> Any:
        return self._owed.error(error)


def inbox_of(reply: str) -> str:
    """A reply subject without its last token, which differs by request."""
    return reply.rpartition(".")[0]


def queue_of(route: Route, cell: Cell) -> str:
    """The queue from which a cell takes the messages of a route; a name of its own where that is none."""
    queue, host = route.feature.queue, cell.cls.host or ""
    return private_queue(cell.replica, host) if queue == EVERY else queue or host
