"""The one door through which work leaves the event loop: threads, database drivers, worker processes.

    with offload.busy():
        rows = await driver.fetch(...)          # a driver that has a thread or a socket of its own
    total = await offload.run(checksum, data)   # a blocking function, in a worker thread

While work is out, `outstanding()` is above zero. A loop with virtual time reads it and lets the clock
stand still until the work is back; nothing else depends on it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")

_out: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()


def outstanding(loop: asyncio.AbstractEventLoop | None = None) -> int:
    """How many pieces of work are out of `loop` (by default the running one) and not yet back."""
    return _out.get(loop or asyncio.get_running_loop(), 0)


@contextmanager
def busy() -> Iterator[None]:
    """Count the block as work that is out of the running loop."""
    loop = asyncio.get_running_loop()
    _out[loop] = _out.get(loop, 0) + 1
    try:
        yield
    finally:
        _out[loop] -= 1


THREADS = 64
"""Blocking functions that run at once; more wait for a thread."""

_pool: ThreadPoolExecutor | None = None


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a worker thread, with the caller's context variables.

    Costs a thread hop (20 to 35 us). Cancelling the await does not stop the function: a thread
    cannot be stopped, and its work counts as out until the function returns.
    """
    return await run_begun(lambda: None, function, *args, **kwargs)


async def run_begun(begun: Callable[[], None], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `run`; `begun` is called on the loop when the function has a thread and starts."""
    global _pool
    loop = asyncio.get_running_loop()
    if _pool is None:
        _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="mbactor")
    context = contextvars.copy_context()

    def work() -> T:
        loop.call_soon_threadsafe(begun)
        try:
            return context.run(function, *args, **kwargs)
        except StopIteration as error:
            # A future refuses it, and whoever waits would wait for ever.
            raise RuntimeError(f"{function!r} raised StopIteration") from error

    _out[loop] = _out.get(loop, 0) + 1
    future = loop.run_in_executor(_pool, work)
    future.add_done_callback(lambda _: _back(loop))
    return await asyncio.shield(future)


def _back(loop: asyncio.AbstractEventLoop) -> None:
    _out[loop] -= 1
