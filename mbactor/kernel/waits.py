"""Who waits for whom: an ask that cannot be answered because its asker waits for it fails at once.

An ask that comes to a serial actor while that is busy, or while its key is in flight, is under suspicion. As soon as
its sender has gone on to wait, the calls that stand in its way are followed: from the call its receiver runs to the
asks that one waits for, from an ask that waits in a mailbox to the call that is run before it, and so on. Where that
goes in a circle, it is a deadlock, and nobody but the budget would end it: the last ask of the circle that waits in a
mailbox fails.

Each step is looked up in asyncio itself: whether the task of a call truly waits for an ask, directly or through
`gather`, tasks, task groups, `wait`, `wait_for` and shields. A call that has merely begun some work, and goes on
without it, waits for nobody, so a path that only passed through is never taken for a deadlock. What waits in a way that
asyncio does not show (an Event that another task will set) is left to the time budget.

Every ask that comes to a busy actor may be under suspicion, so all suspicions of a moment are looked into together, and
a call that was followed for one of them is not followed again for the others.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbactor.errors import Deadlock
from mbactor.kernel.context import Call
from mbactor.kernel.sending import Answer

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell

LOOK_AGAIN = 0.05
"""Seconds until a suspicion that could not be confirmed is looked into again: the asker may begin to wait later."""
FEW, REST = 50, 1e-4
"""After more than so many steps the next look waits so many seconds for each, which leaves it at 5 % of the time."""
_KNOWN = ("asyncio.", "anyio.", "mbactor.")
_Running = tuple[Call, asyncio.Task[Any] | None]


class Suspects:
    """The asks of a node that stand behind a call, as long as that might wait for them."""

    __slots__ = ("_asks", "_due", "_look_handle", "_rests_until")

    def __init__(self) -> None:
        self._asks: list[Call] = []
        self._look_handle: asyncio.Handle | None = None
        self._due = math.inf
        self._rests_until = 0.0

    def add(self, ask: Call) -> None:
        """An ask stands behind a call: look into it once its sender waits."""
        before = _before(ask)
        if before is not None and (ask.via or _has_asked(before[0])):
            self._asks.append(ask)
            if self._rests_until < self._due:
                self._look_at(self._rests_until)

    def _look_at(self, due: float) -> None:
        """Look at that time and no later; as soon as the senders have gone on where that is past."""
        loop = asyncio.get_running_loop()
        if self._look_handle is not None:
            self._look_handle.cancel()
        self._due = due
        self._look_handle = loop.call_at(due, self._look) if due and due > loop.time() else loop.call_soon(self._look)

    def _look(self) -> None:
        self._look_handle, self._due = None, math.inf
        asks, self._asks = self._asks, []
        walk = Walk()
        asks = [ask for ask in asks if walk.circles(ask) and _waits_in_line(ask)]
        steps = walk.steps
        if asks:
            walk = Walk(asks)
            for ask in asks:
                walk.circles(ask)
            self._asks += filter(_waits_in_line, asks)
        self._rest_after(steps + walk.steps)

    def _rest_after(self, steps: int) -> None:
        """When to look again, and how soon at the earliest."""
        now = asyncio.get_running_loop().time()
        self._rests_until = now + steps * REST if steps > FEW else 0.0
        if self._asks:
            self._look_at(max(now + LOOK_AGAIN, self._rests_until))


@dataclass(slots=True)
class Followed:
    """A call on the way, and what led to it: the ask that it answers or that stands behind it, or the work it is."""

    by: Any
    call: Call
    task: asyncio.Task[Any] | None
    rest: Iterator[Any]
    circles: bool = False


class Walk:
    """Follows calls to what they wait for, each once.

    Where it is given asks, the oldest first, it follows what is certainly waited for, and breaks the circles it meets;
    else what might be.
    """

    __slots__ = ("_age", "_certain", "_known", "_place", "_way", "steps")

    def __init__(self, asks: list[Call] | None = None) -> None:
        self.steps = 0
        self._certain = asks is not None
        self._age = {ask: age for age, ask in enumerate(asks or ())}
        self._way: list[Followed] = []
        self._place: dict[Call, int] = {}
        self._known: dict[Call, bool] = {}

    def circles(self, ask: Call) -> bool:
        """Whether what stands before an ask goes in a circle, there or further on."""
        before = _before(ask)
        if before is None:
            return False
        if _comes_through_others(ask, before, certain=self._certain):
            if self._certain:
                _break([*_steps_from(before[0], ask), ask], [ask])
            return True
        if before[0] not in self._known:
            self._enter(ask, *before)
            while self._way:
                self._step()
        return self._known[before[0]]

    def _enter(self, by: Any, call: Call, task: asyncio.Task[Any] | None) -> None:
        self._place[call] = len(self._way)
        self._way.append(Followed(by, call, task, iter(call.pending())))

    def _step(self) -> None:
        """To the next call that the last one on the way waits for; or back, where there is none."""
        last = self._way[-1]
        for pending in last.rest:
            self.steps += 1
            if pending.done() or (self._certain and not waits_for(last.task, _awaited(pending))):
                continue
            beyond = _beyond(pending)
            if beyond is None or not _has_asked(beyond[0]):
                continue
            if beyond[0] in self._known:
                last.circles |= self._known[beyond[0]]
            elif beyond[0] not in self._place:
                self._enter(pending, *beyond)
                return
            elif self._certain:
                self._close(self._place[beyond[0]], pending)
                return
            else:
                last.circles = True
        self._way.pop()
        del self._place[last.call]
        self._known[last.call] = last.circles
        if self._way:
            self._way[-1].circles |= last.circles

    def _close(self, place: int, closing: Any) -> None:
        """The last call on the way waits for the one at `place`: break the circle, and go on before the break."""
        circle = self._way[place:]
        steps = [*(one.by for one in circle[1:]), closing]
        calls = [*(one.call for one in circle[1:]), circle[0].call]
        in_line = [at for at, by in enumerate(steps) if isinstance(by, Call) and by is not calls[at]]
        in_line.sort(key=lambda at: self._age.get(steps[at], -1), reverse=True)
        newest = in_line[0]
        spelled = [calls[newest], *map(_call_of, steps[newest + 1 :]), *map(_call_of, steps[: newest + 1])]
        broken = _break(spelled, [steps[at] for at in in_line])
        for one in self._way[place + steps.index(broken) + 1 :]:
            del self._place[one.call]
        del self._way[place + steps.index(broken) + 1 :]


def _break(circle: list[Any], in_line: list[Call]) -> Call:
    """Let an ask of a circle in where its actor admits that; else the newest fails, with the circle spelled out."""
    for ask in in_line:
        if ask.cell.cls.reentrant and ask.cell.gate(ask.route.gate).admit(ask):
            return ask
    own = all(not isinstance(call, str) and call.cell is in_line[0].cell for call in circle)
    in_line[0].fail(Deadlock(_spelled(in_line[0], circle), own=own))
    return in_line[0]


def _steps_from(call: Call, ask: Call) -> list[Any]:
    """A call, and those in other processes over which it has led to an ask."""
    steps = [*ask.via]
    return steps[steps.index(call) :]


def _spelled(ask: Call, cycle: list[Any]) -> str:
    """`A.x -> B.y -> A.z`, with what an ask stands behind where it waits in a mailbox on the way.

    A call of another process is a text, whose end is its name.
    """
    here = [call for call in cycle if not isinstance(call, str)]
    replicas = len({call.cell for call in here}) > len({call.cell.cls for call in here})
    names = []
    for call in cycle:
        if isinstance(call, str):
            names.append(call.partition(":")[2])
            continue
        name = f"{call.route.name} of {call.cell.address}" if replicas else call.route.name
        before = _before(call) if call.asked and call is not ask and not _runs(call) else None
        names.append(name + (f" (behind {before[0].route.name})" if before is not None else ""))
    return " -> ".join(names)


# --- one step ----------------------------------------------------------------------------------------------------


def _before(ask: Call) -> _Running | None:
    """The call that has to end before this one can begin, and its task; None where nothing has to."""
    cell: Cell = ask.cell
    if cell.hook is not None:
        return cell.hook.call, cell.hook.task
    worker = cell.gate(ask.route.gate).before(ask)
    return None if worker is None or worker.call is None else (worker.call, worker.task)


def _beyond(pending: Any) -> _Running | None:
    """What has to end before a pending ask or work can: itself where it runs, else what it stands behind."""
    if hasattr(pending, "task"):
        return pending.call, pending.task
    if not isinstance(pending, Call):
        return None  # it went to another process
    worker = pending.cell.worker_of(pending)
    return (pending, worker.task) if worker is not None else _before(pending)


def _comes_through_others(ask: Call, before: _Running, *, certain: bool) -> bool:
    """Whether an ask was made, in another process, for the very call that it stands behind.

    The rest of the circle cannot be seen from here; what can is that the call waits for its own part of it.
    """
    call, task = before
    return call in ask.via and (not certain or any(waits_for(task, _awaited(one)) for one in call.pending()))


def _has_asked(call: Call) -> bool:
    """Whether it has begun anything that it may wait for."""
    return (call.context or call).asks is not None


def _runs(call: Call) -> bool:
    return call.cell.worker_of(call) is not None


def _waits_in_line(ask: Call) -> bool:
    return not ask.done() and not _runs(ask)


def _awaited(pending: Any) -> asyncio.Future[Any] | None:
    """What is done when the ask or the work is; None where others may end the wait as well."""
    awaited: asyncio.Future[Any] | None = pending.task if hasattr(pending, "task") else pending.future
    return awaited


def _call_of(pending: Any) -> Call:
    call: Call = pending if isinstance(pending, Call) else pending.call
    return call


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
    if future is None:
        return
    yield future
    if future.cancelled():  # each cancellation makes its task begin to wait anew
        yield getattr(group, "_parent_task", None) or getattr(group.cancel_scope, "_host_task", None)
