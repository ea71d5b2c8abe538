"""The one door through which work leaves the event loop: threads, database drivers, worker processes.

    with offload.busy():
        rows = await driver.fetch(...)          # a driver that has a thread or a socket of its own
    total = await offload.run(checksum, data)   # a blocking function, in a worker thread

While work is out, `outstanding()` is above zero. A loop with virtual time reads it and lets the clock
stand still until the work is back; nothing else depends on it. (Worker processes: `mbactor.processes`.)
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from mbactor.threads import Job, Threads

P = ParamSpec("P")
T = TypeVar("T")


class _Count:
    __slots__ = ("out",)

    def __init__(self) -> None:
        self.out = 0


_counts: WeakKeyDictionary[asyncio.AbstractEventLoop, _Count] = WeakKeyDictionary()


def outstanding(loop: asyncio.AbstractEventLoop | None = None) -> int:
    """How many pieces of work are out of `loop` (by default the running one) and not yet back."""
    return _count_of(loop or asyncio.get_running_loop()).out


class busy:  # noqa: N801 - reads as a word
    """Count the block as work that is out of the running loop."""

    __slots__ = ("_count",)

    def __enter__(self) -> None:
        self._count = _count_of(asyncio.get_running_loop())
        self._count.out += 1

    def __exit__(self, *_: object) -> None:
        self._count.out -= 1


def _count_of(loop: asyncio.AbstractEventLoop) -> _Count:
    count = _counts.get(loop)
    if count is None:
        count = _counts[loop] = _Count()
    return count


async def left_behind(grace: float) -> bool:
    """At the end of a program: cancel what is still at work on this loop, and give it `grace` seconds to end.

    Whether anything goes on all the same, tasks or threads that would keep the process alive.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    stubborn = (await asyncio.wait(tasks, timeout=grace))[1] if tasks else set()
    threads = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    return bool(stubborn) or bool(threads)


THREADS = 64
"""Blocking functions that run at once and are waited for; more wait for a thread."""
GRACE = 1.0
"""Seconds that functions still at work have when the process ends; then they are cut off."""

_threads = Threads(THREADS, "mbactor")


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a worker thread, with the caller's context variables.

    Costs a thread hop (20 to 35 us). Whatever the function raises comes out here, `SystemExit` too; only a
    `StopIteration`, which nothing that is awaited may raise, becomes a `RuntimeError`.

    Cancelling the await takes the function out of the queue if it has not begun. One that runs cannot be stopped: it
    counts as out until it returns, but no longer as one of the `THREADS`, so that functions which never end do not
    keep others from running. Nor do they keep the process from ending: it waits `GRACE` seconds for them.
    """
    return await carry(_threads, partial(function, *args, **kwargs))


async def run_begun(begun: Callable[[], None], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `run`; `begun` is called on the loop when the function has a thread and starts."""
    return await carry(_threads, partial(function, *args, **kwargs), begun=begun)


async def carry(
    threads: Threads,
    function: Callable[[], T],
    *,
    begun: Callable[[], None] | None = None,
    given_up: Callable[[], None] | None = None,
) -> T:
    """Run a function in one of `threads`, counted as out of the running loop until it returns.

    `given_up` is called when the await is cancelled while the function runs: the chance to end what it waits for.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def back(result: T | None, error: BaseException | None) -> None:
        _count_of(loop).out -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    job = Job(
        partial(contextvars.copy_context().run, function),
        begun=None if begun is None else partial(_on_loop, loop, begun),
        ended=partial(_on_loop, loop, back),
    )
    _count_of(loop).out += 1
    threads.take(job)
    try:
        return await future
    except BaseException:
        if future.cancel() or future.cancelled():  # the await ended, and not by what the function raised
            _give_up(loop, threads, job, given_up)
        raise


def _give_up(loop: asyncio.AbstractEventLoop, threads: Threads, job: Job, given_up: Callable[[], None] | None) -> None:
    match threads.give_up(job):
        case "queued":
            _count_of(loop).out -= 1
        case "running" if given_up is not None:
            given_up()


def _on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
        loop.call_soon_threadsafe(callback, *args)


def _after_fork() -> None:
    """The threads of the parent are not in its child."""
    global _threads
    _threads = Threads(THREADS, "mbactor")


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _at_exit() -> None:
    with suppress(KeyboardInterrupt):
        _threads.wait_until_idle(GRACE)
