"""One actor as a value: what it is at, what waits for it, how its last lives ended.

    view = look(cell)
    view.mailbox.depth, view.running[0].method, view.exits[-1].reason

Looking changes nothing and makes nothing: an actor that was never asked has no mailbox afterwards either. This is
the only module that reads a cell for others to see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mbactor.kernel.cell import Cell
from mbactor.kernel.exit import Exit, ExitKind
from mbactor.kernel.gate import Gate
from mbactor.kernel.ref import ActorRef
from mbactor.mailbox import MailboxStatistics

REASON_LIMIT = 500
"""Characters of a reason that are kept; an error may tell its whole input."""


@dataclass(frozen=True, slots=True)
class RunningMessage:
    """A message that is being handled. `age` is in seconds since it arrived, its time in the mailbox included;
    `sender` is the method that sent it, None where it came from outside of any actor.
    """

    method: str
    age: float
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class PastExit:
    """How an earlier incarnation ended, `ago` seconds before."""

    ago: float
    kind: ExitKind
    reason: str


@dataclass(frozen=True, slots=True)
class ActorView:
    """An actor at one moment. `mailbox` counts all that waits for it, `capacity` is its bound; `running` has the
    oldest message first, `exits` the last few ends, the newest last.
    """

    address: str
    host: str | None
    state: str
    incarnation: int
    mailbox: MailboxStatistics
    capacity: int
    running: tuple[RunningMessage, ...]
    exits: tuple[PastExit, ...]


def look(cell: Cell, now: float | None = None) -> ActorView:
    """The actor at this moment; `now` is the loop's time, where the caller has it already."""
    now = loop_time() if now is None else now
    gates = cell.gates
    return ActorView(
        address=cell.address,
        host=cell.cls.host,
        state=cell.state,
        incarnation=cell.incarnation,
        mailbox=MailboxStatistics.of([gate.statistics(now) for gate in gates]),
        capacity=cell.bound.capacity,
        running=_running(gates, now),
        exits=_ends(cell.exits, now),
    )


def cell_of(ref: object) -> Cell | None:
    """The actor of this process that a ref reaches; None for whatever else a supervisor may hold."""
    return getattr(ref, "_cell", None) if isinstance(ref, ActorRef) else None


def reason_of(exit: Exit) -> str:
    """Why it ended, cut to a length that can be shown."""
    text = str(exit)
    return text if len(text) <= REASON_LIMIT else text[: REASON_LIMIT - 1] + "…"


def loop_time() -> float:
    """The time by which messages and ends are stamped; outside of a loop, where nothing runs, the process's own."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def _running(gates: Sequence[Gate], now: float) -> tuple[RunningMessage, ...]:
    calls = [worker.call for gate in gates for worker in (*gate.workers, *gate.leaving) if worker.call is not None]
    if not calls:
        return ()
    calls.sort(key=lambda call: call.arrived)
    return tuple(RunningMessage(call.route.feature.name, max(0.0, now - call.arrived), call.sender) for call in calls)


def _ends(exits: Collection[tuple[float, Exit]], now: float) -> tuple[PastExit, ...]:
    if not exits:
        return ()
    return tuple(PastExit(max(0.0, now - at), exit.kind, reason_of(exit)) for at, exit in exits)
