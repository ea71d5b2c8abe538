"""`Incarnation`: one life of an actor, from its construction to the end of `on_stop`.

The address and the mailbox belong to the cell and stay; what an incarnation started ends with it. One that could
not be ended in time is abandoned: what it still does is refused, because it is no longer its cell's current one.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import secrets
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from mbactor import observe
from mbactor.errors import ActorCrashed, ActorStopped
from mbactor.kernel.context import Call, Hooked, current, fence
from mbactor.kernel.exit import KILLED, NORMAL, Exit
from mbactor.kernel.ref import ActorRef
from mbactor.kernel.timers import Timer
from mbactor.kernel.worker import GRACE, Worker

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.gate import Gate


class Incarnation(msgspec.Struct, eq=False):
    """Runs for a cell; ends by itself, or when the cell is told to stop."""

    cell: Cell
    number: int
    context: contextvars.Context
    """That of the actor's start."""
    actor: Any = None
    timers: set[Timer] | None = None
    _closed: bool = False
    _id: str | None = None
    _wanted: Exit | None = None
    _end: asyncio.Task[Exit] | None = None
    _until: float = math.inf
    _sooner: asyncio.Event | None = None
    _tasks: dict[asyncio.Task[Any], Call] | None = None
    _watched: set[Cell] | None = None
    _idle: asyncio.TimerHandle | None = None
    _rung: int | None = None

    @property
    def id(self) -> str:
        if self._id is None:
            self._id = f"id-{secrets.token_hex(5)}"
        return self._id

    def check_current(self) -> None:
        """An incarnation that was left behind may not act in its successor's name."""
        if self.cell.current is not self:
            raise ActorStopped(f"{self.cell.address} (incarnation {self.number})")

    # --- background work --------------------------------------------------------------------------------------

    def spawn_task(self, work: Coroutine[Any, Any, Any], name: str | None) -> asyncio.Task[Any]:
        """Run work that ends with this incarnation; its exception is a crash of the actor."""
        if self._closed:
            work.close()
            raise ActorStopped(f"{self.cell.address} (incarnation {self.number})")
        tasks = self._tasks = self._tasks if self._tasks is not None else {}
        call = Call(self.cell.routes.background, {}, self.cell)
        context = contextvars.copy_context()
        context.run(current.set, call)
        # No coroutine around it: where that is cancelled before it began, the work was never awaited, and Python warns.
        task = asyncio.get_running_loop().create_task(
            work, name=name or f"{self.cell.address} background", context=context
        )
        tasks[task] = call
        task.add_done_callback(self._task_done)
        spawning = current.get()
        if spawning is not None and spawning.cell is self.cell:
            spawning.note(Background(call, task))
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        if self._tasks is not None:
            self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return  # the process ends
        if error is not None and self.cell.current is self:
            self.cell.crashed(error, None, task.get_name(), self)

    def cancel_tasks(self) -> list[asyncio.Task[Any]]:
        """Cancel all background work; no more is begun."""
        self._closed = True
        tasks = list(self._tasks or ())
        for task in tasks:
            task.cancel()
        return tasks

    def release(self) -> None:
        """Timers and watches end with the incarnation that made them."""
        for timer in tuple(self.timers or ()):
            timer.end()
        for cell in self._watched or ():
            if cell.watchers is not None:
                cell.watchers.pop(self, None)
        self._watched = None
        self.watch_idleness(None)
        if self.cell.current in {None, self}:
            self.cell.idle_after = None

    # --- watching ------------------------------------------------------------------------------------------------

    def watch(self, cell: Cell) -> None:
        """`on_exit` is due once when the cell has ended for good; at once where it has."""
        watched = self._watched = self._watched if self._watched is not None else set()
        watched.add(cell)
        if cell.ended is not None:
            self._take_back_notice(cell)  # one that waits is not doubled
            self.has_ended(cell, cell.ended)
        else:
            cell.watchers = cell.watchers if cell.watchers is not None else {}
            cell.watchers[self] = None

    def unwatch(self, cell: Cell) -> None:
        """No notice comes any more, not even one that waits in the mailbox."""
        if self._watched:
            self._watched.discard(cell)
        if cell.watchers is not None:
            cell.watchers.pop(self, None)
        if cell.ended is not None:
            self._take_back_notice(cell)

    def has_ended(self, cell: Cell, exit: Exit) -> None:
        """A watched actor has ended for good: it is told, and forgotten."""
        if self.cell.current is self and self._watched is not None and cell in self._watched:
            self._watched.discard(cell)
            self.cell.notice("on_exit", ref=ActorRef(cell), exit=exit)

    def _take_back_notice(self, cell: Cell) -> None:
        main = self.cell.main
        if main is not None:
            told = self.cell.routes.hooks["on_exit"]
            notices = [
                call for call in main.queue.everything() if call.route is told and call.kwargs["ref"].cell is cell
            ]
            for notice in notices:
                main.queue.withdraw(notice)

    # --- idleness -------------------------------------------------------------------------------------------------

    def watch_idleness(self, after: float | None) -> None:
        """Ring after so long without a message; None: not any more."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._rung = None
        if after is not None:
            served = self._served()
            self._idle = asyncio.get_running_loop().call_later(after, self._been_idle, after, served)

    def at_rest(self, after: float) -> None:
        """Nothing is left to do. Where it has rung, and nothing but that was handled since, it does not ring again."""
        if self._served() != self._rung:
            self.watch_idleness(after)

    def _been_idle(self, after: float, served: int) -> None:
        self._idle = None
        if self.cell.current is not self:
            return
        if self._served() == served and not self._busy():
            self.cell.notice("on_receive_timeout")
            self._rung = self._served()
        elif not self._busy():
            self.watch_idleness(after)

    def _served(self) -> int:
        return sum(gate.accepted() for gate in self.cell.gates)

    def _busy(self) -> bool:
        return any(len(gate.queue) or any(worker.call for worker in gate.workers) for gate in self.cell.gates)

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """`self.stop()`: a clean end after the message in hand."""
        self.end_by_itself(NORMAL)

    def started(self) -> None:
        """It runs; an end that was wanted while it started begins now."""
        if self._wanted is not None:
            self.end_by_itself(self._wanted)

    def end_by_itself(self, exit: Exit, over: Call | None = None) -> None:
        """Begin the end of this incarnation; the supervisor is told when it is over. `over` is a call that crashed."""
        cell = self.cell
        if cell.state == "starting":
            self._wanted = self._wanted or exit
        elif cell.state == "running" and cell.current is self:
            if not exit.clean and self.ends_at_once(over):
                cell.told(self.end_now(exit))
                return
            self._begin_end(exit, cell.shutdown, hurry=not exit.clean)
            cell.node.background(self._tell_end(), f"{cell.address} ending")

    def ends_at_once(self, over: Call | None = None) -> bool:
        """Whether there is nothing to wait for: no hook, no background work, and no method but the one that is over."""
        if not self.cell.routes.stops_plainly:
            return False
        if self._tasks or self.timers or self._watched or self._idle or self._end:
            return False  # there is something to clear away
        for gate in self.cell.gates:  # noqa: SIM110 - on the path of every restart
            if gate.runs_but_for(over):
                return False
        return True

    def end_now(self, exit: Exit) -> Exit:
        """What `_run_end` comes to where it has nothing to wait for. It spares a stop, or a crash, two tasks."""
        cell = self.cell
        self._closed = True
        cell.state = "stopping"
        cell.idle_after = None
        for gate in cell.gates:
            gate.retire()
        return self._down(exit)

    async def _tell_end(self) -> None:
        assert self._end is not None
        self.cell.told(await self._end)

    async def end(self, exit: Exit, timeout: float | None) -> Exit:
        """Stop it, for whoever supervises it: `timeout` None waits for ever, 0 kills. How it really ended."""
        if self._end is None:
            self._begin_end(exit, timeout, hurry=False)
        elif timeout is not None:
            self._until = min(self._until, asyncio.get_running_loop().time() + timeout)
            if self._sooner is not None:
                self._sooner.set()
            if timeout == 0:
                _halt(self.cell.gates)
        assert self._end is not None
        return await asyncio.shield(self._end)

    def _begin_end(self, exit: Exit, timeout: float | None, *, hurry: bool) -> None:
        loop = asyncio.get_running_loop()
        self._until = math.inf if timeout is None else loop.time() + timeout
        self._sooner = asyncio.Event()
        if self.cell.state == "starting" and self.cell.hook is not None:
            fence(self.cell.hook.call)  # it goes on in `on_start`, and nobody waits for that any more
        self.cell.state = "stopping"
        gates = self.cell.gates
        aside = [gate for gate in gates if gate is not self.cell.main]
        _halt(gates if hurry or timeout == 0 else aside or gates)
        self._end = self.cell.node.background(self._run_end(exit, hurry=hurry), f"{self.cell.address} ending")

    async def _run_end(self, exit: Exit, *, hurry: bool) -> Exit:
        """Finish or cancel what runs, run `on_stop`, end background tasks."""
        left: list[Worker] = []
        for gate in self.cell.gates:
            left += await self._retire(gate, hurry=hurry)
        cut = await self._cut(left, exit) and not hurry
        self.release()
        cut = cut or self._left() <= 0 or not await self._run_on_stop(exit)
        background = self.cancel_tasks()
        if background:
            _, running = await asyncio.wait(background, timeout=GRACE)
            for task in running:
                self._leave_behind(task.get_name(), (self._tasks or {}).get(task))
        self.release()  # what on_stop has set
        return self._down(KILLED if cut and exit.clean else exit)

    def _down(self, ended: Exit) -> Exit:
        cell = self.cell
        self.actor = None  # which knows this: so both are gone at once, without the garbage collector
        if not cell.node.stopping:  # nobody is going to ask
            cell.note_exit(ended)
        if cell.current is self:
            cell.current = None
            if cell.stashed is not None:
                cell.unstash()
            if cell.state == "stopping":
                cell.state = "down"
            if cell.node.stopping:
                cell.close(ended)
        if observe.active():
            observe.emit("actor.stopped", actor=cell.address, incarnation=self.number, exit=str(ended))
        return ended

    async def _retire(self, gate: Gate, *, hurry: bool) -> list[Worker]:
        """Let running calls end while there is time; those that have not."""
        workers = gate.retire()
        tasks: set[asyncio.Task[Any]] = {worker.task for worker in workers}
        if tasks and not hurry:
            tasks = await self._wait(tasks)
        return [worker for worker in workers if worker.task in tasks]

    async def _cut(self, workers: list[Worker], exit: Exit) -> bool:
        """Cancel what runs, of all gates at once, and after the grace abandon it. Whether anything ran."""
        if not workers:
            return False
        late = [worker for worker in workers if worker.call is not None]
        for worker in late:
            worker.cancel(ActorCrashed(f"{self.cell.address} ended ({exit}) while it handled this"))
        _, running = await asyncio.wait({worker.task for worker in workers}, timeout=GRACE)
        for worker in workers:
            if worker.task in running:
                worker.abandon()
        return bool(late)

    async def _run_on_stop(self, exit: Exit) -> bool:
        """False when it overran. A failure in it is reported and stops nothing."""
        if self.cell.routes.stops_plainly:
            return True
        call = Call(self.cell.routes.hooks["on_stop"], {}, self.cell)
        task = asyncio.get_running_loop().create_task(
            _rooted(self.actor.on_stop(exit), call), name=f"{self.cell.address} on_stop"
        )
        self.cell.hook = Hooked(call, task)
        try:
            if await self._wait({task}):
                task.cancel()
                _, running = await asyncio.wait({task}, timeout=GRACE)
                if running:
                    self._leave_behind("on_stop", call)
                return False
        finally:
            self.cell.hook = None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            observe.emit("actor.stop_failed", actor=self.cell.address, error=error)
        return True

    def _leave_behind(self, what: str, call: Call | None) -> None:
        """It did not end when cancelled: nothing it does counts any more."""
        if call is not None:
            fence(call)
        self.cell.node.abandoned += 1
        observe.emit("actor.abandoned", actor=self.cell.address, method=what)

    def _left(self) -> float:
        return self._until - asyncio.get_running_loop().time()

    async def _wait(self, tasks: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        """Until they are done, or the time (which may be cut short meanwhile) is over; those that are not done."""
        assert self._sooner is not None
        while tasks and (left := self._left()) > 0:
            self._sooner.clear()
            sooner = asyncio.ensure_future(self._sooner.wait())
            timeout = None if left == math.inf else left
            done, _ = await asyncio.wait({*tasks, sooner}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            sooner.cancel()
            tasks = tasks - done
        return tasks


class Background:
    """Work that a call has begun beside itself: what it asks, the call waits for where it awaits the work."""

    __slots__ = ("call", "task")

    def __init__(self, call: Call, task: asyncio.Task[Any]) -> None:
        self.call = call
        self.task = task

    def done(self) -> bool:
        return self.task.done()


def _halt(gates: Iterable[Gate]) -> None:
    for gate in gates:
        gate.halt()


async def _rooted(work: Coroutine[Any, Any, Any], call: Call) -> Any:
    """Run work as the root of a new path: it is the actor's, and nobody's call."""
    current.set(call)
    return await work
