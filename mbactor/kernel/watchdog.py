"""Names what keeps the event loop from going round: the method, the line, and for how long.

    watchdog = Watchdog(running=node.running, limit="100ms")
    watchdog.start()          # on the loop that it watches
    ...
    watchdog.stop()

A thread looks at the stack of the loop's thread every 50 ms, every 100 ms when all is quiet. A loop that waits for
something to happen is seen by its stack and is left alone: it is never woken, and looking costs about 0.1 % of a
processor. A loop that is at work is sent one ping; when the ping is not answered within the limit and it is still the
same call that runs, the call is reported: once at once, and once when it is over, with the whole time. So many short
calls in a row are no blockage, and one that is at most twice as long as the limit may go unseen.

Time in which the whole process did not run (it was stopped, or the machine slept) is nobody's fault and does not count;
time in which C code kept the interpreter for itself does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Literal

from mbactor import observe
from mbactor.durations import Duration, seconds
from mbactor.kernel.stacks import CALLBACK, at_rest, seen, uncollected

if sys.platform == "linux":
    import resource

LIMIT = 0.1
"""Seconds the loop may be kept before it is reported."""
QUIET = 20
"""Looks in a row at a loop that rests, after which it is looked at half as often."""

AtHand = tuple[str, str] | tuple[str, str, int]
"""What runs: the actor's address, the method and, to tell one call of it from the next, the number of the call."""
Running = Callable[[], AtHand | None]


class Watchdog:
    """Watches the loop on which it is started. `limit` None: it does nothing.

    `running` says which call is at hand. It is called from another thread, and must be quick and not raise. Several
    watchdogs of one loop share a thread and report a blockage once; the smallest limit counts.
    """

    def __init__(self, running: Running, limit: Duration | None = LIMIT) -> None:
        self.running = running
        self.limit = None if limit is None else seconds(limit)
        self._watch: _Watch | None = None

    def start(self) -> None:
        if self.limit is None or self._watch is not None:
            return
        loop = asyncio.get_running_loop()
        with _lock:
            watch = self._watch = _watches.get(loop) or _Watch(loop)
            watch.join(self)
            if loop not in _watches:
                _watches[loop] = watch
                watch.begin()

    def stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            with _lock:
                watch.leave(self)


# --- decisions --------------------------------------------------------------------------------------------------------


Why = Literal["in time", "stopped", "waited", "kept"]
"""Why a look came late: the process did not run; other threads had the interpreter; the loop's thread kept it."""


@dataclass(frozen=True)
class Sample:
    """What one look at a loop that does not rest showed, and how much later than wanted that was."""

    at: float
    turn: int
    """How many answers the loop has given: the same number twice means that it did not go round."""
    what: object = None
    late: float = 0.0
    why: Why = "in time"


@dataclass(frozen=True)
class Suspicion:
    """Since when, as far as known, the loop has been at the same thing."""

    since: float
    turn: int
    what: object


def suspect(before: Suspicion | None, sample: Sample) -> Suspicion | None:
    """What is suspected after a sample of a loop that does not rest, given what was suspected before."""
    if before is not None and (before.turn, before.what) == (sample.turn, sample.what):
        return replace(before, since=before.since + sample.late) if sample.why == "stopped" else before
    # One piece of C code kept the interpreter, and it has only just let go: what is at hand now was so all the time.
    since = sample.at - sample.late if sample.why == "kept" else sample.at
    return Suspicion(since, sample.turn, sample.what)


def why_late(late: float, switches: float, worked: float) -> Why:
    """Why a look came late, given how often this thread woke up meanwhile and how long the loop's thread worked.

    A thread that waits for the interpreter wakes up at each switch interval to ask for it; one that is stopped does
    not.
    """
    if worked > late / 2:
        return "kept"
    return "stopped" if switches < 0.3 * late / max(sys.getswitchinterval(), 1e-3) else "waited"


# --- the thread ------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_watches: dict[asyncio.AbstractEventLoop, _Watch] = {}
os.register_at_fork(after_in_child=_watches.clear)  # the threads are not in the child


@dataclass(frozen=True)
class _Reported:
    """A blockage that was told and is not over."""

    suspicion: Suspicion
    actor: str | None
    method: str | None
    where: str | None


