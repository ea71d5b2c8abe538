"""Messages in fragments on their way, of one process: those it sends, and those it receives.

    transfers.start(key, Transfer(cut, subject, reply, wanted, failed))
    transfers.pull(key, 9)                                          # as far as the receiver asks
    transfers.receive(key, sender, process, message, receiver, deadline)    # tells `receiver` what comes of it

What leaves goes as far as it was asked for, and no faster than the bus takes it: little of it waits in this process,
and other messages pass between. A transfer ends when it is complete, when nobody wants it any more, when its receiver
is gone or silent, and when the bus is cut.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from mbactor.errors import MbactorError, Unavailable
from mbactor.transport.bus import Bus
from mbactor.transport.fragments import Cut
from mbactor.transport.message import Message
from mbactor.transport.reassembly import SWEEP, Bounds, Event, Pull, Reassembly, Whole, too_large

BURST = 1024 * 1024
"""Bytes that leave in one turn of the loop."""
FULL = 4 * 1024 * 1024
"""Bytes that may wait in the bus: above, fragments wait here."""
PAUSE = 0.002
"""Seconds until a full bus is looked at again."""


class Receiver(Protocol):
    """What a message that comes in fragments is for."""

    def pull(self, number: int, of: int) -> None:
        """Ask its sender for the fragments up to this number."""

    def whole(self, body: bytes, deadline: float) -> None:
        """It is complete."""

    def refused(self, error: MbactorError) -> None:
        """It will not be complete; its sender is to be told."""

    def cut_off(self, error: MbactorError) -> None:
        """As `refused`, where the bus is cut, and its sender can be told when that is back; or where it ends here."""


class Transfer:
    """A message of which the first fragment has left. `wanted` is asked before each other one."""

    __slots__ = ("cut", "failed", "pulled", "ready", "reply", "sent", "silent", "subject", "wanted")

    def __init__(
        self,
        cut: Cut,
        subject: str | None,
        reply: str | None,
        wanted: Callable[[], bool],
        failed: Callable[[MbactorError], None],
    ) -> None:
        self.cut = cut
        self.subject = subject
        """Where the others go; None as long as nobody has taken the first."""
        self.reply = reply
        self.wanted = wanted
        self.failed = failed
        self.sent = self.pulled = 1
        self.silent = 0
        """Sweeps since the receiver was heard, or something was sent to it."""
        self.ready = False
        """Whether it stands in line to be sent."""

    def complete(self) -> None:
        """All of it has left."""

    def broken(self) -> None:
        """Not all of it has left, and nobody goes on with it."""

    def is_owed(self) -> bool:
        """Whether it is to leave before its process ends, which waits for nothing of it."""
        return False

    def gone(self) -> Unavailable:
        """The receiver cannot be reached any more: it has not seen the message, of which a part is missing."""
        return Unavailable(f"whoever took the message is gone; {self.sent} of its {self.cut.of} fragments were sent")


class Transfers:
    """All messages in fragments of one process, in both directions."""

    def __init__(self, bus: Bus, bounds: Bounds) -> None:
        self._bus = bus
        self._out: dict[str, Transfer] = {}
        self._line: deque[tuple[str, Transfer]] = deque()
        self._in = Reassembly[Receiver](bounds)
        self._pumps: asyncio.Handle | None = None
        self._sweeps: asyncio.TimerHandle | None = None

    @property
    def largest(self) -> int:
        """Bytes that a body may have."""
        return self._in.bounds.body

    @property
    def held(self) -> int:
        """Bytes that messages have of which a part is here, or will have."""
        return self._in.held

    def __len__(self) -> int:
        """How many there are, out and in."""
        return len(self._out) + len(self._in)

    def cut(self, message: Message) -> Cut | bytes:
        """As fragments, or as the bytes of the message where the bus carries them. MessageTooLarge above the bound."""
        size = len(message.body)
        if size > self._in.bounds.body:
            raise too_large(size, self._in.bounds.body)
        if size <= self._bus.max_payload:
            data = message.to_bytes()
            if len(data) <= self._bus.max_payload:
                return data
        return Cut(message, self._bus.max_payload)

    def check_room(self, size: int) -> None:
        """Unavailable where a body of so many bytes, and what is leaving, are more than one sender may have under way:
        nobody says when all have what is sent to many, so all of it is kept for a while.
        """
        leaving = sum({id(transfer.cut): transfer.cut.size for transfer in self._out.values()}.values())
        bound = self._in.bounds.sender
        if size <= self._in.bounds.body and leaving + size > bound:
            text = f"no room for {size} bytes to be sent to many: {leaving} bytes are leaving, and {bound} may"
            raise Unavailable(f"{text}; send again after a pause")

    # --- out ----------------------------------------------------------------------------------------------------

    def start(self, key: str, transfer: Transfer) -> None:
        """The first fragment has left: the others follow when they are asked for."""
        self._out[key] = transfer
        self._watch()

    def find(self, key: str) -> Transfer | None:
        """The transfer that is not complete."""
        return self._out.get(key)

    def has(self, key: str) -> bool:
        """Whether one is not complete whose key is this, or begins with it and a dot."""
        return key in self._out or any(one.startswith(f"{key}.") for one in self._out)

    def pull(self, key: str, number: int) -> None:
        """The receiver asks for the fragments up to this number; 0 says that it wants no more."""
        transfer = self._out.get(key)
        if transfer is None:
            return
        if number == 0:
            del self._out[key]
            return
        if not transfer.wanted():
            self._give_up(key, transfer)
            return
        transfer.silent = 0
        transfer.pulled = max(transfer.pulled, min(number, transfer.cut.of))
        if transfer.sent < transfer.pulled and not transfer.ready:
            transfer.ready = True
            self._line.append((key, transfer))
            if self._pumps is None:
                self._pumps = asyncio.get_running_loop().call_soon(self._pump)

    def owed(self, of: str = "") -> bool:
        """Whether there are some that are to leave before the process ends, of those whose keys end with this."""
        return any(transfer.is_owed() and key.endswith(of) for key, transfer in self._out.items())

    def end(self, key: str) -> None:
        """Send no more of it."""
        self._out.pop(key, None)

    def take(self, prefix: str) -> Transfer | None:
        """End the transfer whose key begins so; which it was."""
        key = next((key for key in self._out if key.startswith(prefix)), None)
        return None if key is None else self._out.pop(key)

    def _pump(self) -> None:
        """One fragment of each transfer in turn, as long as the bus takes them."""
        self._pumps, left = None, BURST
        while self._line and left > 0 and self._bus.waiting() < FULL:
            key, transfer = self._line.popleft()
            transfer.ready = False
            if self._out.get(key) is not transfer or transfer.subject is None:
                continue
            left -= self._send(key, transfer.subject, transfer)
            if transfer.sent < transfer.pulled and self._out.get(key) is transfer:
                transfer.ready = True
                self._line.append((key, transfer))
        if self._line and self._pumps is None:
            loop = asyncio.get_running_loop()
            self._pumps = loop.call_soon(self._pump) if left <= 0 else loop.call_later(PAUSE, self._pump)

    def _send(self, key: str, subject: str, transfer: Transfer) -> int:
        """The next fragment; how many bytes it has."""
        if not transfer.wanted():
            self._give_up(key, transfer)
            return 0
        data = transfer.cut[transfer.sent + 1].to_bytes()
        try:
            self._bus.publish(subject, data, reply=transfer.reply)
        except MbactorError as error:
            self.end(key)
            transfer.failed(error)
            return 0
        transfer.sent += 1
        transfer.silent = 0
        if transfer.sent == transfer.cut.of:
            self.end(key)
            transfer.complete()
        return len(data)

    def _give_up(self, key: str, transfer: Transfer) -> None:
        self.end(key)
        transfer.broken()
        if transfer.subject is not None:
            with suppress(Unavailable):  # the bus is cut: that is known otherwise
                self._bus.publish(transfer.subject, transfer.cut.last_word().to_bytes(), reply=transfer.reply)

    # --- in -----------------------------------------------------------------------------------------------------

    def receive(
        self, key: str, sender: str, process: str, message: Message, receiver: Receiver, deadline: float
    ) -> None:
        """A fragment of the message `key` has come."""
        self._watch()
        self._tell(self._in.add(key, sender, message.envelope.fragment, message.body, receiver, deadline, process))

    def refuse(self, key: str, error: MbactorError) -> bool:
        """Receive no more of it; whether there was some of it."""
        events = self._in.refuse(key, error)
        self._tell(events)
        return bool(events)

    def forgive(self, key: str) -> None:
        """A message that was complete may be sent again: it was not taken."""
        self._in.forgive(key)

    def _tell(self, events: list[Event[Receiver]]) -> None:
        for event in events:
            match event:
                case Pull():
                    event.first.pull(event.number, event.of)
                case Whole():
                    event.first.whole(event.body, event.deadline)
                case _:
                    event.first.refused(event.error)

    # --- both ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """The bus is cut, or closed: nothing goes on."""
        for handle in (self._pumps, self._sweeps):
            if handle is not None:
                handle.cancel()
        self._pumps = self._sweeps = None
        out = list(self._out.values())
        self._out.clear()
        self._line.clear()
        for event in self._in.clear():
            event.first.cut_off(event.error)
        for transfer in out:
            transfer.broken()
            transfer.failed(transfer.gone())

    def _watch(self) -> None:
        if self._sweeps is None:
            self._sweeps = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeps = None
        for key, transfer in list(self._out.items()):
            transfer.silent += 1
            if not transfer.wanted():
                self._give_up(key, transfer)
            elif transfer.silent > self._in.bounds.silent:
                self.end(key)
                transfer.failed(transfer.gone())
        self._tell(self._in.sweep(asyncio.get_running_loop().time()))
        if len(self):
            self._watch()
