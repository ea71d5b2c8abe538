"""What a node does with messages that reach its actors in fragments, and with answers that leave so.

A request in fragments is put together before its actor's mailbox sees it: until then nothing of it has been taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from mbactor.errors import MbactorError, MessageTooLarge, NodeLeaving, Unavailable
from mbactor.kernel.answers import ACCEPTED, Kept
from mbactor.transport import subjects
from mbactor.transport.bus import Delivery
from mbactor.transport.fragments import WHOLE, Cut
from mbactor.transport.message import JSON, OVERHEAD, Envelope, Message, message_of, payload_of
from mbactor.transport.outbox import BYTES, Batch, Outbox
from mbactor.transport.transfers import Transfer, Transfers

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.remote import Remote
    from mbactor.kernel.routes import Route


DRAIN = 5.0
"""Seconds for which who ends waits for what it has given, and told, to leave."""
UNHEARD = 2
"""Sweeps after which nobody waits any more for an answer of which nothing was asked for but its beginning."""
PAUSE = 0.01


class Parts:
    """The fragments that come to the actors of one node, and those of their answers."""

    def __init__(self, remote: Remote, transfers: Transfers, outbox: Outbox, kept: Kept) -> None:
        self.outbox = outbox
        self.kept = kept
        self.closing = False
        self.unfinished: set[str] = set()
        """Asks that were being received when this node ended."""
        self.remote = remote
        self.bus = remote.bus
        self.transfers = transfers

    def open(self) -> None:
        self.closing = False
        self.unfinished.clear()

    def close(self) -> None:
        self.closing = True
        self.transfers.clear()

    def take(self, cell: Cell, route: Route | None, delivery: Delivery, message: Message, deadline: float) -> None:
        """A fragment of a request has come, or an acknowledgement of one of an answer."""
        source, envelope = delivery.subject.split(".")[3], message.envelope
        if envelope.op == "ack":
            self.transfers.pull(f"={source}.{envelope.replica}.{envelope.id}.{cell.replica}", envelope.fragment[0])
        elif subjects.own_inbox(delivery.subject, delivery.reply or ""):
            asker = (delivery.reply or "").split(".")[5]
            request = Request(self, cell, route, delivery, envelope)
            process = f"{source}.{asker}"
            key = f"{process}.{envelope.id}.{cell.replica}"
            if self.closing:
                # Of what comes here the bus tells nobody: after the last, its asker has nothing left to learn by.
                if key in self.unfinished and envelope.fragment[0] == envelope.fragment[1]:
                    request.refused(NodeLeaving(cell.address))
                return
            request.key = key
            self.transfers.receive(key, source, process, message, request, deadline)
        else:
            cell.node.dead_letters.add(
                cell.address, "?", None, None, "a fragment without a reply subject of its source"
            )

    async def left(self, replica: str = "") -> None:
        """Returns when the answers of a replica have left, or all answers and tells of this node; or after `DRAIN`
        seconds, or when the bus is cut. The rest of an answer is asked for at the address of the replica.
        """
        of = replica and f".{replica}"
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while self.transfers.owed(of) and self.bus.unready() is None:  # noqa: ASYNC110 - it ends in many ways
                    await asyncio.sleep(PAUSE)

    def answer(self, reply: str, message: Message) -> None:
        """Send an answer. MessageTooLarge above the bound; Unavailable where the bus is cut."""
        refused = message.envelope.op == "reply" and len(message.body) > self.transfers.largest
        if len(message.body) < min(BYTES, self.bus.max_payload) and not refused:
            part = message.part()
            if len(part) + OVERHEAD <= min(BYTES, self.bus.max_payload):
                inbox = reply[: reply.rindex(".")]  # the last token differs by request, and any will do
                self.outbox.put(inbox, inbox, reply, None, "", part)
                return
        self.outbox.flush()
        cut = self.transfers.cut(message)
        if isinstance(cut, bytes):
            self.bus.publish(reply, cut)
            return
        self.bus.publish(reply, cut[1].to_bytes())
        _, _, _, _, source, asker, *_ = reply.split(".")
        key = f"={source}.{asker}.{message.envelope.id}.{message.envelope.replica}"
        broken = partial(self.kept.add, len(message.body), partial(self.answer, reply, message))
        self.transfers.start(key, Given(cut, reply, broken))

    def keep(self, batch: Batch) -> None:
        """Have answers that could not leave together do so when the bus is back."""
        self.kept.add(batch.size, partial(self._leave_together, batch))

    def _leave_together(self, batch: Batch) -> None:
        try:
            self.bus.publish(batch.subject, payload_of(batch.parts))
        except MessageTooLarge:  # the broker is another by now, which carries less
            for part in batch.parts:
                with suppress(MessageTooLarge):
                    self.answer(batch.subject, message_of(part))


class Given(Transfer):
    """An answer in fragments: where the bus is cut in the middle, whoever asked has a part of it and waits."""

    __slots__ = ("_broken",)

    def __init__(self, cut: Cut, subject: str, broken: Callable[[], None]) -> None:
        super().__init__(cut, subject, None, _always, _ignore)
        self._broken = broken

    def broken(self) -> None:
        self._broken()

    def is_owed(self) -> bool:
        """Whoever has given it up, or was cut off from the bus, does not say so."""
        return self.sent > 1 or self.silent < UNHEARD


class Request:
    """A request that comes in fragments."""

    def __init__(self, parts: Parts, cell: Cell, route: Route | None, delivery: Delivery, envelope: Envelope) -> None:
        self._parts = parts
        self._cell = cell
        self._route = route
        self._delivery = delivery
        self._envelope = envelope
        self._answer = parts.remote.owed(cell, route, delivery, envelope)
        self.key = ""
        """Of the transfer."""

    def pull(self, number: int, of: int) -> None:
        self._say(Message(replace(self._answer.envelope("ack", JSON, ACCEPTED), fragment=(number, of)), b""))

    def whole(self, body: bytes, deadline: float) -> None:
        message = Message(replace(self._envelope, fragment=WHOLE), body)
        if not self._parts.remote.take(self._cell, self._route, self._delivery, message, deadline):
            self._parts.transfers.forgive(self.key)

    def refused(self, error: MbactorError) -> None:
        self._say(self._answer.error(error))

    def cut_off(self, error: MbactorError) -> None:
        """Whoever sends it may have sent all of it, and wait for the answer. Where the process ends, an asker learns by
        what it sends to nobody, or once the last has come here; who told it learns of nothing else.
        """
        if not self._parts.closing:
            self._parts.kept.add(0, partial(self.refused, error))
        elif self._envelope.op == "ask":
            self._parts.unfinished.add(self.key)
        else:
            self.refused(NodeLeaving(self._cell.address))

    def _say(self, message: Message) -> None:
        with suppress(Unavailable):  # the bus is cut: the asker knows
            self._parts.bus.publish(self._answer.reply, message.to_bytes())


def _always() -> bool:
    return True


def _ignore(error: MbactorError) -> None:
    """Whoever waits for the answer knows it by itself."""
