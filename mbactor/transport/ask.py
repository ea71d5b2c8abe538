"""Requests to one, and how long they wait for what.

An ask waits for its answer until its deadline. Before it is known whether anybody has it, it waits no longer than the
ack window: whoever takes it answers or acknowledges it within that. Afterwards the process that acknowledged it is
probed, one small message each half window for all asks that wait there: where nobody is at its address any more, it has
died. That a process is silent means nothing, for it may be stopped or busy; and one that has not said who it is cannot
be probed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mbactor.errors import (
    ActorCrashed,
    BadRequest,
    Forbidden,
    MbactorError,
    NoSuchActor,
    NotAcknowledged,
    Taken,
    WireError,
    error_told,
    from_wire,
)
from mbactor.transport.address import Address
from mbactor.transport.codec import decode
from mbactor.transport.message import Message, message_of
from mbactor.transport.repeats import Refusal, refusal_by_actor, refusal_by_bus
from mbactor.transport.subjects import host_token
from mbactor.transport.waiting import Waiter

TICKS = 8
"""Parts of the ack window in which it is counted."""
UNNAMED = "?"
"""Whoever acknowledges something and does not say who it is, as a program without mbactor may."""


class Ask(Waiter, eq=False):
    """Waits for the one answer of a request to one: `future` is set to what `read` makes of it."""

    future: asyncio.Future[Any]
    read: Callable[[Message], Any]
    source: str
    inbox: str
    """Where its answers come, but for the last token: the broker has verified that they are of whom it was sent to."""
    message: Message | bytes | None
    """What is sent again, or the part of a payload that it is; None once all fragments of a large one have left, where
    there is no room to keep it for that.
    """
    again: Callable[[Ask, Refusal, MbactorError, str], bool]
    """Told of a refusal and of the replica it comes from, before the asker is: whether it is sent again."""
    unpack: Callable[[bytes], Any] | None = None
    """What `read` does with a body in msgpack that is not empty, or whatever error that meets."""
    patience: int = 0
    """Ticks for which it waits, unless it is acknowledged; 0 where it waits as long as it may."""
    holder: str = ""
    """The replica that has acknowledged it, or `UNNAMED`."""
    earlier: tuple[Refusal, ...] = ()
    """Why it was sent again."""
    sent_to: str = ""
    """The replica that it was sent to instead of any of the host."""
    resting: bool = False
    """Whether it is to be sent again, and is with nobody meanwhile."""

    @property
    def taken(self) -> Taken:
        return "no" if self.resting else "yes" if self.holder else "unknown"

    def sent(self) -> Message | None:
        """What is sent again."""
        message = self.message
        return message_of(message) if type(message) is bytes else message  # type: ignore[return-value]

    def done(self) -> bool:
        return self.future.done()

    def ticked(self) -> None:
        if self.holder or self.resting or not self.patience:
            return
        self.patience -= 1
        if not self.patience:
            text = f"{self.address}: neither an answer nor an acknowledgement came; it may have been taken"
            self.failed(NotAcknowledged(text))

    def acked(self, message: Message) -> None:
        self.holder = message.envelope.replica or UNNAMED

    def answered(self, message: Message) -> None:
        try:
            if message.envelope.op == "error":
                self._refused(error_in(message), message.envelope.replica)
            else:
                self.future.set_result(self.read(message))
        except MbactorError as error:
            self.future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - somebody else's type may raise anything where a value is made of it
            text = f"{self.address} answered what cannot be read: {error_told(error)}"
            self.future.set_exception(MbactorError(text))

    def unsent(self, error: MbactorError) -> None:
        self.future.set_exception(error)

    def failed(self, error: MbactorError) -> None:
        if self.resting and isinstance(error, NotAcknowledged):
            return  # what was on its way is lost, and this is not
        refusal = refusal_by_bus(error)
        if refusal is None or not self.again(self, refusal, error, ""):
            self.future.set_exception(error)

    def _refused(self, error: MbactorError, replica: str) -> None:
        if self.resting:
            return  # by who had a part of it, of which the bus has told
        refusal = refusal_by_actor(error)
        if refusal is None or not self.again(self, refusal, error, replica):
            self.future.set_exception(error)


class Sending(Waiter, eq=False):
    """Waits for the news that nobody took a message that wants no answer."""

    source: str
    lost: Callable[[MbactorError], None] | None
    leaving: Callable[[str], bool] | None = None
    """Whether fragments of it are still to leave; None where it goes in one."""
    ticks: int = 0

    def done(self) -> bool:
        return self.lost is None

    def ticked(self) -> None:
        """Once all of it has left, whoever cannot take it says so soon: what is kept to be told of that can go."""
        if self.leaving is None:
            return
        self.ticks = 0 if self.leaving(self.id) else self.ticks + 1
        if self.ticks > 2 * TICKS:
            self.lost = None

    def answered(self, message: Message) -> None:
        """Whoever took it says nothing; whoever could not take all of its fragments does."""
        if message.envelope.op == "error":
            self.failed(error_in(message))

    def failed(self, error: MbactorError) -> None:
        lost, self.lost = self.lost, None
        if lost is not None and error.taken == "no":
            lost(error)


class Spreading(Sending, eq=False):
    """A `Sending` to all, in fragments: each who takes the first may be unable to take the others."""

    def hears(self, by: str, host: str) -> bool:
        return by == host_token(host or self.address.host)  # whoever sinks the event

    def answered(self, message: Message) -> None:
        if message.envelope.op == "error" and self.lost is not None:
            self.lost(error_in(message))

    def failed(self, error: MbactorError) -> None:
        if isinstance(error, NoSuchActor):
            self.lost = None  # nobody wants it, which is no loss
        super().failed(error)


class Probe(Waiter, eq=False):
    """Waits for the news that nobody is at an address, or serves it; hears of nothing where somebody does."""

    gone: Callable[[], None] | None
    serving: bool = False
    """Whether it is about who serves the address; where the bus does not let that be asked, nobody is expected."""

    def done(self) -> bool:
        return self.gone is None

    def answered(self, message: Message) -> None:
        if message.envelope.op == "error":
            self.failed(error_in(message))

    def failed(self, error: MbactorError) -> None:
        gone, self.gone = self.gone, None
        if gone is not None and (isinstance(error, NoSuchActor) or (self.serving and isinstance(error, Forbidden))):
            gone()


def error_in(message: Message) -> MbactorError:
    """The error that a message carries, as the type it was; one that says so where it cannot be read."""
    try:
        return from_wire(decode(message.body, message.envelope.content_type, WireError))
    except BadRequest as error:  # which would say that what was asked does not fit
        return MbactorError(f"an error was answered that cannot be read: {error}")


def died(address: Address) -> ActorCrashed:
    """The process is gone that has a request, and nobody knows how far it got."""
    error = ActorCrashed(f"{address}: the process that had the message has died")
    error.taken = "unknown"
    return error
