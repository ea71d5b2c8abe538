"""`Line`: one child of a dynamic supervisor.

While the child simply runs, the line is all that is kept of it, so that a hundred thousand of them cost little.
When something happens that is to be decided (it ends, it is to be stopped and that takes time), the line gets a
runner of its own, which goes on from the state it would have had: one policy decides for all supervisors.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mbactor.errors import Ignore
from mbactor.kernel.exit import KILLED, SHUTDOWN, Exit
from mbactor.supervisor.children import Child, ChildRow, row_of, stop_now
from mbactor.supervisor.policy import booting, running
from mbactor.supervisor.rules import active
from mbactor.supervisor.runner import Runner, answer
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec
from mbactor.supervisor.state import ChildState, Event, Status

if TYPE_CHECKING:
    from mbactor.supervisor.dynamic import DynamicSupervisor


class LineRunner(Runner):
    """Ends once its one child rests: nobody can ask a dynamic supervisor to start it again."""

    def feed(self, event: Event) -> None:
        super().feed(event)
        idle = not self._feeding and self.state.phase == "running" and self.state.operation is None
        if idle and not any(active(child) for child in self.state.children):
            self.ask_to_stop(SHUTDOWN)


class Line:
    """Its id is taken from its construction until its child is down for good."""

    __slots__ = ("child", "ignored", "pool", "runner", "spec", "started_at")

    def __init__(self, pool: DynamicSupervisor, spec: ChildSpec, child: Child) -> None:
        self.pool = pool
        self.spec = spec
        self.child = child
        self.runner: Runner | None = None
        self.started_at: float | None = None
        """None while it starts, and where the runner knows."""
        self.ignored = False
        """Whether its child asked not to be started: nothing ever ran."""

    # --- what is to be seen ---------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        if self.runner is None:
            return "starting" if self.started_at is None else "running"
        return self._remembered(self.runner).status

    @property
    def ending(self) -> bool:
        """Whether it is about to be forgotten."""
        return self.runner is not None and self.runner.state.phase in {"stopping", "ended"}

    def row(self) -> ChildRow:
        if self.runner is not None:
            return row_of(self._remembered(self.runner), self.child, self.runner.budget())
        state = ChildState(self.spec, status=self.status, started_at=self.started_at or 0.0)
        return row_of(state, self.child, self.pool.fresh_budget)

    def _remembered(self, runner: Runner) -> ChildState:
        """A child that its runner has done with has stopped."""
        return runner.state.find(self.spec.id) or ChildState(self.spec)

    # --- start and stop ---------------------------------------------------------------------------------------

    def start_now(self) -> bool | BaseException:
        """Start a child that can do so at once; what it failed with. False where it has to be waited for."""
        self._listen()
        try:
            # In a copy of the context that all children have: that of whoever asks is not theirs.
            started = self.pool.context.copy().run(self.pool.attempt_now, self.child)
        except BaseException as error:
            self._done_with(Exit("failed", error))
            raise
        if started is True:
            self.started_at = asyncio.get_running_loop().time()
        return started

    async def start(self, failed: BaseException | None = None) -> None:
        """Start the child, or take it that it `failed` to start at once. StartFailed."""
        runner, spec = self._with_runner()
        children = {self.spec.id: self.child}
        if failed is None:
            await runner.start(spec, children=children, context=self.pool.context)
        else:
            runner.take_up(spec, booting(spec), children, self.pool.context)
            self.ignored = isinstance(failed, Ignore)
            runner.feed(answer(self.spec.id, failed, asyncio.get_running_loop().time()))
            await runner.up()
        self._simply_run()

    def stop_now(self, *, kill: bool = False) -> bool:
        """Stop a child that simply runs and has nothing to wait for. False where that takes time."""
        if self.runner is not None or self.started_at is None:
            return False
        exit = KILLED if kill or self.spec.shutdown == 0 else SHUTDOWN
        if not stop_now(self.child, exit):
            return False
        self._done_with(exit)
        return True

    def awakened(self) -> Runner:
        """Its runner, from now on: something is to be decided."""
        if self.runner is not None:
            return self.runner
        assert self.started_at is not None, self.spec.id
        runner, spec = self._with_runner()
        runner.take_up(spec, running(spec, self.started_at), {self.spec.id: self.child}, self.pool.context)
        return runner

    # --- what its child calls -----------------------------------------------------------------------------------

    def exited(self, exit: Exit) -> None:
        """It ended by itself."""
        self.awakened().exited(self.spec.id, self.child, self.child.incarnation, exit)

    async def terminate(self) -> None:
        """Somebody wants it to end for good."""
        await self.pool.terminate_child(self.spec.id)

    # --- what its runner needs --------------------------------------------------------------------------------

    async def attempt(self, child: Child, id: str, *, again: bool) -> BaseException | None:
        error = await self.pool.attempt(child, id, again=again)
        self.ignored = isinstance(error, Ignore) and not again
        return error

    def attempt_now(self, child: Child, *, again: bool) -> bool | BaseException:
        return self.pool.attempt_now(child, again=again)

    async def terminate_child(self, child: Any) -> None:
        await self.pool.terminate_child(child)

    async def wind_up(self, exit: Exit) -> None:
        # One that was stopped as asked may have had to be killed for it: that is how its own run ended.
        last = self._remembered(self.runner).last_exit if self.runner is not None and exit.clean else None
        self._done_with(last or exit)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _with_runner(self) -> tuple[Runner, SupervisorSpec]:
        """A supervisor of this one child, which ends with it."""
        lasting = self.spec.restart == "permanent"
        budget = self.pool.budget
        spec = SupervisorSpec(
            max_restarts=budget.max_restarts,
            within=budget.within,
            auto_shutdown="never" if lasting else "any_significant",
            children=(self.spec if self.spec.significant != lasting else replace(self.spec, significant=not lasting),),
        )
        self.runner = self.pool.runner_of(self)
        return self.runner, spec

    def _simply_run(self) -> None:
        """Let go of the runner, where it knows nothing that cannot be said anew."""
        runner = self.runner
        assert runner is not None
        child = runner.state.find(self.spec.id)
        if child is not None and runner.state == running(runner.spec, child.started_at):
            self.runner, self.started_at = None, child.started_at
            self._listen()

    def _done_with(self, exit: Exit) -> None:
        """The child is down for good: its id is free, what waits for it is answered, and it is let go of."""
        self.pool.forget(self)
        self.child.close(exit)
        self.child.on_exit = self.child.terminate = None

    def _listen(self) -> None:
        self.child.on_exit = self.exited
        self.child.terminate = self.terminate
