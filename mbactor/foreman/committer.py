"""Group commit without a timer: what arrives while the database writes joins the next transaction.

An idle writer commits at once, so a lone step waits for nobody; a busy one finds more to commit each time it comes
back. Whoever handed in an operation goes on only after the transaction that holds it is durable, and so do those who
wait for the flows that came to rest in it. `commit_each` gives each operation a transaction of its own.

While the database writes, the event loop runs steps: a batch takes at most half of the outcomes that those under way
here will come to. With all of them in one batch loop and database would take turns, each waiting for the other.

Trouble with the database repeats the write until it lands, never the task. An operation that can never be written is
found by halving its batch, and fails alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, overload

from mbactor import observe
from mbactor.errors import NotAcknowledged, Unavailable
from mbactor.foreman.store.operations import (
    AddShard,
    BreakBefore,
    Cancel,
    Changed,
    Claim,
    Claimed,
    Committed,
    ContinueThread,
    Create,
    Created,
    Delete,
    DropSchedule,
    Enrol,
    Extend,
    Fork,
    Operation,
    PauseSchedule,
    Purge,
    PutSchedule,
    Reap,
    Recover,
    Release,
    Result,
    Resume,
    ResumeBreak,
    Rewind,
    Settle,
    Settled,
    Start,
    Tick,
)
from mbactor.foreman.store.store import Store, StoreTrouble, Unstorable
from mbactor.seams import any_armed, checkpoint

LARGEST_BATCH = 1_024
WORTHWHILE = 64
"""So many outcomes are worth a transaction, however few steps are under way."""
MOST_WAITING = 8_192
"""Above this many operations in the queue, those who bring more wait."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0

_Entry = tuple[Operation, "asyncio.Future[Any]"]


class Trouble(NamedTuple):
    """What keeps a store from writing, and since when by the loop's clock."""

    text: str
    since: float


