"""How long an ask may take: the smallest of the caller's anyio deadline, that of the message at hand, and the cap."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import ref

import anyio.lowlevel

if TYPE_CHECKING:
    from mbactor.kernel.context import Call
    from mbactor.kernel.worker import Worker

DEFAULT_BUDGET = 20.0
"""Seconds an ask has where nothing else limits it."""
BUDGET_CAP = 900.0
"""No ask waits longer than this."""
CLEAN_UP_BUDGET = 5.0
"""Seconds for asks made in a shielded clean-up that has no deadline of its own."""
SCOPE_MARGIN = 0.002
"""An ask ends that much before the cancel scope around it, so that the asker learns what it waited for."""


def granted(budget: float | None, *, asked: bool) -> float:
    """Seconds for which a request that comes from elsewhere is worked on: what it says, up to the cap; none where that
    is no time at all (negative, not a number). An ask that says nothing has the default, a tell is not limited.
    """
    if budget is None:
        return DEFAULT_BUDGET if asked else math.inf
    return min(budget, BUDGET_CAP) if budget > 0 else 0.0


_states: Mapping[Any, Any] | None = None
try:
    # What anyio knows of tasks. Most have no scope at all, or a single one without a deadline, and to learn that from
    # its public function costs more than half of all that an ask does. Where an anyio keeps this elsewhere, that
    # function is asked each time.
    from anyio._backends import _asyncio as _anyio

    if {"_parent_scope", "_deadline", "_cancel_called"} <= {*_anyio.CancelScope.__slots__}:
        _states = getattr(_anyio._task_states, "data")  # noqa: B009, SLF001 - to type checkers it is not there
except (ImportError, AttributeError):
    pass
_backend_asks: Callable[[], float] | None = None
_NEVER = math.inf


if sys.version_info < (3, 12):
    # Before asyncio had it in C: the function is a Python one over this mapping, and takes three times as long.
    _current_task: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = getattr(
        asyncio.tasks, "_current_tasks", {}
    ).get
else:
    _current_task = asyncio.current_task


def _effective_deadline() -> float:
    """Anyio's own function, without the look for the backend that it begins with each time."""
    global _backend_asks
    asks = _backend_asks
    if asks is None:
        backend: Any = anyio.lowlevel.current_token().backend_class
        asks = _backend_asks = backend.current_effective_deadline
    return asks()


def deadline_of_ask(caller: Call | None, now: float, loop: asyncio.AbstractEventLoop) -> float:
    """When an ask made now ends, by the loop's clock.

    Where the caller's deadline would cut it short, a scope that shields the asking code counts instead: its own
    deadline, or the time for a clean-up where it has none.
    """
    scope = _NEVER
    if _states is None:
        scope = _effective_deadline()
    else:
        task = _current_task(loop)
        state = _states.get(ref(task)) if task is not None else None
        inner = state.cancel_scope if state is not None else None
        if inner is not None and (inner._parent_scope or inner._deadline != _NEVER or inner._cancel_called):  # noqa: SLF001
            scope = _effective_deadline()
    handled = caller.deadline if caller is not None else _NEVER
    if scope is _NEVER and handled == _NEVER:
        return now + DEFAULT_BUDGET
    if handled - now < CLEAN_UP_BUDGET or handled < scope < math.inf:
        handled = _unless_shielded(caller, handled, scope, now)
    if now < scope < math.inf:  # one that was cancelled has minus infinity, of which a tenth is no number
        scope -= min(SCOPE_MARGIN, (scope - now) / 10)
    nearest = min(scope, handled)
    return now + DEFAULT_BUDGET if nearest == math.inf else min(nearest, now + BUDGET_CAP)


def _unless_shielded(caller: Call | None, handled: float, scope: float, now: float) -> float:
    """The caller's deadline, or what counts instead of it within a shield."""
    if handled > now and not _shielded(caller, handled):
        return handled
    if scope <= now:
        return handled
    return math.inf if scope < math.inf else now + CLEAN_UP_BUDGET


def _shielded(caller: Call | None, handled: float) -> bool:
    """Whether the running code is shielded from its worker's scope: asked by lending that scope the deadline."""
    worker = caller.cell.worker_of(caller) if caller is not None and not caller.outside else None
    if worker is None or worker.scope.cancel_called or not _reaches(worker):
        return False
    worker.scope.deadline = handled
    shielded = _effective_deadline() > handled
    worker.scope.deadline = math.inf
    return shielded


def _reaches(worker: Worker) -> bool:
    """Whether the worker's scope is around the running task: its own, or one of anyio's task groups below it."""
    task = asyncio.current_task()
    if task is None or task is worker.task:
        return task is not None
    if _states is None:
        parents = {one.id: one.parent_id for one in anyio.get_running_tasks()}
        found = parents.get(id(task))
        while found is not None and found != id(worker.task):
            found = parents.get(found)
        return found is not None
    state = _states.get(ref(task))
    scope = state.cancel_scope if state is not None else None
    while scope is not None and scope is not worker.scope:
        scope = scope._parent_scope  # noqa: SLF001
    return scope is not None


def shields(worker: Worker) -> bool:
    """Whether the method that a worker runs is just shielded from the worker's scope, or may be: not every anyio shows
    that.
    """
    state = None if _states is None else _states.get(ref(worker.task))
    scope = None if state is None else state.cancel_scope
    while scope is not None and scope is not worker.scope:
        if scope.shield:
            return True
        scope = scope._parent_scope  # noqa: SLF001
    return scope is None
