"""Request and reply over a bus: one inbox subscription, a unique id a request, one sweep for deadlines."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from msgspec import structs

from mbactor import observe
from mbactor.errors import MbactorError, MessageTooLarge, NotAcknowledged, Unavailable
from mbactor.transport import reserved, subjects
from mbactor.transport.address import Address
from mbactor.transport.ask import TICKS, UNNAMED, Ask, Probe, Sending, Spreading, died
from mbactor.transport.bus import Bus, Delivery, Failure, Subscription
from mbactor.transport.failures import error_of, expired, forbidden
from mbactor.transport.fragments import WHOLE
from mbactor.transport.large import Large
from mbactor.transport.lines import Line, Lines
from mbactor.transport.locality import Nearest
from mbactor.transport.message import MSGPACK, OVERHEAD, Envelope, Message, ask_part, messages_of
from mbactor.transport.near import NearAsk, NearSending, asking_where
from mbactor.transport.outbox import BYTES, MOST, Batch, Outbox, Together
from mbactor.transport.reassembly import Bounds
from mbactor.transport.repeats import Chances, Refusal, repeat
from mbactor.transport.replicas import Replicas
from mbactor.transport.transfers import Transfers
from mbactor.transport.waiting import Waiter, Waiting

ACK_WINDOW = 1.0
"""Seconds within which a request is answered or acknowledged, where nothing else is set."""
_CALLED_OFF = 1024
_PLAIN = 64
"""Bytes that an envelope takes at most which says nothing but its id and its budget."""
_FEW = 8
"""Messages that travel together at least, however many replicas there are."""
_NOBODY_WITHIN = 2.0
"""Seconds for which a bus may take to say that nobody was there for a message without an answer."""
RETURN = 3.0
"""Seconds after an outage within which others come back to the bus: each pauses before it tries to."""
_TAKEN_WITHIN = 15 * 60.0
"""Seconds for which one that goes in fragments may take."""


class Requester:
    """Sends requests for one node and gives each its answer.

    A request nobody serves fails at once with NoSuchActor, one that is not taken now with Unavailable, one whose
    receiver's process dies with ActorCrashed, one whose deadline passes with BudgetSpent, one that is on its way when
    the bus is cut off from the others, or that nobody acknowledges within `ack_window` seconds, with NotAcknowledged;
    an error answer is raised as the type it was. What was certainly not taken is sent again before, as `repeats.py`
    decides, within the time budget. An answer that comes too late is dropped and counted in `late`.
    """

    def __init__(
        self,
        bus: Bus,
        plane: str,
        node: str,
        ack_window: float = ACK_WINDOW,
        transfers: Transfers | None = None,
        locality: str = "",
        *,
        coalesce: bool = True,
    ) -> None:
        self._bus = bus
        self._together = Together()
        gather = coalesce and not bus.tells_all
        self._outbox = Outbox(bus, gather=gather, sent=self._together.left, unsent=self._unsent, most=self._most)
        self.lines = Lines(plane, node)
        self._called_off: dict[str, Ask] = {}
        """Asks by id that nobody wants answered, and of which nobody knows who has them; the oldest first."""
        self._future: Callable[[], asyncio.Future[Any]]
        self._small = 0
        """Bytes of a message that may travel together with others."""
        self._plane = plane
        self._node = node
        self._ids = count(1)
        self._waiting = Waiting(self._expired, self._ticked, ack_window / TICKS)
        self._transfers = Transfers(bus, Bounds()) if transfers is None else transfers
        self._large = Large(bus, plane, node, self._transfers, self._answered)
        self._settling: set[asyncio.Task[None]] = set()
        """What waits for the bus before fragments are sent again."""
        self._ticks = 0
        self._replicas = Replicas()
        self._patience = 0 if bus.tells_all else TICKS
        self._nearest = Nearest(locality) if locality else None
        self._inbox: Subscription | None = None
        self._back_at = -math.inf
        bus.when_cut(self._cut)
        bus.when_back(self._back)
        self.late = 0
        self.when_late: Callable[[str], None] = _nothing
        """Told of the request to which a message came too late."""

    async def open(self) -> None:
        """Subscribe to the node's inbox. Forbidden where the bus does not let it receive there."""
        inbox = subjects.inbox_pattern(self._plane, self._node)
        self._inbox = self._bus.subscribe(inbox, self._receive)
        self._measure()
        self._future = asyncio.get_running_loop().create_future
        await self._bus.flush()
        if self._inbox.refused is not None:
            raise forbidden(f"the broker does not let this node receive its answers: {self._inbox.refused}")

    def _measure(self) -> None:
        self._small = min(BYTES, self._bus.max_payload - OVERHEAD, self._transfers.largest)

    def close(self) -> None:
        """End the inbox; whoever still waits gets an error."""
        for task in self._settling:
            task.cancel()
        if self._inbox is not None:
            self._inbox.unsubscribe()
            self._inbox = None
        for waiter in self._waiting.everyone():
            if not waiter.done():
                stopped = MbactorError(f"{waiter.address}: the system was stopped while it waited for this", status=503)
                stopped.taken = waiter.taken
                waiter.failed(stopped)
        self._waiting.close()

    def new_id(self) -> str:
        """For the envelope of a request: no other request of this node has it."""
        return str(next(self._ids))

    def request(
        self, source: str, address: Address, message: Message, deadline: float, read: Callable[[Message], Any]
    ) -> asyncio.Future[Any]:
        """Send; the future of what `read` makes of the reply. AddressTooLong is raised at once."""
        return self.ask(self.lines(source, address), message, deadline, read, asyncio.get_running_loop().time())

    def ask(
        self,
        line: Line,
        message: Message,
        deadline: float,
        read: Callable[[Message], Any],
        now: float,
    ) -> asyncio.Future[Any]:
        """As `request`, on a line that is there already, at this time."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        id, address, source = message.envelope.id, line.address, line.source
        again, patience, nearest = self._again, self._patience, self._nearest
        if nearest is None or address.replica is not None:
            ask = Ask(id, address, deadline, future, read, source, line.inbox, message, again, None, patience)
        else:
            place = self.lines.place(source, address, nearest, now)
            ask = NearAsk(
                id, place, deadline, future, read, source, line.inbox, message, again, None, patience,
                plain=address, nearest=nearest, publish=self._publish_again, ticks=patience,
            )  # fmt: skip
            line = self.lines(source, place)
        self._put(line, message, ask)
        self._waiting.add(ask, now)
        return future

    def ask_plainly(
        self,
        line: Line,
        budget: float,
        body: bytes,
        deadline: float,
        read: Callable[[Message], Any],
        unpack: Callable[[bytes], Any],
        now: float,
    ) -> asyncio.Future[Any]:
        """As `ask`, of a body in msgpack with nothing to say of it. Its message is made only where it is sent again.

        What `read` makes of a body in msgpack, `unpack` does, unless that raises.
        """
        id = str(next(self._ids))
        if self._nearest is not None or len(body) > self._small - _PLAIN:
            return self.ask(line, Message(Envelope("ask", id, budget), body), deadline, read, now)
        address, subject = line.address, line.subject
        part = ask_part(id, budget, body)
        inbox, again, waiting = line.inbox, self._again, self._waiting
        try:
            self._outbox.put(address.host, subject, subject, inbox, id, part)
        except MessageTooLarge:  # the broker is another by now, which carries less
            self._measure()
            return self.ask(line, Message(Envelope("ask", id, budget), body), deadline, read, now)
        # While the broker has what leaves at once already.
        future: asyncio.Future[Any] = self._future()
        ask = Ask(id, address, deadline, future, read, line.source, inbox, part, again, unpack, self._patience)
        if deadline < waiting.timer_at:
            waiting.add(ask, now)
        else:
            waiting.young[id] = ask
        return future

    def send(self, source: str, address: Address, message: Message, lost: Callable[[MbactorError], None]) -> None:
        """Send without waiting; `lost` is called when the bus says that nobody took it, or does not take it itself."""
        large = len(message.body) > self._bus.max_payload
        now = asyncio.get_running_loop().time()
        deadline = now + (_TAKEN_WITHIN if large else _NOBODY_WITHIN)
        id, nearest, leaving = message.envelope.id, self._nearest, self._large.leaving if large else None
        if nearest is None or address.replica is not None:
            waiter = Sending(id, address, deadline, source, lost, leaving)
        else:
            place = self.lines.place(source, address, nearest, now)
            message = asking_where(message, address, nearest, now)
            waiter = NearSending(
                id, place, deadline, source, lost, leaving,
                plain=address, nearest=nearest, publish=self._publish, message=message,
            )  # fmt: skip
            address = place
        try:
            self._put(self.lines(source, address), message, waiter)
        except Unavailable as error:  # what is gathered learns of it at the end of the turn
            waiter.unsent(error)
        else:
            self._waiting.add(waiter, now)

    def post(self, source: str, message: Message, waiter: Waiter) -> None:
        """Publish a request at once, of whose envelope the waiter has the id, and tell the waiter what comes of it."""
        self._put_now(self.lines(source, waiter.address), message, waiter)
        self._waiting.add(waiter, asyncio.get_running_loop().time())

    def spread(self, source: str, address: Address, message: Message, lost: Callable[[MbactorError], None]) -> None:
        """Send in fragments to all who take the first; `lost` is called for each who cannot take the others."""
        self._transfers.check_room(len(message.body))
        deadline = asyncio.get_running_loop().time() + _TAKEN_WITHIN
        waiter = Spreading(message.envelope.id, address, deadline, source, lost, self._large.leaving)
        self.post(source, message, waiter)

    def call_off(self, future: asyncio.Future[Any]) -> None:
        """Have whoever took the request that `future` waits for cancel it.

        Where nobody has acknowledged it, that goes to whoever may have it, and once more to who acknowledges it later.
        It is a hint: what is lost of it is not repeated.
        """
        found = (one for one in self._waiting.everyone() if isinstance(one, Ask) and one.future is future)
        ask = next(found, None)
        if ask is None:
            return
        self._waiting.remove(ask.id)
        if not ask.holder:
            while len(self._called_off) >= _CALLED_OFF:
                del self._called_off[next(iter(self._called_off))]
            self._called_off[ask.id] = ask
        self._cancel(ask, ask.holder)

    def _cancel(self, ask: Ask, holder: str) -> None:
        known = holder not in {"", UNNAMED}
        address = replace(ask.address, replica=holder) if known else ask.address
        self.flush()
        with suppress(MbactorError):  # cut off; or nobody can be called so
            line, message = self.lines(ask.source, address), Message(Envelope("cancel", ask.id), b"")
            # At a reply subject of its own: that nobody is there to be told so says nothing of what the ask left with.
            self._bus.publish(line.subject, message.to_bytes(), reply=line.inbox + self.new_id())

    def flush(self) -> None:
        """Let go of what is gathered in this turn of the loop: what is published next comes after it."""
        self._outbox.flush()

    def _publish(self, source: str, address: Address, message: Message, waiter: Waiter) -> None:
        self._put(self.lines(source, address), message, waiter)

    def _put(self, line: Line, message: Message, waiter: Waiter) -> None:
        """Send together with what else leaves in this turn, where that is not too large."""
        if len(message.body) < self._small:
            part = message.part()
            if len(part) <= self._small:
                id, subject = message.envelope.id, line.subject
                try:
                    self._outbox.put(line.address.host, subject, subject, line.inbox, id, part)
                except MessageTooLarge:
                    self._measure()
                else:
                    return
        self._put_now(line, message, waiter)

    def _put_now(self, line: Line, message: Message, waiter: Waiter) -> None:
        self.flush()
        reply = line.inbox + message.envelope.id
        cut = self._transfers.cut(message)
        if isinstance(cut, bytes):
            self._bus.publish(line.subject, cut, reply=reply)
        else:
            self._bus.publish(line.subject, cut[1].to_bytes(), reply=reply)
            self._large.asked(line.source, reply, cut, waiter, multi=message.envelope.multi)

    def _most(self, host: str) -> int:
        """The more replicas are known, the fewer messages for one of them: each is to have its share of a burst."""
        return max(_FEW, MOST // max(1, self._replicas.count(host)))

    def _unsent(self, batch: Batch, error: MbactorError) -> None:
        for id in batch.ids:
            waiter = self._waiting.take(id)
            if waiter is not None and not waiter.done():
                waiter.unsent(error)

    # --- once more ----------------------------------------------------------------------------------------------

    def _again(self, ask: Ask, refusal: Refusal, error: MbactorError, by: str) -> bool:
        """An ask was refused: whether it is sent again."""
        if ask.message is None:
            return False
        loop, address = asyncio.get_running_loop(), ask.address
        if refusal == "nobody" and ask.sent_to:
            # The one that was chosen for it is not there any more, which says nothing of the host.
            self._replicas.gone(address.host, ask.sent_to)
            ask.resting, ask.sent_to = True, ""
            loop.call_soon(self._repeat, ask)
            return True
        others = self._replicas.others(address.host, by or ask.sent_to)
        seconds = getattr(error, "seconds", 0.0)
        chances = Chances(
            left=ask.deadline - loop.time() - self._bus.round_trip,
            others=bool(others),
            by_ref=address.replica is not None,
            seconds=seconds if isinstance(seconds, int | float) else 0.0,
            drawn=random.random(),
        )
        found = repeat(refusal, ask.earlier, chances)
        if found is None:
            return False
        ask.earlier += (refusal,)
        ask.resting, ask.holder = True, ""
        ask.sent_to = random.choice(others) if found.elsewhere else ""
        large = type(ask.message) is Message and len(ask.message.body) >= self._small
        loop.call_later(found.after, self._settle if large else self._repeat, ask)
        return True

    def _settle(self, ask: Ask) -> None:
        """Send it again once the bus has told of each of its fragments: what it tells later is of what is sent then."""
        task = asyncio.get_running_loop().create_task(self._repeat_settled(ask))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _repeat_settled(self, ask: Ask) -> None:
        with suppress(Unavailable):  # who sends it then is told so
            await self._bus.flush()
        self._repeat(ask)

    def _repeat(self, ask: Ask) -> None:
        sent = ask.sent()
        if ask.done() or self._inbox is None or sent is None:
            return
        # From now on it travels with others: what is told of it is not told of those it travelled with before.
        self._together.take(ask.id)
        ask.resting, ask.patience = False, self._patience
        address = replace(ask.address, replica=ask.sent_to) if ask.sent_to else ask.address
        try:
            self._publish_again(ask.source, address, sent, ask)
        except MbactorError as error:
            ask.unsent(error)

    def _publish_again(self, source: str, address: Address, sent: Message, ask: Waiter) -> None:
        """An ask, with the time that it has left by now."""
        left = ask.deadline - asyncio.get_running_loop().time() - self._bus.round_trip
        self._publish(source, address, Message(structs.replace(sent.envelope, budget=left), sent.body), ask)

    # --- whether those who have something are there -------------------------------------------------------------

    def _ticked(self) -> None:
        self._ticks += 1
        if self._ticks % (2 * TICKS) == 0:  # what the bus has to say of a payload, it has said by now
            self._together.age()
        if self._patience and self._ticks % (TICKS // 2) == 0:
            self._probe_holders()

    def probe(self, source: str, address: Address, gone: Callable[[], None], *, serving: bool = False) -> None:
        """Tell `gone` where nobody is at the address of a replica any more; with `serving`, also where it is there and
        does not take requests for the address. Whoever is there says nothing else.
        """
        deadline = asyncio.get_running_loop().time() + _NOBODY_WITHIN
        probe = Probe(self.new_id(), address, deadline, gone, serving)
        with suppress(MbactorError):  # cut off; or nobody can be called so
            self.post(source, Message(Envelope("probe", probe.id, multi=serving), b""), probe)

    def _probe_holders(self) -> None:
        """Look whether those that have acknowledged something are there, once for each however much that is."""
        held: dict[str, list[Ask]] = {}
        for waiter in self._waiting.everyone():
            if isinstance(waiter, Ask) and waiter.holder not in {"", UNNAMED} and not waiter.done():
                held.setdefault(waiter.holder, []).append(waiter)
        for replica, asks in held.items():
            self.probe(asks[0].source, replace(asks[0].address, replica=replica), partial(self._gone, replica, asks))

    def _gone(self, replica: str, asks: list[Ask]) -> None:
        for ask in asks:
            if ask.holder == replica and not ask.done():  # what it refused meanwhile is with nobody, or with another
                ask.failed(self._large.broken_off(ask) or died(ask.address))

    # --- in -----------------------------------------------------------------------------------------------------

    def _receive(self, delivery: Delivery) -> None:
        # The broker has verified who publishes, by the fourth token; what they say of another's requests is not heard.
        subject = delivery.subject
        if delivery.failure is not None:
            self._told(subject, delivery.failure, delivery.data)
            return
        try:
            messages = messages_of(delivery.data)
        except MbactorError as error:
            self._unreadable(subject.rpartition(".")[2], _by(subject), error)
            return
        waiting, inbox, replica = self._waiting, "", ""
        young = waiting.young
        for message in messages:
            envelope = message.envelope
            id = envelope.id
            waiter = young.get(id) or waiting.find(id)
            if (
                type(waiter) is Ask
                and envelope.op == "reply"
                and envelope.fragment == WHOLE
                and (waiter.inbox is inbox or subject.startswith(waiter.inbox))
                and not waiter.future.done()
            ):
                # As `_take`, for nearly all there are: the result of an ask that waits for it.
                if waiter.inbox is not inbox or envelope.replica != replica:
                    inbox, replica = waiter.inbox, envelope.replica
                    if replica:
                        self._replicas.saw(waiter.address.host, replica)
                body, unpack = message.body, waiter.unpack
                try:
                    if body and unpack is not None and envelope.content_type == MSGPACK:
                        waiter.future.set_result(unpack(body))
                    else:
                        waiter.future.set_result(waiter.read(message))
                except Exception:  # noqa: BLE001 - what is wrong, the long way says
                    waiter.answered(message)
                if young.pop(id, None) is None:
                    waiting.remove(id)
            else:
                self._take(delivery, _by(subject), message)

    def _told(self, subject: str, failure: Failure, text: bytes) -> None:
        """What the bus says of a payload. The last token of the reply subject serves this alone; messages are known by
        their envelopes.
        """
        by, first = _by(subject), subject.rpartition(".")[2]
        for id in self._together.take(first):
            self._failed(id, by, failure, text)

    def _waiter(self, id: str, by: str) -> Waiter | None:
        """Who waits for what comes of a request, where that is said by whom it was sent to."""
        waiter = self._waiting.find(id)
        return waiter if waiter is not None and by == subjects.host_token(waiter.address.host) else None

    def _take(self, delivery: Delivery, by: str, message: Message) -> None:
        envelope = message.envelope
        waiter = self._waiting.find(envelope.id)
        if waiter is not None and not waiter.hears(by, envelope.host):
            return
        if waiter is None or waiter.done():
            self._late(delivery, by, message)
        elif envelope.op == "ack":
            if envelope.fragment == WHOLE or self._large.pulled(envelope):
                waiter.acked(message)
        elif envelope.fragment != WHOLE:
            if envelope.fragment[0] == 1:
                waiter.acked(message)  # its answer may take longer than the ack window to come
            self._large.received(waiter, delivery, message)
        else:
            if envelope.replica:
                self._replicas.saw(waiter.address.host, envelope.replica)
            self._answered(waiter, message)

    def _late(self, delivery: Delivery, by: str, message: Message) -> None:
        envelope = message.envelope
        called_off = self._called_off.get(envelope.id)
        if called_off is not None and by == subjects.host_token(called_off.address.host):
            del self._called_off[envelope.id]
            if envelope.op == "ack":
                self._cancel(called_off, envelope.replica)
                return
        if envelope.op != "ack":
            self.late += envelope.fragment == WHOLE or self._large.unwanted(delivery, message)
        elif envelope.fragment != WHOLE:
            self._large.unwanted_pull(envelope)
        self.when_late(envelope.id)

    def _answered(self, waiter: Waiter, message: Message) -> None:
        if not waiter.done():
            waiter.answered(message)
        if waiter.done():
            self._waiting.remove(waiter.id)

    def _failed(self, id: str, by: str, failure: Failure, told: bytes) -> None:
        waiter = self._waiter(id, by)
        if waiter is None or waiter.done() or (isinstance(waiter, Ask) and waiter.resting):
            return  # of one that rests, fragments that left before are told of
        gone = self._large.gone(waiter)
        if gone is not None and failure != "forbidden":
            waiter.failed(gone)
        elif failure == "no_responders" and isinstance(waiter, Ask | Sending) and self._comes_back(waiter):
            self._not_back(waiter)
            return
        elif failure == "no_responders" and isinstance(waiter, Ask | Sending) and self._may_be_kept(waiter):
            self._inquire(waiter)
            return
        else:
            waiter.failed(error_of(waiter.address, failure, told))
        if waiter.done():
            self._waiting.remove(id)

    def _comes_back(self, waiter: Ask | Sending) -> bool:
        """Whether nobody there may mean that not all are back that were cut off: of the host somebody has answered
        before. Who has tried the nearest place goes on to the others.
        """
        if isinstance(waiter, NearAsk | NearSending) and waiter.address is not waiter.plain:
            return False
        lately = asyncio.get_running_loop().time() < self._back_at + RETURN
        return lately and not isinstance(waiter, Spreading) and bool(self._replicas.count(waiter.address.host))

    def _not_back(self, waiter: Ask | Sending) -> None:
        error = Unavailable(f"{waiter.address}: whoever served it has lost the broker and is not back yet; send again")
        if isinstance(waiter, Ask) and self._again(waiter, "away", error, ""):
            return
        waiter.unsent(error)
        self._waiting.remove(waiter.id)

    def _may_be_kept(self, waiter: Ask | Sending) -> bool:
        """Whether nobody there may mean that somebody will be back. Of one replica no place is kept; and who has tried
        the nearest place goes on to the others.
        """
        if isinstance(waiter, NearAsk | NearSending) and waiter.address is not waiter.plain:
            return False
        to_one = waiter.address.one_only or (isinstance(waiter, Ask) and bool(waiter.sent_to))
        return not (to_one or isinstance(waiter, Spreading))

    def _inquire(self, waiter: Ask | Sending) -> None:
        """Nobody is there: whether somebody will be back decides what the waiter is told."""
        message, inquiry = reserved.inquiry(self.new_id(), waiter, asyncio.get_running_loop().time())
        try:
            self.post(waiter.source, message, inquiry)
        except MbactorError as error:
            inquiry.failed(error)

    def _unreadable(self, id: str, by: str, error: MbactorError) -> None:
        waiter = self._waiter(id, by)
        if waiter is not None and not waiter.done():
            waiter.failed(MbactorError(f"{waiter.address} answered what cannot be read: {error}"))

    def _expired(self, waiter: Waiter) -> None:
        expired(waiter, leaving=self._large.leaving(waiter.id))

    def _back(self) -> None:
        self._back_at = asyncio.get_running_loop().time()

    def _cut(self) -> None:
        self._outbox.flush()  # what has not left is certainly with nobody, and its sender is told that
        waiting = [waiter for waiter in self._waiting.everyone() if not waiter.done()]
        for waiter in waiting:
            text = f"{waiter.address}: the connection was lost before the answer came; it may have been taken"
            waiter.failed(NotAcknowledged(text))
        told = sum(isinstance(waiter, Sending) for waiter in waiting)
        if told:  # no dead letters: nearly all were taken, and who sends a letter once more would have them run twice
            observe.emit("message.unknown", count=told)


def _by(subject: str) -> str:
    """Who has published to a reply subject: their host's token."""
    return subject.split(".", 4)[3]


def _nothing(id: str) -> None:
    """Nobody has to be told."""
