"""Where a replica is, and how an asker comes to the nearest. Pure.

A locality is written from the general to the special: `eu-west-b-1` lies in `eu-west-b`, that in `eu-west`, that in
`eu`. A replica is reached at each of these. An asker with a locality begins with any replica, learns from each answer
how near it was, and asks the nearest place it knows of from then on; where nobody is there any more it begins again.
What it tells goes there too; a node that only tells asks once a second where that was taken.
"""

from __future__ import annotations

import re

from mbactor.errors import InvalidSpec
from mbactor.transport.address import Address
from mbactor.transport.remembered import Remembered

KEPT = 4096
KEPT_FOR = 24 * 3600.0
ASK_AGAIN = 1.0
"""Seconds after which a message that gets no answer asks again where it was taken."""
LONGEST = 64
_LOCALITY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def check_locality(locality: object) -> str:
    """The locality as it is; InvalidSpec says what one looks like."""
    if not isinstance(locality, str) or not _LOCALITY.fullmatch(locality) or len(locality) > LONGEST:
        raise InvalidSpec(
            f"locality: {locality!r} given; lower-case letters and digits between hyphens expected, from the general to"
            f" the special, at most {LONGEST} characters, such as eu-west-b-1"
        )
    return locality


def places_of(locality: str) -> list[str]:
    """The locality and all that it lies in, the widest first."""
    parts = locality.split("-") if locality else []
    return ["-".join(parts[:n]) for n in range(1, len(parts) + 1)]


def common(one: str, other: str) -> str:
    """The narrowest place in which both lie; nothing where there is none."""
    shared = [place for place in places_of(one) if place in places_of(other)]
    return shared[-1] if shared else ""


class Nearest:
    """Where an asker's requests go: to the nearest place that is known to serve their address."""

    def __init__(self, locality: str) -> None:
        self.locality = locality
        self._places: Remembered[Address, str] = Remembered(KEPT, KEPT_FOR)
        self._asked: Remembered[Address, bool] = Remembered(KEPT, ASK_AGAIN)

    def __call__(self, address: Address, now: float) -> Address:
        """The address to send to. One that names a replica, or a place, stays as it is."""
        if address.replica is not None:
            return address
        place = self._places.get(address, now)
        return address if place is None else address.at(place)

    def to_ask(self, address: Address, now: float) -> bool:
        """Whether a message to the plain address that gets no answer is to ask where it was taken: once in a while, as
        long as there may be a nearer place.
        """
        if self._places.get(address, now) == self.locality or self._asked.get(address, now):
            return False
        self._asked.put(address, True, now)
        return True

    def answered(self, address: Address, by: str, now: float) -> None:
        """A replica in the locality `by` has answered what was sent to the plain address."""
        shared = common(self.locality, by)
        if len(shared) > len(self._places.get(address, now) or ""):
            self._places.put(address, shared, now)

    def nobody(self, address: Address) -> None:
        """Nobody serves the plain address at the place that was known, or nobody there says anything."""
        self._places.drop(address)