class _Watch:
    """The thread that watches one loop, for all watchdogs of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched = threading.get_ident()
        self._watchdogs: tuple[Watchdog, ...] = ()
        self._limit = LIMIT
        self._base = asyncio.Runner.run.__code__
        self._answers = 0
        self._answered_at = 0.0
        self._pinged = False
        self._suspicion: Suspicion | None = None
        self._reported: _Reported | None = None
        self._rests = 0
        self._bell = threading.Lock()
        """Held while there is nothing new to hear: of all that can be waited for with a timeout it costs least."""
        self._bell.acquire()

    def begin(self) -> None:
        self._loop.call_soon(self._learn)
        threading.Thread(target=self._run, name="mbactor-watchdog", daemon=True).start()

    def join(self, watchdog: Watchdog) -> None:
        self._set((*self._watchdogs, watchdog))

    def leave(self, watchdog: Watchdog) -> None:
        self._set(tuple(one for one in self._watchdogs if one is not watchdog))
        if not self._watchdogs:
            _watches.pop(self._loop, None)

    def _set(self, watchdogs: tuple[Watchdog, ...]) -> None:
        self._watchdogs = watchdogs
        self._limit = min((one.limit for one in watchdogs if one.limit is not None), default=self._limit)
        if self._bell.locked():
            self._bell.release()

    # --- on the loop

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
        self._answers += 1
        self._pinged = False
        self._learn()

    def _learn(self) -> None:
        """See who runs a loop that is written in C: when it rests, that is the innermost frame."""
        below = sys._getframe(1)  # noqa: SLF001
        while below.f_globals.get("__name__") == __name__ and below.f_back is not None:
            below = below.f_back
        if below.f_code is not CALLBACK:
            self._base = below.f_code

    # --- on the thread

    def _run(self) -> None:
        try:
            self._look_again_and_again()
            self._judge(None, time.monotonic())
        finally:
            with _lock:
                if _watches.get(self._loop) is self:
                    del _watches[self._loop]

    def _look_again_and_again(self) -> None:
        meter = _Meter(self._watched)
        while self._watchdogs:
            pause = self._pause()
            wanted = time.monotonic() + pause
            self._bell.acquire(timeout=pause)
            worked = meter.worked()
            # Nothing more is done for a loop that rests: this is what an idle node costs.
            if self._loop_rests():
                self._rest()
            elif self._loop.is_running():
                self._look(time.monotonic(), wanted, worked - pause, meter.switches())
            elif self._loop.is_closed():
                return
            else:
                self._rest()

    def _rest(self) -> None:
        self._rests += 1
        if self._suspicion is not None:
            self._judge(None, time.monotonic())

    def _pause(self) -> float:
        if self._suspicion is None or self._reported is not None:
            return self._limit / 2 if self._rests < QUIET else self._limit
        left = self._suspicion.since + self._limit - time.monotonic()
        return max(self._limit / 20, min(self._limit / 2, left))

    def _loop_rests(self) -> bool:
        with uncollected():
            frame = self._frame()
            return frame is not None and at_rest(frame, self._base)

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._watched)  # noqa: SLF001 - the only way to see another thread

    def _look(self, now: float, wanted: float, worked: float, switches: float) -> None:
        self._rests = 0
        late = now - wanted
        why = why_late(late, switches, worked) if late > self._limit / 2 else "in time"
        self._judge(suspect(self._suspicion, Sample(now, self._turn(), self._at_hand(), late, why)), now)

    def _judge(self, suspicion: Suspicion | None, now: float) -> None:
        reported = self._reported
        if reported is not None and not _is_same(suspicion, reported.suspicion):
            self._reported = None
            self._tell_end(reported, now)
        if suspicion is not None and not _is_same(suspicion, self._suspicion):
            self._ping()
        self._suspicion = suspicion
        if suspicion is None:
            return
        if self._reported is not None:
            self._reported = replace(self._reported, suspicion=suspicion)
        elif now - suspicion.since >= self._limit:
            self._reported = self._tell(suspicion, now)

    def _at_hand(self) -> tuple[AtHand | None, object]:
        """The call at hand and the task: whichever changes, the loop is at something else."""
        task = asyncio.current_task(self._loop)
        call = next((found for one in self._watchdogs if (found := one.running()) is not None), None)
        return call, None if task is None else weakref.ref(task)

    def _turn(self) -> int:
        """A loop that counts its rounds itself needs no ping, which could change the order of what it runs."""
        turns: int | None = getattr(self._loop, "turns", None)
        return self._answers if turns is None else turns

    def _ping(self) -> None:
        if not self._pinged and not hasattr(self._loop, "turns"):
            self._pinged = True
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._answer)

    def _tell(self, suspicion: Suspicion, now: float) -> _Reported:
        call, _ = suspicion.what if isinstance(suspicion.what, tuple) else (None, None)
        actor, method = call[:2] if call is not None else (None, None)
        with uncollected():
            where, calls = seen(self._frame(), self._base)
        observe.emit(
            "loop.blocked",
            actor=actor,
            method=method,
            seconds=now - suspicion.since,
            where=where,
            calls=calls,
            over=False,
        )
        return _Reported(suspicion, actor, method, where)

    def _tell_end(self, reported: _Reported, now: float) -> None:
        answered = self._answers != reported.suspicion.turn and not hasattr(self._loop, "turns")
        observe.emit(
            "loop.blocked",
            actor=reported.actor,
            method=reported.method,
            seconds=(self._answered_at if answered else now) - reported.suspicion.since,
            where=reported.where,
            over=True,
        )


def _is_same(one: Suspicion | None, other: Suspicion | None) -> bool:
    return one is not None and other is not None and (one.turn, one.what) == (other.turn, other.what)


class _Meter:
    """How long another thread has worked, and how often this one has woken up, since the last reading.

    Where the system does not tell of single threads, it is the time the whole process worked.
    """

    def __init__(self, thread: int) -> None:
        self._clock = time.pthread_getcpuclockid(thread) if hasattr(time, "pthread_getcpuclockid") else None
        self._worked = self._switches = 0.0
        self.worked()
        self.switches()

    def worked(self) -> float:
        before = self._worked
        if self._clock is None:
            self._worked = time.process_time()
        else:
            try:
                self._worked = time.clock_gettime(self._clock)
            except OSError:  # the thread has ended
                self._clock = None
        return self._worked - before

    def switches(self) -> float:
        before = self._switches
        if sys.platform == "linux":
            self._switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        return self._switches - before
