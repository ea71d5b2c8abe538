"""`Supervisor`: keeps many children running.

    class Shop(Supervisor):
        strategy = "rest_for_one"
        max_restarts, within = 3, 5.0
        children = [child(Inventory, replicas=2), child(Orders, restart="transient")]

It starts its children in order, restarts those that fail as `policy` decides, and stops them in reverse
order. When more than `max_restarts` restarts fall within `within` seconds it stops all of them and ends as
"gave up", which its own supervisor judges in turn. It promises to answer a stop at once, whatever it is at,
and to leave neither task nor timer behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mbactor import observe
from mbactor.durations import Duration
from mbactor.errors import InvalidSpec, MbactorError, NoSuchChild, Unavailable
from mbactor.kernel.cell import tell_start_failed
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.seams import checkpoint, is_armed
from mbactor.supervisor.children import Budget, Build, Child, ChildCount, ChildRow, build_child
from mbactor.supervisor.runner import Runner
from mbactor.supervisor.siblings import Siblings
from mbactor.supervisor.spec import AutoShutdown, ChildSpec, Strategy, SupervisorSpec, check_added, check_spec
from mbactor.supervisor.state import (
    DeleteChild,
    Phase,
    Reconfigure,
    RestartChild,
    StartChild,
    TerminateChild,
)

if TYPE_CHECKING:
    from mbactor.kernel.node import Node


class Supervisor:
    """Starts children, and what ends of them again. Users extend it and set the class attributes, or pass them.

        await system.spawn(Supervisor, strategy="rest_for_one", children=[child(Stock), child(Orders)])

    `children` may also be built in `__init__` or `on_start` as an attribute of the instance. Each incarnation
    under another supervisor is a new instance. The run-time calls are served one after another; a call from a
    child's own `on_start` or `on_stop` to its supervisor raises `Deadlock`.
    """

    strategy: Strategy = "one_for_one"
    max_restarts: int = 3
    within: Duration = 5.0
    auto_shutdown: AutoShutdown = "never"
    children: Sequence[ChildSpec] = ()

    on_exit: Callable[[Exit], None] | None = None
    incarnation: int = 0
    runner_type: ClassVar[type[Runner]] = Runner
    _runner: Runner | None = None
    _stop_asked: bool = False

    def __init__(
        self,
        *,
        strategy: Strategy | None = None,
        max_restarts: int | None = None,
        within: Duration | None = None,
        auto_shutdown: AutoShutdown | None = None,
        children: Sequence[ChildSpec] | None = None,
    ) -> None:
        if strategy is not None:
            self.strategy = strategy
        if max_restarts is not None:
            self.max_restarts = max_restarts
        if within is not None:
            self.within = within
        if auto_shutdown is not None:
            self.auto_shutdown = auto_shutdown
        if children is not None:
            self.children = children

    @classmethod
    def from_spec(cls, spec: SupervisorSpec) -> Supervisor:
        """A supervisor over a specification, such as that of a topology file."""
        return cls(
            strategy=spec.strategy,
            max_restarts=spec.max_restarts,
            within=spec.within,
            auto_shutdown=spec.auto_shutdown,
            children=spec.children,
        )

    @classmethod
    def clash(cls, args: Mapping[str, Any], other: Mapping[str, Any], where: str) -> tuple[str, str] | None:  # noqa: ARG003
        """Why children of this class with these arguments cannot run in one system, for who checks a file before it
        runs: which argument is at fault, and the text that says so, in which the `other` is `where`. None: they can.
        """
        return None

    # --- hooks --------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Runs before the children are started. An exception is a failed start."""

    async def on_stop(self, exit: Exit) -> None:
        """Runs when all children are down, whatever brought them down, if `on_start` had returned."""

    # --- run-time calls -------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Any:
        """Add a child at the end and start it; its ref.

        AlreadyStarted or AlreadyPresent where the id is taken, StartFailed (and the child is forgotten) where
        it does not start. None is returned for a child that asked not to be started.
        """
        check_spec(spec)
        if spec.replicas != 1:
            raise InvalidSpec(f"child {spec.id!r}: replicas: {spec.replicas} given, 1 expected here")
        runner = self._bound()
        runner.spec.check_child(spec)
        if spec.after:
            check_added(spec, [state.id for state in runner.state.children])
        await runner.call(lambda call, now: StartChild(call, spec, now))
        return self._ref_of(spec.id)

    async def terminate_child(self, child: Any) -> None:
        """Stop a child, by id or ref. NoSuchChild where there is none.

        A start of it that is under way is broken off. Group restarts leave it stopped until `restart_child`. A
        temporary child is forgotten.
        """
        id = self._id_of(child)
        await self._bound().call(lambda call, now: TerminateChild(call, id, now))

    async def restart_child(self, child: Any) -> Any:
        """Start a stopped child again; its ref. ChildRunning, ChildRestarting, NoSuchChild, StartFailed."""
        id = self._id_of(child)
        await self._bound().call(lambda call, now: RestartChild(call, id, now))
        return self._ref_of(id)

    async def delete_child(self, child: Any) -> None:
        """Forget a stopped child. ChildRunning, ChildRestarting, NoSuchChild."""
        id = self._id_of(child)
        await self._bound().call(lambda call, now: DeleteChild(call, id, now))

    async def renew_child(self, child: Any) -> Any:
        """Stop a child and start it again, or start one that does not run; its ref. NoSuchChild, StartFailed.

        It is the operator's restart: nothing is charged, and a temporary child is not forgotten in between.
        """
        id = self._id_of(child)
        if self._bound().state.find(id) is None:
            known = ", ".join(row.id for row in self.which_children()) or "none"
            raise NoSuchChild(f"no child {id!r}; known: {known}", id=id)
        await self._bound().call(lambda call, now: Reconfigure(call, id, now, stop=True, start=True))
        return self._ref_of(id)

    async def reconfigure(
        self,
        spec: SupervisorSpec,
        child: str = "",
        *,
        stop: bool = False,
        start: bool = False,
        unless_held: bool = False,
    ) -> None:
        """Supervise by `spec` from now on, and stop or start (or both) one child of it (`unless_held`: where no
        operator holds it). What else runs is not touched.

        `ActorSystem.apply` is made of these. StartFailed where the child does not start; it is held then.
        """
        runner = self._bound()
        try:
            await runner.call(lambda call, now: Reconfigure(call, child, now, spec, stop, start, unless_held))
        finally:
            if runner.spec is spec:  # also where the child did not start
                self.strategy, self.auto_shutdown = spec.strategy, spec.auto_shutdown
                self.max_restarts, self.within = spec.max_restarts, spec.within

    def which_children(self) -> list[ChildRow]:
        """The children in the order in which they start."""
        return self._bound().rows()

    def restart_budget(self) -> Budget | None:
        """How many restarts are left within the window: `supervisor.restart_budget().left`. None where each child has a
        budget of its own, or it does not run.
        """
        runner = self._bound()
        return runner.budget() if runner.state.phase in {"boot", "running"} else None

    def count_children(self) -> ChildCount:
        rows = self.which_children()
        supervisors = sum(row.kind == "supervisor" for row in rows)
        return ChildCount(
            specs=len(rows),
            active=sum(row.state == "running" for row in rows),
            supervisors=supervisors,
            workers=len(rows) - supervisors,
        )

    # --- as a child of whoever runs it -------------------------------------------------------------------

    def bind(self, node: Node, path: str, *, build: Build = build_child) -> None:
        """Say on which node it runs and what it is called, before `start`. `build` makes its actors."""
        self._runner = self.runner_type(self, node, path, build)

    @property
    def ref(self) -> Supervisor:
        return self

    @property
    def path(self) -> str:
        """Where it stands in the tree: the ids from the root, with slashes between."""
        return self._bound().path

    @property
    def phase(self) -> Phase:
        """idle, boot, running, stopping or ended."""
        return self._bound().state.phase

    @property
    def declared(self) -> SupervisorSpec:
        """What it was started to supervise, or reconfigured to; children that were added since are not in it."""
        return self._bound().spec

    def nested(self) -> Iterator[tuple[str, Supervisor | None]]:
        """The supervisors among its children: id, and the present incarnation where there is one in this process."""
        for state in self.states():
            if state.spec.kind == "supervisor":
                ref = self._bound().ref(state.id)
                yield state.id, ref if isinstance(ref, Supervisor) else None

    def states(self) -> Siblings:
        """What it remembers of each child, in the order in which they start."""
        return self._bound().state.children

    def spec(self) -> SupervisorSpec:
        """Its specification, checked; InvalidSpec names the class, the field and the value."""
        try:
            return SupervisorSpec(self.strategy, self.max_restarts, self.within, self.auto_shutdown, self.children)
        except InvalidSpec as error:
            raise InvalidSpec(f"{type(self).__qualname__}: {error}") from error

    async def start(self) -> None:
        """`on_start`, then all children in order. StartFailed names the one that failed; none runs then."""
        runner = self._bound()
        runner.on_exit = self._exited
        self.incarnation += 1
        self._stop_asked = False
        try:
            await self.on_start()
        except BaseException as error:
            tell_start_failed(runner.path, error)
            raise
        try:
            if self._stop_asked:
                raise Unavailable(f"supervisor {runner.path} was stopped while it started")
            spec = self.spec()
        except MbactorError as error:
            await self.wind_up(Exit("failed", error))
            raise
        await runner.start(spec)

    async def stop(self, timeout: float | None = None, exit: Exit = SHUTDOWN) -> Exit:
        """Stop all children, the last first, each within its own time. `close` it when it is for good."""
        self._stop_asked = True
        return exit if self._runner is None else await self._runner.stop(timeout, exit)

    def pause(self, seconds: float) -> None:
        """Tell all children that their next start is that far away."""
        self._bound().pause(seconds)

    def close(self, exit: Exit) -> None:
        """After `stop`: nobody is going to start it again, so what waits for its actors is answered."""
        self._bound().close(exit)

    def take_over(self, before: Supervisor) -> None:
        """Keep the children of the incarnation before, where they are specified alike."""
        self._bound().children = before._bound().children

    # --- what its runner needs ----------------------------------------------------------------------------

    async def attempt(self, child: Child, id: str, *, again: bool) -> BaseException | None:
        """Start a child; the exception it failed with, as a value."""
        try:
            if again:
                await checkpoint("supervisor.restart.before", child=id)
            await child.start()
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            raise
        except BaseException as error:
            return error
        return None

    def attempt_now(self, child: Child, *, again: bool = False) -> bool | BaseException:
        """Start a child that can do so at once; the exception it failed with, as a value. False where it cannot."""
        if again and is_armed("supervisor.restart.before"):
            return False
        try:
            start: Callable[[], bool] | None = getattr(child, "start_now", None)
            return start is not None and start()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return error

    async def wind_up(self, exit: Exit) -> None:
        """Run `on_stop`; a failure in it is reported and stops nothing."""
        try:
            await self.on_stop(exit)
        except Exception as error:
            observe.emit("actor.stop_failed", actor=self.path, error=error)

    def _exited(self, exit: Exit) -> None:
        if self.on_exit is not None:
            self.on_exit(exit)

    def _bound(self) -> Runner:
        if self._runner is None:
            raise Unavailable(f"supervisor {type(self).__qualname__} is not running: it is part of no tree")
        return self._runner

    def _ref_of(self, id: str) -> Any:
        runner = self._bound()
        state = runner.state.find(id)
        return runner.ref(id) if state is not None and state.status == "running" else None

    def _id_of(self, child: Any) -> str:
        if isinstance(child, str):
            return child
        for row in self.which_children():
            if row.ref is not None and row.ref == child:
                return row.id
        raise NoSuchChild(f"{child!r} is no child of {self.path}")