class Committer:
    """The one way to write to a store. `landed` is called after each commit, before anybody goes on. `running` tells
    how many steps are under way here.
    """

    def __init__(
        self,
        store: Store,
        landed: Callable[[Committed], None],
        *,
        commit_each: bool = False,
        running: Callable[[], int] = lambda: 0,
    ) -> None:
        self.best_due: int | None = None
        """The best priority that was due and unclaimed after the last batch."""
        self.batches = 0
        self.trouble: Trouble | None = None
        """What the database says since it does not take what is written."""
        self._store = store
        self._landed = landed
        self._running = running
        self._largest = 1 if commit_each else LARGEST_BATCH
        self._queue: deque[_Entry] = deque()
        self._impatient: set[asyncio.Future[Any]] = set()
        self._room: deque[asyncio.Future[None]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._resting: asyncio.Future[None] | None = None
        """What the writer waits for while there is nothing to write."""
        self._closed = False

    @overload
    def commit(self, operation: Settle) -> Awaitable[Settled]: ...
    @overload
    def commit(self, operation: Create, *, patient: bool = True) -> Awaitable[Created]: ...
    @overload
    def commit(
        self, operation: Start | Resume | Cancel | Delete | Rewind | BreakBefore | ResumeBreak
    ) -> Awaitable[Changed]: ...
    @overload
    def commit(self, operation: Fork | ContinueThread | Tick) -> Awaitable[Created | Changed]: ...
    @overload
    def commit(self, operation: Claim) -> Awaitable[Claimed]: ...
    @overload
    def commit(self, operation: Extend) -> Awaitable[frozenset[int]]: ...
    @overload
    def commit(self, operation: Enrol | AddShard) -> Awaitable[dict[int, str]]: ...
    @overload
    def commit(
        self, operation: Release | Recover | Purge | Reap | PutSchedule | DropSchedule | PauseSchedule
    ) -> Awaitable[int]: ...

    def commit(self, operation: Operation, *, patient: bool = True) -> Awaitable[Any]:
        """Hand in an operation; its result once it is durable.

        One that is not `patient` fails with `StoreTrouble` where the database does not take it, and is not written.

        A caller that is cancelled while its operation still waits takes it back; once it is being written it may land.
        `Unstorable` where it can never be written, `Unavailable` after `close`.
        """
        if len(self._queue) >= MOST_WAITING and not self._closed:
            return self._commit_late(operation, patient=patient)
        return self._hand_in(operation, patient=patient)

    async def _commit_late(self, operation: Operation, *, patient: bool) -> Any:
        while len(self._queue) >= MOST_WAITING and not self._closed:
            await self._wait_for_room()
        return await self._hand_in(operation, patient=patient)

    def _hand_in(self, operation: Operation, *, patient: bool) -> asyncio.Future[Any]:
        if self._closed:
            raise Unavailable("the Foreman has been closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not patient:
            if self.trouble is not None:
                raise StoreTrouble(self.trouble.text)
            self._impatient.add(future)
            future.add_done_callback(self._impatient.discard)
        self._queue.append((operation, future))
        if self._resting is not None:
            self._wake()
        elif self._writing is None:
            self._begin()
        return future

    def _begin(self) -> None:
        # Not in the context of whoever comes first: the batch belongs to many.
        self._writing = asyncio.create_task(self._write_all(), name="committer", context=contextvars.Context())

    def _wake(self) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)
        self._resting = None

    async def close(self) -> None:
        """Write what has been handed in, then refuse more. Idempotent.

        What the database does not take fails with `StoreTrouble`; what it may have taken, and is not there to be asked
        about, with `NotAcknowledged`.
        """
        self._closed = True
        self._wake()
        while self._writing is not None:  # one that was cancelled may have a successor
            await asyncio.wait([self._writing])

    async def _wait_for_room(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append(turn)
        await turn

    async def _write_all(self) -> None:
        batch: list[_Entry] = []
        try:
            while self._queue or not self._closed:
                if self._queue:
                    batch = self._take()
                    await self._write(batch)
                    batch = []
                else:
                    self._resting = asyncio.get_running_loop().create_future()
                    await self._resting
        finally:
            # No await between the last look at the queue and this: what arrives later starts a new writer.
            self._writing = self._resting = None
            if batch:
                self._abandon(batch, sys.exception())
            elif self._queue:  # it came as the resting writer was cancelled
                self._begin()

    def _abandon(self, batch: list[_Entry], error: BaseException | None) -> None:
        """The store itself is at fault: nobody may wait for ever."""
        self._closed = True
        waiting, self._queue = [*batch, *self._queue], deque()
        reason = f"{type(error).__name__}: {error}" if error else "it was stopped"
        _fail(waiting, Unavailable(f"the Foreman's writer broke off: {reason}"))
        for turn in self._room:
            if not turn.done():
                turn.set_result(None)

    def _take(self) -> list[_Entry]:
        batch: list[_Entry] = []
        outcomes = WORTHWHILE
        if len(self._queue) > outcomes:
            outcomes = max(outcomes, self._running() // 2)
        while self._queue and len(batch) < self._largest and outcomes:
            entry = self._queue.popleft()
            if not entry[1].done():
                batch.append(entry)
                outcomes -= isinstance(entry[0], Settle)
        while self._room and len(self._queue) < MOST_WAITING:
            turn = self._room.popleft()
            if not turn.done():
                turn.set_result(None)
        return batch

    async def _write(self, batch: list[_Entry]) -> None:
        pause = FIRST_PAUSE
        while batch:
            operations = [operation for operation, _ in batch]
            try:
                if any_armed():
                    await checkpoint("foreman.write.before", operations=operations)
                committed = await self._store.commit(operations, self._doubted)
                if any_armed():
                    await checkpoint("foreman.write.after", operations=operations)
            except Unstorable as error:
                await self._halve(batch, error)
                return
            except NotAcknowledged as error:
                _fail(batch, error)
                return
            except StoreTrouble as error:
                observe.emit("foreman.trouble", error=str(error))
                self._in_trouble(error)
                if self._closed:
                    _fail(batch, error)
                    return
                _fail([entry for entry in batch if entry[1] in self._impatient], error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                batch = [entry for entry in batch if not entry[1].done()]
            else:
                self._release(batch, committed)
                return

    def _doubted(self, why: str) -> bool:
        """Whether a batch has landed is not known. It waits until that is, or until `close`; nobody else need."""
        self._in_trouble(StoreTrouble(why))
        return not self._closed

    def _in_trouble(self, error: StoreTrouble) -> None:
        """The database does not take what is written: let go of those who wait behind a batch and are not patient."""
        since = self.trouble.since if self.trouble is not None else asyncio.get_running_loop().time()
        self.trouble = Trouble(str(error), since)
        _fail([entry for entry in self._queue if entry[1] in self._impatient], error)

    async def _halve(self, batch: list[_Entry], error: Unstorable) -> None:
        if len(batch) == 1:
            _fail(batch, error)
            return
        middle = len(batch) // 2
        await self._write(batch[:middle])
        await self._write(batch[middle:])

    def _release(self, batch: list[_Entry], committed: Committed) -> None:
        self.batches += 1
        if self.trouble is not None:
            observe.emit("foreman.back", shard=self._store.shard)
            self.trouble = None
        self.best_due = committed.best_due
        self._landed(committed)
        for (operation, future), result in zip(batch, committed.results, strict=True):
            if not future.done():
                future.set_result(result)
            else:
                self._give_back(operation, result)

    def _give_back(self, operation: Operation, result: Result) -> None:
        """Its caller went away while it was being written: what it leased has nobody to run it."""
        worker, steps = leased(operation, result)
        if steps and not self._closed:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._queue.append((Release(worker, steps), future))


def leased(operation: Operation, result: Result) -> tuple[str, tuple[int, ...]]:
    """Who was given which steps by an operation."""
    match operation, result:
        case Claim(), Claimed():
            return operation.lease.worker, tuple(step.id for step in result.steps)
        case Create(), Created() if operation.entry.lease is not None and not result.existed:
            return operation.entry.lease.worker, (result.step_id,)
        case Settle(), Settled():
            held = [(one.step.lease.worker, one.step_id) for one in result.inserted if one.step.lease is not None]
            return (held[0][0], tuple(step_id for _, step_id in held)) if held else ("", ())
        case _:
            return "", ()


def _fail(entries: list[_Entry], error: BaseException) -> None:
    for _, future in entries:
        if not future.done():
            future.set_exception(error)
