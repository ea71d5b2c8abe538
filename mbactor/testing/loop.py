"""`VirtualTimeLoop`: an event loop in which waiting costs no time.

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.sleep(3600))      # returns at once, and the loop's time() is an hour later

When nothing is ready, time jumps to the next timer. It never jumps over work: while a thread of an executor, of anyio
or of `offload` is out, time stands still until it is back; while the loop watches a socket, a pipe or a process, time
passes as it does outside, because nobody can tell an idle connection from a slow one. Threads that are started in any
other way are not seen: put `with offload.busy():` around the wait for them. `mbactor.clock`, and with it "now" in
SQLite, moves with the loop.

The order of events is the same in each run: timers of one instant ring in the order in which they were set. A `seed`
shuffles those timers, and the tasks that are ready at the same time, always in the same way for the same seed.

Instead of waiting for ever the loop raises: `Standstill` when nothing can happen any more, `OutOfPatience` when one
run takes longer than `patience` in real time. Both tell which tasks wait, and where.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import selectors
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple
from weakref import WeakSet

import anyio.to_thread

from mbactor import clock, offload
from mbactor.durations import Duration, seconds, text_of
from mbactor.testing.waiting import where_tasks_wait

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = 1_767_225_600.0
"""The wall clock when a loop begins: 2026-01-01 in UTC. The same in each run, so that each run is the same."""
PATIENCE = 60.0
GRACE = 1.0
"""Real seconds to wait for a thread nobody announced, before standing still is called an error."""
SPIN = 10_000
ROUND = 1e-5
"""A loop that goes round more than `SPIN` times at one instant polls for time to pass: each further round costs it."""
RESOLUTION = 1e-6

_Ready = list[tuple[selectors.SelectorKey, int]]


class Standstill(AssertionError):
    """Nothing is ready, no timer is set and no work is out: what the tasks wait for cannot come."""


class OutOfPatience(AssertionError):
    """A run on a loop with virtual time took too long in real time."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop with virtual time; see the module. `time()` begins at 0, the wall clock at `start`.

    `seed` None or 0 keeps the order in which things were scheduled. `patience` is in real seconds.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _internal_fds: int
    _clock_resolution: float
    _default_executor: Executor | None

    def __init__(self, seed: int | None = None, *, start: float = START, patience: Duration = PATIENCE) -> None:
        self._now = 0.0
        self._start = start
        self._patience = seconds(patience)
        self._give_up_at = float("inf")
        self._began = 0.0
        self._rounds = 0
        self.turns = 0
        """How often the loop has gone round."""
        self._jobs = 0
        self._processes: WeakSet[asyncio.SubprocessTransport] = WeakSet()
        self._order = count()
        self._random = random.Random(seed) if seed else None
        self._watched = _Selector(self._idle, self._before_round)
        super().__init__(self._watched)
        # Far into virtual time a float cannot tell nanoseconds apart any more.
        self._clock_resolution = RESOLUTION

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def unix(self) -> float:
        """The virtual wall clock: what `mbactor.clock` tells while the loop runs."""
        return self._start + self._now

    def run_forever(self) -> None:
        self._give_up_at = time.monotonic() + self._patience
        self._began = self._now
        with clock.told_by(self.unix):
            super().run_forever()

    # --- what is out ------------------------------------------------------------------------------------------

    def outstanding(self) -> int:
        """How many pieces of work are out in threads and not yet back."""
        anyio_threads = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
        return self._jobs + offload.outstanding(self) + int(anyio_threads)

    def attached(self) -> bool:
        """Whether the loop watches something of the world outside: a socket, a pipe, a process."""
        watched = len(self._watched.get_map()) - self._internal_fds
        return watched > 0 or any(one.get_returncode() is None for one in self._processes)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        self._check_open()
        if executor is None:
            executor = self._default_executor = self._default_executor or ThreadPoolExecutor(
                thread_name_prefix="asyncio"
            )
        job = executor.submit(func, *args)
        self._jobs += 1
        future = asyncio.wrap_future(job, loop=self)
        # After `wrap_future`'s own, so that the result is on its way before the job counts as back.
        job.add_done_callback(self._job_ended)
        return future

    def _job_ended(self, _: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self.call_soon_threadsafe(self._job_is_back)

    def _job_is_back(self) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        with offload.busy():
            await super().shutdown_default_executor(*args, **kwargs)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        return self._process(await super().subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        return self._process(await super().subprocess_shell(*args, **kwargs))

    def _process(self, made: Any) -> Any:
        self._processes.add(made[0])
        return made

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("the event loop is closed")

    # --- order --------------------------------------------------------------------------------------------------

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_open()
        luck = self._random.random() if self._random else 0.0
        timer = _Timer(when, callback, args, self, context, (luck, next(self._order)))
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # noqa: SLF001 - as asyncio does: a cancelled one is counted
        return timer

    def _before_round(self) -> None:
        """Shuffle tasks that stand side by side in the queue; what is no task keeps its place in it."""
        self.turns += 1
        if self._random is None or len(self._ready) < 2:
            return
        # A thread may put something there at any moment: what is taken out is what was there, and it goes before that.
        queue = [self._ready.popleft() for _ in range(len(self._ready))]
        shuffled, together = list[asyncio.Handle](), list[asyncio.Handle]()
        for handle in queue:
            if isinstance(getattr(getattr(handle, "_callback", None), "__self__", None), asyncio.Task):
                together.append(handle)
                continue
            self._random.shuffle(together)
            shuffled += (*together, handle)
            together = []
        self._random.shuffle(together)
        shuffled += together
        self._ready.extendleft(reversed(shuffled))

    # --- time ---------------------------------------------------------------------------------------------------

    def _idle(self, select: Callable[[float], _Ready], timeout: float | None) -> _Ready:
        """Nothing is ready: wait for work that is out, let time pass, or jump."""
        left = self._give_up_at - time.monotonic()
        if left <= 0:
            self._out_of_patience()
        if timeout == 0:
            self._spin()
            return []
        self._rounds = 0
        if self.outstanding():
            return select(left)
        if self.attached():
            return self._pass_time(select, left if timeout is None else min(timeout, left))
        if timeout is None:
            return select(min(GRACE, left)) or self._stand_still()
        self._now = max(self._now, self._scheduled[0].when())
        return []

    def _pass_time(self, select: Callable[[float], _Ready], timeout: float) -> _Ready:
        began = time.monotonic()
        ready = select(timeout)
        self._now += min(time.monotonic() - began, timeout)
        return ready

    def _spin(self) -> None:
        self._rounds += 1
        if self._rounds > SPIN and not self.outstanding():
            self._now += ROUND

    def _stand_still(self) -> _Ready:
        raise Standstill(
            f"nothing can happen any more at {self._told()}: nothing is ready, no timer is set, no work is out."
            f" Threads of your own need `with offload.busy():`. These tasks wait:\n{where_tasks_wait(self)}"
        )

    def _out_of_patience(self) -> None:
        why = ""
        if self.outstanding():
            why = f", and {self.outstanding()} pieces of work are out in threads, so time stands still"
        elif self.attached():
            why = ", and sockets, pipes or processes are open, so time passes as outside"
        went_by = self._now - self._began
        if went_by > self._patience:
            why += (
                f". Meanwhile {_text_of(went_by)} of virtual time went by: something wakes up again and again, such as"
                " a poll, or a Foreman (more rarely with a longer `lease` and `poll_interval`)"
            )
        raise OutOfPatience(
            f"not done after {text_of(self._patience)} of real time, at {self._told()}{why}. These tasks wait:\n"
            f"{where_tasks_wait(self)}"
        )

    def _told(self) -> str:
        return f"virtual time {_text_of(self._now)}"


def _text_of(duration: float) -> str:
    return text_of(round(duration, 3) if duration < 60 else round(duration))


class _Timer(asyncio.TimerHandle):
    """A timer that knows its place among those of the same instant."""

    __slots__ = ("order",)
    _scheduled: bool

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
        order: tuple[float, int],
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.order = order

    def __lt__(self, other: Any) -> bool:
        return (self.when(), self.order) < (other.when(), other.order)


class _Selector(selectors.DefaultSelector):
    """Asks the loop what to do instead of waiting."""

    def __init__(
        self,
        idle: Callable[[Callable[[float], _Ready], float | None], _Ready],
        before_round: Callable[[], None],
    ) -> None:
        super().__init__()
        self._idle = idle
        self._before_round = before_round

    def select(self, timeout: float | None = None) -> _Ready:
        self._before_round()
        ready = super().select(0)
        return ready or self._idle(super().select, timeout)
