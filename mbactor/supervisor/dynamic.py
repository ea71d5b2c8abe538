"""`DynamicSupervisor`: children that come and go while it runs, each for itself.

    pool = DynamicSupervisor(max_children=1000)
    ref = await pool.start_child(child(Session, id="session-17", restart="transient"))

Each child has a restart budget of its own (`max_restarts` within `within`). One that spends it ends as "gave up"
and is forgotten, and the others go on. A child that ended for good is forgotten too. At the stop all are stopped
at the same time, each within its own time.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mbactor.durations import Duration
from mbactor.errors import AlreadyPresent, AlreadyStarted, ChildRunning, InvalidSpec, NoSuchChild, Unavailable
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.supervisor.children import Build, Child, ChildRow, build_child
from mbactor.supervisor.runner import Runner
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec
from mbactor.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from mbactor.kernel.node import Node


class DynamicSupervisor(Supervisor):
    """Starts children by `start_child` only; `max_children` bounds them (None: no bound).

    Inside, each child stands under a runner of its own, so that one policy decides for all supervisors.
    """

    max_children: int | None = None
    _lines: dict[str, Runner]
    _stopping: bool = False

    def __init__(
        self,
        *,
        max_children: int | None = None,
        max_restarts: int | None = None,
        within: Duration | None = None,
    ) -> None:
        super().__init__(max_restarts=max_restarts, within=within)
        if max_children is not None:
            self.max_children = max_children

    def bind(self, node: Node, path: str, *, build: Build = build_child) -> None:
        super().bind(node, path, build=build)
        self._lines = {}
        self._make = partial(Runner, _LineOwner(self), node, path, build)

    def spec(self) -> SupervisorSpec:
        if self.children:
            raise InvalidSpec(
                f"{type(self).__qualname__}: children: {len(self.children)} given, none expected: "
                "the children of a dynamic supervisor are added by start_child"
            )
        return super().spec()

    # --- as a child of whoever runs it ------------------------------------------------------------------------

    async def start(self) -> None:
        self._stopping = False
        await super().start()

    async def stop(self, timeout: float | None = None, exit: Exit = SHUTDOWN) -> Exit:
        """Stop all children at the same time, each within its own time, and forget them."""
        if self._runner is None:
            return exit
        self._stopping = True
        lines, self._lines = self._lines, {}
        ends = await asyncio.gather(*(line.stop(timeout, exit) for line in lines.values()))
        for line in lines.values():
            line.close(exit)
        await super().stop(timeout, exit)
        return next((end for end in ends if end.kind == "killed"), exit)

    # --- run-time calls -----------------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Any:
        """Start a child; its ref, or None where it asked not to be started.

        AlreadyStarted or AlreadyPresent where the id is taken, Unavailable where `max_children` run, StartFailed.
        """
        await self._ending_over(spec.id)
        self._check(spec)
        line: Runner = self._make()
        self._lines[spec.id] = line
        line.on_exit = partial(self._line_ended, spec.id, line)
        lasting = spec.restart == "permanent"
        alone = SupervisorSpec(
            max_restarts=self.max_restarts,
            within=self.within,
            auto_shutdown="never" if lasting else "any_significant",
            children=(replace(spec, significant=not lasting),),
        )
        try:
            await line.start(alone, context=self._bound().context)
        except BaseException as error:
            self._forget(spec.id, line, Exit("failed", error))
            raise
        state = line.state.find(spec.id)
        if state is not None and state.status == "stopped" and state.last_exit is None:
            await line.stop(None)
            self._forget(spec.id, line, SHUTDOWN)
            return None
        return line.ref(spec.id)

    async def terminate_child(self, child: Any) -> None:
        """Stop a child, by id or ref, and forget it. NoSuchChild where there is none."""
        id = self._id_of(child)
        line = self._line(id)
        await line.stop(None)
        self._forget(id, line, SHUTDOWN)

    async def restart_child(self, child: Any) -> Any:
        """Refused: a child that does not run is not known here."""
        self._refuse(child)

    async def delete_child(self, child: Any) -> None:
        """Refused: a child that does not run is not known here."""
        self._refuse(child)

    def which_children(self) -> list[ChildRow]:
        """The children in the order in which they were added."""
        self._bound()
        return [row for line in self._lines.values() for row in line.rows()]

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _ending_over(self, id: str) -> None:
        """The id of a child that is just ending is free once it has ended."""
        while (line := self._lines.get(id)) is not None and line.state.phase in {"stopping", "ended"}:
            await line.stop(None)
            self._forget(id, line, SHUTDOWN)

    def _check(self, spec: ChildSpec) -> None:
        runner = self._bound()
        if self._stopping or runner.state.phase != "running":
            raise Unavailable(f"supervisor {runner.path} is not running")
        if spec.replicas != 1:
            raise InvalidSpec(f"child {spec.id!r}: replicas: {spec.replicas} given, 1 expected here")
        present = self._lines.get(spec.id)
        if present is not None:
            state = present.state.find(spec.id)
            if state is not None and state.status == "running":
                raise AlreadyStarted(f"child {spec.id!r} runs already", id=spec.id)
            raise AlreadyPresent(f"child {spec.id!r} is known and about to start or to end", id=spec.id)
        if self.max_children is not None and len(self._lines) >= self.max_children:
            raise Unavailable(
                f"supervisor {runner.path} has {len(self._lines)} children, and max_children is {self.max_children}"
            )

    def _line(self, id: str) -> Runner:
        line = self._lines.get(id)
        if line is None:
            raise NoSuchChild(f"no child {id!r} under {self.path}", id=id)
        return line

    def _refuse(self, child: Any) -> None:
        id = self._id_of(child)
        self._line(id)
        raise ChildRunning(
            f"child {id!r} is under a dynamic supervisor, which forgets a child that is terminated; "
            "terminate_child it and start_child it anew",
            id=id,
        )

    def _line_ended(self, id: str, line: Runner, exit: Exit) -> None:
        self._forget(id, line, exit)

    def _forget(self, id: str, line: Runner, exit: Exit) -> None:
        if self._lines.get(id) is line:
            del self._lines[id]
        line.close(exit)

    def _id_of(self, child: Any) -> str:
        id = child if isinstance(child, str) else getattr(child, "id", None)
        if isinstance(id, str) and id in self._lines and (id == child or self._lines[id].ref(id) == child):
            return id
        return super()._id_of(child)


class _LineOwner:
    """Starts the child of a line as its supervisor would; the line's end is not the supervisor's."""

    def __init__(self, supervisor: DynamicSupervisor) -> None:
        self._supervisor = supervisor

    async def attempt(self, child: Child, id: str, *, again: bool) -> BaseException | None:
        return await self._supervisor.attempt(child, id, again=again)

    async def terminate_child(self, child: Any) -> None:
        await self._supervisor.terminate_child(child)

    async def wind_up(self, exit: Exit) -> None:
        pass
