"""Who waits for whom: an ask that cannot be answered because its asker waits for it fails at once.

An ask that comes to a serial actor while that is busy is under suspicion. As soon as its sender has gone on to wait,
the calls that stand in its way are followed: from the call its receiver runs to the asks that one waits for, from an
ask that waits in a mailbox to the call that is run before it, and so on. Where that comes back to the ask itself, it is
a deadlock, and nobody but the budget would end it.

Each step is looked up in asyncio itself: whether the task of a call truly waits for an ask, directly or through
`gather`, tasks, task groups, `wait`, `wait_for` and shields. A call that has merely begun some work, and goes on
without it, waits for nobody, so a path that only passed through is never taken for a deadlock. What waits in a way that
asyncio does not show (an Event that another task will set) is left to the time budget.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mbactor.errors import Deadlock
from mbactor.kernel.context import Call
from mbactor.kernel.sending import Answer

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell

LOOK_AGAIN = 0.05
"""Seconds until a suspicion that could not be confirmed is looked into again: the asker may begin to wait later."""
_KNOWN = ("asyncio.", "anyio.", "mbactor.")


def suspect(ask: Call) -> None:
    """An ask stands behind a call of a serial actor: look into it once its sender waits."""
    if _cycle(ask, certain=False) is not None:
        asyncio.get_running_loop().call_soon(_look, ask)


def _look(ask: Call) -> None:
    if ask.done() or _runs(ask):
        return
    cycle = _cycle(ask, certain=True)
    if cycle is not None and _resolve(ask, cycle):
        # The ask may stand in another cycle as well: whoever waits for the admitted call may wait for others too.
        asyncio.get_running_loop().call_soon(_look, ask)
    elif not ask.done() and _cycle(ask, certain=False) is not None:
        asyncio.get_running_loop().call_later(LOOK_AGAIN, _look, ask)


def _resolve(ask: Call, cycle: list[Call]) -> bool:
    """Let the cycle pass where one of its actors admits that; else the ask fails with the cycle spelled out.

    Whether a call was admitted. It is not where its actor does not run, or where it was admitted a moment before.
    """
    for call in cycle:
        if call.cell.cls.reentrant and not _runs(call) and call.asked:
            return call.cell.gate(call.route.gate).admit(call)
    ask.fail(Deadlock(_spelled(ask, cycle)))
    return False


def _spelled(ask: Call, cycle: list[Call]) -> str:
    """`A.x -> B.y -> A.z`, with what an ask stands behind where it waits in a mailbox on the way."""
    replicas = len({call.cell for call in cycle}) > len({call.cell.cls for call in cycle})
    names = []
    for call in cycle:
        name = f"{call.route.name} of {call.cell.address}" if replicas else call.route.name
        blocked = _blocker(call) if call.asked and call is not ask and not _runs(call) else None
        names.append(name + (f" (behind {blocked[0].route.name})" if blocked is not None else ""))
    return " -> ".join(names)


def _cycle(ask: Call, *, certain: bool) -> list[Call] | None:
    """The calls from the one that blocks the ask to the ask itself, where they wait for each other in a circle."""
    blocked = _blocker(ask)
    if blocked is None:
        return None
    seen: set[int] = set()
    call, task = blocked
    if call in ask.via:
        # The circle goes through other processes; what can be seen here is that the call waits for its own part of it.
        waits = not certain or any(waits_for(task, one.future) for one in call.pending())
        return [call, ask] if waits else None
    try:
        return _search(call, task, ask, certain=certain, seen=seen)
    except RecursionError:
        return None  # hundreds of actors in one circle: the budget ends it, and nobody crashes


def _search(
    call: Call, task: asyncio.Task[Any] | None, goal: Call, *, certain: bool, seen: set[int]
) -> list[Call] | None:
    """The way from a running call to the goal, through what it waits for."""
    if id(call) in seen:
        return None
    seen.add(id(call))
    for pending in call.pending():
        if certain and not waits_for(task, pending.task if hasattr(pending, "task") else pending.future):
            continue
        if pending is goal:
            return [call, goal]
        found = _beyond(pending, goal, certain=certain, seen=seen)
        if found is not None:
            return [call, *found]
    return None


def _beyond(pending: Any, goal: Call, *, certain: bool, seen: set[int]) -> list[Call] | None:
    """The way on from what a call waits for: background work, an ask that runs, or one that waits behind another."""
    if hasattr(pending, "task"):
        return _search(pending.call, pending.task, goal, certain=certain, seen=seen)
    if not isinstance(pending, Call):
        return None  # it went to another process
    worker = pending.cell.worker_of(pending)
    if worker is not None:
        return _search(pending, worker.task, goal, certain=certain, seen=seen)
    blocked = _blocker(pending)
    if blocked is None:
        return None
    found = _search(*blocked, goal, certain=certain, seen=seen)
    return None if found is None else [pending, *found[1:]]


def _blocker(ask: Call) -> tuple[Call, asyncio.Task[Any] | None] | None:
    """The call that has to end before this one can begin, and its task; None where nothing has to."""
    cell: Cell = ask.cell
    if cell.hook is not None:
        return cell.hook.call, cell.hook.task
    gate = cell.gate(ask.route.gate)
    worker = gate.foremost
    return None if worker is None or worker.call is None else (worker.call, worker.task)


def _runs(call: Call) -> bool:
    return call.cell.worker_of(call) is not None


# --- as asyncio sees it ------------------------------------------------------------------------------------------


def waits_for(task: asyncio.Task[Any] | None, future: asyncio.Future[Any] | None) -> bool:
    """Whether a task cannot go on before a future is done."""
    if task is None or future is None:
        return False
    reached: list[Any] = [future]
    seen: set[int] = set()
    while reached:
        one = reached.pop()
        if one is task:
            return True
        if id(one) not in seen:
            seen.add(id(one))
            reached.extend(_woken_by(one))
    return False


def _woken_by(future: Any) -> Iterator[Any]:
    """The tasks and futures that go on when this one is done, and not before."""
    for entry in getattr(future, "_callbacks", None) or ():
        callback = entry[0]
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            yield owner
        elif owner is not None and hasattr(owner, "_on_completed_fut"):
            yield from _completion(owner)
        elif isinstance(callback, functools.partial):
            yield from (one for one in callback.args if isinstance(one, asyncio.Future))
        elif (getattr(callback, "__module__", None) or "").startswith(_KNOWN):
            yield from _in_closure(callback)


def _in_closure(callback: Any) -> Iterator[Any]:
    """What a callback of asyncio or anyio completes: the future it closes over."""
    names = callback.__code__.co_freevars
    cells = {name: cell.cell_contents for name, cell in zip(names, callback.__closure__ or (), strict=True)}
    if cells.get("return_when", asyncio.ALL_COMPLETED) != asyncio.ALL_COMPLETED and cells.get("counter", 0) > 1:
        return  # `wait` for the first of several
    if cells.get("timeout_handle") is not None:
        return
    for value in cells.values():
        if isinstance(value, asyncio.Future):
            yield value
        elif isinstance(value, Answer):
            yield from _thread_of(value)
        else:
            yield from _completion(value)


def _thread_of(answer: Answer) -> Iterator[Any]:
    """The task of a call whose thread stands still until it has the answer."""
    call = answer.caller
    worker = call.cell.worker_of(call) if call is not None and not call.outside and answer.waited_for else None
    if worker is not None:
        yield worker.task


def _completion(group: Any) -> Iterator[Any]:
    """What waits for the end of a task group."""
    future = getattr(group, "_on_completed_fut", None)
    if future is not None:
        yield future
