"""Whether a request that was certainly not taken is sent again: when, and to whom. Pure.

    repeat("full", (), Chances(left=2.0, others=True)) == Repeat(0.0, elsewhere=True)

Nothing else is ever repeated: what may have been taken is for the asker to decide on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mbactor.errors import ActorRestarting, MailboxFull, MbactorError, NodeLeaving, NoSuchActor, Unavailable

Refusal = Literal["nobody", "full", "restarting", "leaving", "away"]
"""Why a request was not taken: nobody serves the address; the mailbox is full; the actor, or its process, will be back;
its process ends; its process has not come back to the bus yet.
"""
LIMITS: dict[Refusal, int] = {"nobody": 1, "full": 1, "restarting": 3, "leaving": 30, "away": 3}
"""How often a request is repeated for each reason. Of processes one may end after the other, with it in a long line."""
PAUSE = 0.02
"""Seconds until a new subscription is known everywhere."""
_LONGER = 16
"""So many times longer a pause becomes at most, where one process after the other ends."""
STEP = 0.1
"""Seconds for which is waited the first time for one that restarts, where nobody says for how long it does."""
AWAY = 0.3
"""As `STEP`, for one that is not back: after the last repeat, everybody has had the time to be."""


@dataclass(frozen=True, slots=True)
class Chances:
    """What a repeat depends on: `left` of the time budget; whether `others` than who refused are known; whether the
    request is for this one replica (`by_ref`); for how many `seconds` it will be away, as far as is known; and a number
    drawn from 0 to 1, so that not all who were refused come back at once.
    """

    left: float
    others: bool = False
    by_ref: bool = False
    seconds: float = 0.0
    drawn: float = 0.0


@dataclass(frozen=True, slots=True)
class Repeat:
    """Send it again after so many seconds; `elsewhere`: to another replica that is known."""

    after: float
    elsewhere: bool = False


def repeat(refusal: Refusal, earlier: tuple[Refusal, ...], chances: Chances) -> Repeat | None:
    """What to do about a refusal, after those that came earlier; None: tell the asker."""
    times = earlier.count(refusal)
    if times >= LIMITS[refusal]:
        return None
    elsewhere = chances.others and not chances.by_ref
    match refusal:
        case "nobody":
            found = Repeat(PAUSE * (1 + chances.drawn))
        case "full":
            if not elsewhere:
                return None
            found = Repeat(0.0, elsewhere=True)
        case "leaving":
            if chances.by_ref:
                return None
            # To whoever serves it then: of those that are known, others may be ending as well.
            found = Repeat(PAUSE * min(2**times, _LONGER) * chances.drawn)
        case "restarting":
            wait = 0.0 if elsewhere else max(chances.seconds, STEP * 2**times)
            found = Repeat(wait + STEP * chances.drawn, elsewhere)
        case "away":
            found = Repeat(AWAY * 2**times + STEP * chances.drawn)
    return found if found.after < chances.left else None


def refusal_by_bus(error: MbactorError) -> Refusal | None:
    """Which refusal it is that the bus tells of: it knows of those who are not there, and of those who will be back."""
    match error:
        case NoSuchActor():
            return "nobody"
        case Unavailable():
            return "restarting"
        case _:
            return None


def refusal_by_actor(error: MbactorError) -> Refusal | None:
    """Which refusal it is that an error answer tells of, if any: what a method raises is none, whatever its type."""
    if error.taken != "no":
        return None
    match error:
        case MailboxFull():
            return "full"
        case NodeLeaving():
            return "leaving"
        case ActorRestarting():
            return "restarting"
        case _:
            return None
