"""The contract of every bus. `local.py` and the broker's client pass the same suite of checks.

A bus carries bytes from a publisher to the subscribers of a subject, at most once. Tokens are separated
by dots; in a subscription `*` stands for one token and a final `>` for one or more. Of the subscribers that
share a queue, one gets each message; the order of one publisher's messages is kept for each subscriber.
A message that carries a reply subject and finds nobody is answered at once with `no_responders`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as a subscriber gets it."""

    subject: str
    data: bytes
    reply: str | None = None
    no_responders: bool = False
    """The bus says that nobody was there for the request; there is no data."""


Receive = Callable[[Delivery], None]
"""Called on the loop for each message; must return at once and must not raise."""


class Subscription(Protocol):
    """Ends with `unsubscribe`; a message already on its way may still arrive before that returns."""

    def unsubscribe(self) -> None: ...


class Bus(Protocol):
    """Carries bytes. Used from one event loop."""

    max_payload: int
    """Bytes one message may have."""

    async def connect(self) -> None:
        """Ready to publish and subscribe when it returns."""

    def publish(self, subject: str, data: bytes, *, reply: str | None = None) -> None:
        """Hand a message to the bus; returns at once. Raises Unavailable when the bus is closed."""

    def subscribe(self, subject: str, receive: Receive, *, queue: str | None = None) -> Subscription:
        """Receive what is published to `subject` from now on. ValueError for a malformed subject."""
        ...

    async def flush(self) -> None:
        """Returns when all that was published and subscribed before has reached the bus."""

    async def close(self) -> None:
        """Deliver what was accepted, then end. Idempotent."""
