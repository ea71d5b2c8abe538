"""`Threads`: a bounded number of daemon threads that take jobs from event loops.

    threads = Threads(64, "mbactor")
    threads.take(job)        # at once where a thread is free, else when one becomes free, in order

Made for what `concurrent.futures.ThreadPoolExecutor` does not do: a job that nobody waits for any more gives its place
to the next one although its thread cannot be stopped, and a thread that never ends does not keep the interpreter from
exiting. It knows nothing of event loops; `mbactor.offload` does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Literal

KEEP = 60.0
"""Seconds after which a thread that has nothing to do ends."""

State = Literal["queued", "running", "ended"]
Ended = Callable[[Any, BaseException | None], None]


class Job:
    """A function on its way through a thread. `begun` and `ended(result, error)` are called in that thread."""

    __slots__ = ("begun", "ended", "function", "given_up", "state")

    def __init__(self, function: Callable[[], Any], *, ended: Ended, begun: Callable[[], None] | None = None) -> None:
        self.function = function
        self.begun = begun
        self.ended = ended
        self.state: State = "queued"
        self.given_up = False

    def work(self) -> tuple[Any, BaseException | None]:
        if self.begun is not None:
            self.begun()
        return _outcome(self.function)


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What came of it. Apart from the job, so that a traceback does not keep the job alive."""
    try:
        return function(), None
    except StopIteration as error:
        # A future refuses it, and whoever waits would wait for ever.
        wrapped = RuntimeError("a function in a thread raised StopIteration")
        wrapped.__cause__ = error
        return None, wrapped
    except BaseException as error:  # noqa: BLE001 - it is raised where the job came from
        return None, error


class Threads:
    """At most `limit` jobs run at once, not counting those that were given up.

    A thread without a job ends after `keep` seconds; `leaving` is then called in it. Threads are started when they
    are needed, and the one that worked last is used first.
    """

    def __init__(self, limit: int, name: str, *, keep: float = KEEP, leaving: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.name = name
        self._keep = keep
        self._leaving = leaving
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._all_ended = threading.Condition(self._lock)
        self._queue: deque[Job] = deque()
        self._idle: list[SimpleQueue[Job | None]] = []
        self._places = 0
        """Jobs that run and are waited for."""
        self._left = 0
        """Jobs that run and were given up."""

    def take(self, job: Job) -> None:
        """Run the job as soon as there is a place for it. Its `ended` gets a RuntimeError where no thread starts."""
        with self._lock:
            self._queue.append(job)
        self._fill()

    def give_up(self, job: Job) -> State:
        """Nobody waits for the job any more. Says how far it was: a queued one will not run."""
        with self._lock:
            state = job.state
            if state == "queued":
                self._queue.remove(job)
                job.state = "ended"
            elif state == "running" and not job.given_up:
                job.given_up = True
                self._places -= 1
                self._left += 1
        self._fill()
        return state

    def resize(self, limit: int) -> None:
        """Let so many jobs run at once from now on; those that run go on, and idle threads above it end."""
        self.limit = limit
        with self._lock:
            while self._idle and len(self._idle) + self._places > limit:
                self._idle.pop(0).put(None)
        self._fill()

    def wait_until_idle(self, seconds: float) -> bool:
        """Block until no job runs or waits, but not longer; whether that was so."""
        with self._all_ended:
            return self._all_ended.wait_for(lambda: not (self._places or self._left or self._queue), seconds)

    # --- placing jobs -----------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Give the queued jobs to threads, as far as there are places."""
        while True:
            with self._lock:
                job = self._next_job()
                if job is None:
                    return
                thread = self._idle.pop() if self._idle else None
            if thread is not None:
                thread.put(job)
            else:
                self._start(job)

    def _next_job(self) -> Job | None:
        if not self._queue or self._places >= self.limit:
            return None
        self._places += 1
        job = self._queue.popleft()
        job.state = "running"
        return job

    def _start(self, job: Job) -> None:
        name = f"{self.name}-{next(self._numbers)}"
        inbox: SimpleQueue[Job | None] = SimpleQueue()
        inbox.put(job)
        try:
            threading.Thread(target=self._serve, args=(inbox,), name=name, daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            with self._lock:
                self._end(job)
            job.ended(None, error)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _serve(self, inbox: SimpleQueue[Job | None]) -> None:
        try:
            while self._work(inbox):
                pass
        finally:
            if self._leaving is not None:
                self._leaving()

    def _work(self, inbox: SimpleQueue[Job | None]) -> bool:
        """Do the next job; False when there is none and this thread is not needed any more."""
        job = self._await_job(inbox)
        if job is None:
            return False
        outcome = job.work()
        # Before anybody hears of it, so that who hears of it finds this thread free.
        needed = self._end_and_go_on(job, inbox)
        job.ended(*outcome)
        return needed

    def _end_and_go_on(self, job: Job, inbox: SimpleQueue[Job | None]) -> bool:
        with self._lock:
            self._end(job)
            following = self._next_job()
            if following is not None:
                inbox.put(following)
            elif len(self._idle) + self._places < self.limit:
                self._idle.append(inbox)
            else:
                return False
        return True

    def _await_job(self, inbox: SimpleQueue[Job | None]) -> Job | None:
        try:
            return inbox.get(timeout=self._keep)
        except Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                    return None
            return inbox.get()

    def _end(self, job: Job) -> None:
        job.state = "ended"
        if job.given_up:
            self._left -= 1
        else:
            self._places -= 1
        self._all_ended.notify_all()
