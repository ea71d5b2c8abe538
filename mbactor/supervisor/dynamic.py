"""`DynamicSupervisor`: children that come and go while it runs, each for itself.

    pool = DynamicSupervisor(max_children=1000)
    ref = await pool.start_child(child(Session, id="session-17", restart="transient"))

Each child has a restart budget of its own (`max_restarts` within `within`). One that spends it ends as "gave up"
and is forgotten, and the others go on. A child that ended for good is forgotten too. At the stop all are asked to
stop at the same time, the last started first, each within its own time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from mbactor.durations import Duration
from mbactor.errors import AlreadyPresent, AlreadyStarted, ChildRunning, InvalidSpec, NoSuchChild, Unavailable
from mbactor.kernel.exit import KILLED, SHUTDOWN, Exit
from mbactor.supervisor.children import Budget, Build, ChildCount, ChildRow, build_child, made
from mbactor.supervisor.line import Line, LineRunner
from mbactor.supervisor.runner import FAIR_RUN, Runner
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec, check_spec, is_whole
from mbactor.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from mbactor.kernel.node import Node

_FOR_ITSELF = "each child of a dynamic supervisor is for itself"


class DynamicSupervisor(Supervisor):
    """Starts children by `start_child` only; `max_children` bounds them (None: no bound).

    sessions = await system.spawn(DynamicSupervisor, max_children=1000)
    ref = await sessions.start_child(child(Session, id="ada", args={"user": "ada"}))
    """

    max_children: int | None = None
    _lines: dict[str, Line]
    _nested: dict[str, Line]
    """Those of its children that are supervisors: few, and looked for by name."""
    _node: Node
    _build: Build
    _stopping: bool = False
    _starts: int = 0

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
        self._lines, self._nested = {}, {}
        self._node, self._build = node, build

    def spec(self) -> SupervisorSpec:
        found = super().spec()
        wrong = self._wrong(found)
        if wrong is not None:
            raise InvalidSpec(f"{type(self).__qualname__}: {wrong}")
        return found

    def _wrong(self, found: SupervisorSpec) -> str | None:
        if self.children:
            added = "the children of a dynamic supervisor are added by start_child"
            return f"children: {len(self.children)} given, none expected: {added}"
        for field, only in (("strategy", "one_for_one"), ("auto_shutdown", "never")):
            if getattr(found, field) != only:
                text = f"{getattr(found, field)!r} given, {only!r} expected"
                return f"{field}: {text}: {_FOR_ITSELF}"
        if self.max_children is not None and not is_whole(self.max_children, 0):
            return f"max_children: {self.max_children!r} given, a whole number >= 0 or None expected"
        return None

    # --- as a child of whoever runs it ------------------------------------------------------------------------

    async def start(self) -> None:
        self._stopping = False
        await super().start()

    async def stop(self, timeout: float | None = None, exit: Exit = SHUTDOWN) -> Exit:
        """Stop all children at the same time, each within its own time, and forget them."""
        if self._runner is None:
            return exit
        self._stopping = True
        kill = timeout == 0
        killed = kill and bool(self._lines)
        ends: dict[asyncio.Future[Exit], Line] = {}
        for number, line in enumerate(self._last_first(), 1):
            if not line.stop_now(kill=kill):
                ends[line.awakened().ask_to_stop(exit, kill=kill)] = line
            if not number % FAIR_RUN:
                await asyncio.sleep(0)
        if ends:
            _, late = await asyncio.wait(ends, timeout=timeout or None)
            for end in late:
                ends[end].awakened().ask_to_stop(KILLED, kill=True)
            if late:
                await asyncio.wait(late)
            killed = killed or bool(late) or any(end.result().kind == "killed" for end in ends)
        await super().stop(timeout, exit)
        return KILLED if killed else exit

    # --- run-time calls -----------------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Any:
        """Start a child; its ref, or None where it asked not to be started.

        AlreadyStarted or AlreadyPresent where the id is taken, Unavailable where `max_children` run, StartFailed;
        InvalidSpec where it has replicas, is significant, or is to be started `after` others.
        """
        self._bound()
        check_spec(spec)
        self._starts += 1
        if not self._starts % FAIR_RUN:
            await asyncio.sleep(0)
        if spec.id in self._lines:
            await self._ending_over(spec.id)
        self._check(spec)
        line = Line(self, spec, made(spec, self._node, self.path, self._build))
        self._lines[spec.id] = line
        if spec.kind == "supervisor":
            self._nested[spec.id] = line
        started = line.start_now()
        if started is not True:
            await line.start(failed=started if isinstance(started, BaseException) else None)
            if line.ignored:
                await line.awakened().stop(None)
                return None
        return line.child.ref

    async def terminate_child(self, child: Any) -> None:
        """Stop a child, by id or ref, and forget it. NoSuchChild where there is none."""
        line = self._line(self._id_of(child))
        if not line.stop_now():
            line.awakened().check_not_within()
            await line.awakened().stop(None)

    async def restart_child(self, child: Any) -> Any:
        """Refused: a child that does not run is not known here."""
        self._refuse(child)

    async def renew_child(self, child: Any) -> Any:
        """Refused: a child that does not run is not known here."""
        self._refuse(child)

    async def delete_child(self, child: Any) -> None:
        """Refused: a child that does not run is not known here."""
        self._refuse(child)

    def which_children(self) -> list[ChildRow]:
        """The children in the order in which they were added."""
        self._bound()
        return [line.row() for line in self._lines.values()]

    def restart_budget(self) -> None:
        """Each child has its own: `which_children` has it."""

    def count_children(self) -> ChildCount:
        self._bound()
        lines = self._lines.values()
        supervisors = sum(line.spec.kind == "supervisor" for line in lines)
        return ChildCount(
            specs=len(lines),
            active=sum(line.status == "running" for line in lines),
            supervisors=supervisors,
            workers=len(lines) - supervisors,
        )

    def nested(self) -> Iterator[tuple[str, Supervisor | None]]:
        for id, line in self._nested.items():
            yield id, line.child.ref if isinstance(line.child.ref, Supervisor) else None

    def knows(self, id: str) -> bool:
        """Whether the id is taken."""
        return id in self._lines

    # --- what its lines need --------------------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """What its children run in copies of, whoever asks for their start."""
        return self._bound().context

    @property
    def budget(self) -> SupervisorSpec:
        """`max_restarts` and `within`, as they were when it started."""
        return self._bound().spec

    @property
    def fresh_budget(self) -> Budget:
        """That of a child that was never restarted."""
        return Budget(self.budget.max_restarts, self.budget.within, 0)

    def runner_of(self, line: Line) -> Runner:
        return LineRunner(line, self._node, self.path, self._build)

    def forget(self, line: Line) -> None:
        """Its child is down for good: the id is free."""
        if self._lines.get(line.spec.id) is line:
            del self._lines[line.spec.id]
            self._nested.pop(line.spec.id, None)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _last_first(self) -> Iterator[Line]:
        """The children there are now, but for those that are forgotten before it is their turn."""
        for id in reversed(list(self._lines)):
            if (line := self._lines.get(id)) is not None:
                yield line

    async def _ending_over(self, id: str) -> None:
        """The id of a child that is just ending is free once it has ended."""
        while (line := self._lines.get(id)) is not None and line.ending:
            line.awakened().check_not_within()
            await line.awakened().stop(None)

    def _check(self, spec: ChildSpec) -> None:
        runner = self._bound()
        if self._stopping or runner.state.phase != "running":
            raise Unavailable(f"supervisor {runner.path} is not running")
        if spec.replicas != 1:
            raise InvalidSpec(f"child {spec.id!r}: replicas: {spec.replicas} given, 1 expected here")
        if spec.significant:
            raise InvalidSpec(f"child {spec.id!r}: significant: True given, False expected here: {_FOR_ITSELF}")
        if spec.after:
            raise InvalidSpec(f"child {spec.id!r}: after: {list(spec.after)} given, none expected here: {_FOR_ITSELF}")
        present = self._lines.get(spec.id)
        if present is not None:
            if present.status == "running":
                raise AlreadyStarted(f"child {spec.id!r} runs already", id=spec.id)
            raise AlreadyPresent(f"child {spec.id!r} is known and about to start or to end", id=spec.id)
        if self.max_children is not None and len(self._lines) >= self.max_children:
            raise Unavailable(
                f"supervisor {runner.path} has {len(self._lines)} children, and max_children is {self.max_children}"
            )

    def _line(self, id: str) -> Line:
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

    def _id_of(self, child: Any) -> str:
        self._bound()
        id = child if isinstance(child, str) else getattr(child, "id", None)
        if isinstance(id, str) and id in self._lines and (id == child or self._lines[id].child.ref == child):
            return id
        return super()._id_of(child)
