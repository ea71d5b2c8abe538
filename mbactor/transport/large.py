"""What a requester does with requests and answers that go in fragments (`fragments.py` has the rules).

The first fragment of a request goes where the request goes, the others to whoever acknowledges it; where that are many,
to each of them. Of answers it pulls what comes of them, and its waiter sees one message.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from mbactor.errors import AddressTooLong, MbactorError, Unavailable, to_wire
from mbactor.transport import subjects
from mbactor.transport.address import Address
from mbactor.transport.ask import Ask
from mbactor.transport.bus import Bus, Delivery
from mbactor.transport.fragments import WHOLE, Cut
from mbactor.transport.message import JSON, Envelope, Message
from mbactor.transport.transfers import Transfer, Transfers
from mbactor.transport.waiting import Waiter

_NOBODY = "part"
"""As the last token of a reply subject: no request has this id."""
_BROKEN = 1024
"""How many requests are remembered that broke off."""
KEPT = 256 * 1024 * 1024
"""Bytes of requests that are kept although all of them has left, to be sent again where they turn out not to have been
taken.
"""


class Large:
    """The requests and answers of one node that go in fragments."""

    def __init__(
        self, bus: Bus, plane: str, node: str, transfers: Transfers, answered: Callable[[Waiter, Message], None]
    ) -> None:
        self.answered = answered
        self._bus = bus
        self._plane = plane
        self._node = node
        self._transfers = transfers
        self._broken: dict[str, Broken] = {}
        """Requests by id of which not all has left, and that nobody goes on with; the oldest first."""
        self._kept: dict[str, int] = {}
        """Bytes, by id, of requests all of which has left."""
        self._room = KEPT

    # --- requests -------------------------------------------------------------------------------------------------

    def asked(self, source: str, reply: str, cut: Cut, waiter: Waiter, *, multi: bool) -> None:
        """The first fragment has left; the others wait until somebody takes it."""
        while self._transfers.take(f"{_key(waiter.id)}.") is not None:
            pass  # it is sent again: who had begun to take it gets no more
        self._broken.pop(waiter.id, None)
        self._let_go(waiter.id)
        asked = Asked(cut, source, reply, waiter, self._broke_off, self._has_left, multi=multi)
        self._transfers.start(_key(waiter.id), asked)

    def pulled(self, ack: Envelope) -> bool:
        """A replica asks for more of a request; whether for the first time. Where nobody waits for the answer any more,
        it is told so.
        """
        key = f"{_key(ack.id)}.{ack.replica}"
        begins = self._transfers.find(key) is None and self._begin(key, ack)
        self._transfers.pull(key, ack.fragment[0])
        return begins

    def _begin(self, key: str, ack: Envelope) -> bool:
        asked = self._transfers.find(_key(ack.id))
        if not isinstance(asked, Asked) or not ack.replica or ack.replica in asked.takers:
            return False
        try:
            subject = self._to(asked, ack)
        except AddressTooLong:  # nobody can be called so
            return False
        asked.takers.add(ack.replica)
        if not asked.multi:
            self._transfers.end(_key(ack.id))
        # One of many that is gone must not read as "nobody is there".
        reply = asked.reply
        if asked.multi and reply is not None:
            reply = f"{reply.rpartition('.')[0]}.{_NOBODY}"
        self._transfers.start(key, Taken(asked, subject, reply))
        return True

    def unwanted_pull(self, ack: Envelope) -> None:
        """As `pulled`, of a request that nobody waits for any more: whoever asks for the rest of it is told that no
        more will come. It may have begun with the first fragment when the others were given up, or lost, already.
        """
        if self._transfers.has(_key(ack.id)):
            self.pulled(ack)
            return
        broken = self._broken.get(ack.id)
        if broken is not None and ack.replica and ack.fragment[0]:
            with suppress(Unavailable, AddressTooLong):  # the bus is cut again; or nobody can be called so
                self._bus.publish(self._to(broken, ack), broken.word, reply=broken.reply)

    def _to(self, request: Asked | Broken, ack: Envelope) -> str:
        """Where who has taken a request gets the rest of it. AddressTooLong."""
        own = _own(request.address, ack, multi=request.multi)
        return subjects.request_subject(self._plane, request.source, own)

    def _broke_off(self, asked: Asked) -> None:
        while len(self._broken) >= _BROKEN:
            del self._broken[next(iter(self._broken))]
        reply = f"{(asked.reply or '').rpartition('.')[0]}.{_NOBODY}"
        word = asked.cut.last_word().to_bytes()
        self._broken[asked.waiter.id] = Broken(asked.source, asked.address, reply, word, asked.multi)

    def _has_left(self, ask: Ask, size: int) -> None:
        if size > self._room:
            ask.message = None
            return
        self._room -= size
        self._kept[ask.id] = size
        ask.future.add_done_callback(lambda _: self._let_go(ask.id))

    def _let_go(self, id: str) -> None:
        self._room += self._kept.pop(id, 0)

    def gone(self, waiter: Waiter) -> Unavailable | None:
        """The bus says that nobody was there for a message: the error, where that was a fragment, for somebody who had
        begun to take them.
        """
        found = self.broken_off(waiter)
        if found is None and isinstance(waiter, Ask) and (waiter.message is None or waiter.id in self._kept):
            found = Unavailable("whoever took the message was gone before all of its fragments had come")
        return found

    def broken_off(self, waiter: Waiter) -> Unavailable | None:
        """Who had begun to take a request is gone: the error, where not all of it has left."""
        found = self._transfers.take(f"{_key(waiter.id)}.")
        return None if found is None else found.gone()

    def leaving(self, id: str) -> bool:
        """Whether fragments of a request are still to leave."""
        return self._transfers.has(_key(id))

    # --- answers --------------------------------------------------------------------------------------------------

    def received(self, waiter: Waiter, delivery: Delivery, message: Message) -> None:
        """A fragment of an answer has come."""
        if isinstance(waiter, Ask) and waiter.id in self._kept:
            waiter.message = None
            self._let_go(waiter.id)
        _, _, _, responder, requester, *_ = delivery.subject.split(".")
        answer = Answer(self, waiter, subjects.host_of(requester), message.envelope)
        sender, key = f"={responder}", _answer_key(delivery, message)
        process = f"{sender}.{message.envelope.replica}"
        self._transfers.receive(key, sender, process, message, answer, waiter.deadline)

    def unwanted(self, delivery: Delivery, message: Message) -> bool:
        """A fragment of an answer that nobody waits for; True for the first that is seen of it."""
        error = MbactorError("nobody waits for the answer any more")
        return self._transfers.refuse(_answer_key(delivery, message), error) or message.envelope.fragment[0] == 1

    def pull(self, answer: Answer, number: int, of: int) -> None:
        first = answer.envelope
        ack = Message(Envelope("ack", first.id, fragment=(number, of), replica=self._node), b"")
        address = _own(answer.waiter.address, first, multi=bool(first.queue))
        # The bus is cut: whoever waits is told of that. Or nobody can be called so: then no more of it comes.
        with suppress(Unavailable, AddressTooLong):
            self._bus.publish(subjects.request_subject(self._plane, answer.source, address), ack.to_bytes())


class Asked(Transfer):
    """A request in fragments of which nobody has taken the first yet, or one to all."""

    __slots__ = ("address", "broke_off", "has_left", "multi", "source", "takers", "waiter")

    def __init__(
        self,
        cut: Cut,
        source: str,
        reply: str,
        waiter: Waiter,
        broke_off: Callable[[Asked], None],
        has_left: Callable[[Ask, int], None],
        *,
        multi: bool,
    ) -> None:
        super().__init__(cut, None, reply, lambda: not waiter.done(), partial(_failed, waiter, multi))
        self.source = source
        self.waiter = waiter
        self.address = waiter.address
        self.multi = multi
        self.takers: set[str] = set()
        self.broke_off = broke_off
        self.has_left = has_left

    def broken(self) -> None:
        self.broke_off(self)

    def is_owed(self) -> bool:
        return not isinstance(self.waiter, Ask)


class Taken(Transfer):
    """A request in fragments, on its way to who has taken the first."""

    __slots__ = ("_asked",)

    def __init__(self, asked: Asked, subject: str, reply: str | None) -> None:
        super().__init__(asked.cut, subject, reply, asked.wanted, asked.failed)
        self._asked = asked

    def complete(self) -> None:
        if isinstance(self._asked.waiter, Ask):
            self._asked.has_left(self._asked.waiter, self.cut.size)

    def broken(self) -> None:
        self._asked.broken()

    def is_owed(self) -> bool:
        return self._asked.is_owed()


class Broken(NamedTuple):
    """What it takes to say of a request that no more of it will come: `word`, at the reply subject."""

    source: str
    address: Address
    reply: str
    word: bytes
    multi: bool


class Answer:
    """An answer that comes in fragments, for who waits for it."""

    def __init__(self, large: Large, waiter: Waiter, source: str, envelope: Envelope) -> None:
        self.waiter = waiter
        self.source = source
        self.envelope = envelope
        self._large = large

    def pull(self, number: int, of: int) -> None:
        self._large.pull(self, number, of)

    def whole(self, body: bytes, deadline: float) -> None:  # noqa: ARG002 - the waiter has its own
        self._large.answered(self.waiter, Message(replace(self.envelope, fragment=WHOLE), body))

    def refused(self, error: MbactorError) -> None:
        self.pull(0, self.envelope.fragment[1])
        error.taken = "yes"
        wire = msgspec.json.encode(to_wire(error))
        failed = replace(self.envelope, op="error", status=error.status, fragment=WHOLE, content_type=JSON)
        self._large.answered(self.waiter, Message(failed, wire))

    def cut_off(self, error: MbactorError) -> None:
        """Whoever waits for it is told otherwise."""


def _failed(waiter: Waiter, multi: bool, error: MbactorError) -> None:
    if not multi and not waiter.done():
        waiter.failed(error)


def _own(asked: Address, answer: Envelope, *, multi: bool) -> Address:
    """The own address of the replica that answers: of many that are asked, each may have a host of its own."""
    host = answer.host if multi and answer.host else asked.host
    return dataclasses.replace(asked, replica=answer.replica, host=host)


def _key(id: str) -> str:
    return f"?{id}"


def _answer_key(delivery: Delivery, message: Message) -> str:
    responder = delivery.subject.split(".")[3]
    return f"={responder}.{message.envelope.id}.{message.envelope.replica}"
