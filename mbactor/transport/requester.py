"""Request and reply over a bus: one inbox subscription, a unique token a request, one sweep for deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import cast

import msgspec

from mbactor.errors import ActorCrashed, BudgetSpent, MbactorError, NoSuchActor, NotAcknowledged, Unavailable, from_wire
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.bus import Bus, Delivery, Failure, Subscription
from mbactor.transport.codec import decode
from mbactor.transport.deadlines import Deadlines
from mbactor.transport.message import Message

_NOBODY_WITHIN = 2.0
"""Seconds for which a bus may take to say that nobody was there for a message without an answer."""


class _Waiting(asyncio.Future[Message]):
    address: Address
    token: str


class Requester:
    """Sends requests for one node and gives each its answer.

    A request nobody serves fails at once with NoSuchActor, one that is not taken now with Unavailable, one whose
    receiver's process dies with ActorCrashed, one whose deadline passes with BudgetSpent, one that is on its way when
    the bus is cut off from the others with NotAcknowledged; an error answer is raised as the type it was. An answer
    that comes too late is dropped and counted in `late`.
    """

    def __init__(self, bus: Bus, plane: str, node: str) -> None:
        self._bus = bus
        self._plane = plane
        self._node = node
        self._tokens = count(1)
        self._waiting: dict[str, _Waiting] = {}
        self._deadlines = Deadlines(self._expired)
        self._inbox: Subscription | None = None
        bus.when_cut(self._cut)
        self.late = 0

    def open(self) -> None:
        """Subscribe to the node's inbox."""
        self._inbox = self._bus.subscribe(subjects.inbox_pattern(self._plane, self._node), self._receive)

    def close(self) -> None:
        """End the inbox; whoever still waits gets an error."""
        if self._inbox is not None:
            self._inbox.unsubscribe()
            self._inbox = None
        self._deadlines.close()
        for waiting in list(self._waiting.values()):
            _settle(waiting, MbactorError("the node was stopped while it waited for the answer", status=503))

    def request(self, source: str, address: Address, message: Message, deadline: float) -> asyncio.Future[Message]:
        """Publish and return the future of the answer. AddressTooLong and Unavailable are raised at once."""
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        subject = subjects.request_subject(self._plane, source, address)
        reply = subjects.reply_subject(self._plane, address.host, source, self._node, token)
        waiting = _Waiting(loop=loop)
        waiting.address, waiting.token = address, token
        self._bus.publish(subject, message.to_bytes(), reply=reply)
        self._waiting[token] = waiting
        waiting.add_done_callback(self._forget)
        self._deadlines.add(deadline, waiting, loop.time())
        return waiting

    def send(self, source: str, address: Address, message: Message, lost: Callable[[MbactorError], None]) -> None:
        """Publish without waiting; `lost` is called when the bus says that nobody took it."""
        now = asyncio.get_running_loop().time()
        waiting = self.request(source, address, message, now + _NOBODY_WITHIN)
        waiting.add_done_callback(lambda done: _tell_loss(done, lost))

    def _receive(self, delivery: Delivery) -> None:
        waiting = self._waiting.get(delivery.subject.rpartition(".")[2], None)
        if waiting is None or waiting.done():
            self.late += 1
            return
        if delivery.failure is not None:
            waiting.set_exception(_failed(waiting.address, delivery.failure))
            return
        try:
            message = Message.from_bytes(delivery.data)
            if message.envelope.op == "error":
                wire = decode(message.body, message.envelope.content_type, dict[str, object])
                waiting.set_exception(from_wire(wire))
            else:
                waiting.set_result(message)
        except (MbactorError, msgspec.MsgspecError) as error:
            waiting.set_exception(error)

    def _cut(self) -> None:
        for waiting in list(self._waiting.values()):
            text = f"{waiting.address}: the connection was lost before the answer came; it may have been taken"
            _settle(waiting, NotAcknowledged(text))

    def _forget(self, waiting: asyncio.Future[Message]) -> None:
        self._waiting.pop(cast("_Waiting", waiting).token, None)

    def _expired(self, waiting: _Waiting) -> None:
        _settle(waiting, BudgetSpent(f"{waiting.address} did not answer within the time budget"))


def _tell_loss(done: asyncio.Future[Message], lost: Callable[[MbactorError], None]) -> None:
    error = None if done.cancelled() else done.exception()
    if isinstance(error, NoSuchActor | Unavailable):
        lost(error)


def _failed(address: Address, failure: Failure) -> MbactorError:
    match failure:
        case "no_responders":
            return NoSuchActor(str(address))
        case "refused":
            return Unavailable(f"{address} takes no messages now: its process is being restarted, or does not read")
        case "lost":
            error = ActorCrashed(f"{address}: the process that had the message has died")
            error.taken = "unknown"
            return error


def _settle(waiting: _Waiting, error: MbactorError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
