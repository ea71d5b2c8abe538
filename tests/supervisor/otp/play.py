"""Plays a scenario on our own supervisor, in virtual time, and says what happened in the words of OTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mbactor.errors import (
    AlreadyPresent,
    AlreadyStarted,
    ChildRestarting,
    ChildRunning,
    Ignore,
    NoSuchChild,
    Unavailable,
)
from mbactor.kernel.exit import KILLED, SHUTDOWN, Exit
from mbactor.kernel.node import Node
from mbactor.supervisor.children import Child
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.spec import ChildSpec, child
from mbactor.supervisor.state import StartFailed
from mbactor.supervisor.supervisor import Supervisor
from mbactor.testing import VirtualTimeLoop
from tests.supervisor.otp.scenarios import ENTRY
from tests.supervisor.parts import NOWHERE, timers
from tests.supervisor.world import Leaf

WORDS: dict[type[Exception], str] = {
    AlreadyStarted: "already_started",
    AlreadyPresent: "already_present",
    ChildRunning: "running",
    ChildRestarting: "restarting",
    NoSuchChild: "not_found",
    StartFailed: "failed",
    Unavailable: "unavailable",
}
A_MOMENT = 0.01


def play(scenario: dict[str, Any]) -> list[ENTRY]:
    """What our supervisor does in it. It leaves neither task nor timer."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_play(scenario))


async def _play(scenario: dict[str, Any]) -> list[ENTRY]:
    stage = Stage(scenario)
    before = asyncio.all_tasks()
    await stage.start()
    for step in scenario["steps"]:
        await stage.step(step)
    log = list(stage.log)
    await stage.top.stop()
    assert asyncio.all_tasks() == before
    assert timers() == []
    return log


class Stage:
    """The supervisor of a scenario with its children, and the log."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.scenario = scenario
        self.log: list[ENTRY] = []
        self.plans: dict[str, list[str]] = {}
        self.children: dict[str, Doer] = {}
        self.nested: dict[str, Supervisor] = {}
        self.behaviours: dict[str, str] = {}
        given: Any = {name: value for name, value in self._tree(scenario).items() if name != "id"}
        self.top = DynamicSupervisor(**_budget(scenario)) if "dynamic" in scenario else Supervisor(**given)
        self.top.bind(NOWHERE, "top", build=self._build)
        self.top.on_exit = self._ended

    async def start(self) -> None:
        try:
            await self.top.start()
            self.log.append(["up"])
        except StartFailed as error:
            self.log.append(["not_started", *_failed(error)])
        await self._settle()

    async def step(self, step: Any) -> None:
        match step:
            case {"together": steps}:
                # What one of them sets off comes after all of them: they stand in the loop's queue before it.
                waiting = [self._soon(one) for one in steps]
                answers = [entry for one in waiting if (entry := await one) is not None]
                await self._settle()
                self.log.extend(answers)
            case ["wait", milliseconds]:
                await asyncio.sleep(milliseconds / 1000)
            case _:
                entry = await self._soon(step)
                if entry is not None:
                    self.log.append(entry)
        await self._settle()

    def _soon(self, step: list[Any]) -> asyncio.Task[ENTRY | None]:
        return asyncio.ensure_future(self._do(step))

    async def _do(self, step: list[Any]) -> ENTRY | None:
        match step:
            case ["exit", id, reason]:
                self.children[id].end(reason)
            case ["plan", id, *outcomes]:
                self.plans[id] = outcomes
            case ["stop"]:
                self._ended(await self.top.stop())
            case ["which"]:
                return self._which()
            case ["count"]:
                return self._count()
            case [name, what, *where]:
                return await self._called(name, what, *where)
        return None

    def _ended(self, exit: Exit) -> None:
        self.log.append(["end", _word(exit)])

    async def _called(self, name: str, what: Any, under: str = "top") -> ENTRY:
        if name == "add":
            what = self._spec({**what, **self.scenario.get("dynamic", {}), "id": what["id"], "plan": what["plan"]})
        supervisor = self.top if under == "top" else self.nested[under]
        call = {
            "add": supervisor.start_child,
            "terminate": supervisor.terminate_child,
            "restart": supervisor.restart_child,
            "delete": supervisor.delete_child,
        }[name]
        try:
            ref = await call(what)
        except tuple(WORDS) as error:
            return [name, WORDS[type(error)]]
        return [name, "ignored" if ref is None and name in {"add", "restart"} else "ok"]

    def _which(self) -> ENTRY:
        # OTP lists the last one first.
        return ["which", [[row.id, row.state] for row in reversed(self.top.which_children())]]

    def _count(self) -> ENTRY:
        if self.top.phase in {"ended", "stopping"}:
            return ["count", "unavailable"]
        count = self.top.count_children()
        return ["count", count.specs, count.active, count.supervisors, count.workers]

    async def _settle(self) -> None:
        """A moment without news, and nothing under way."""
        while True:
            before = len(self.log)
            await asyncio.sleep(A_MOMENT)
            runner = self.top._runner
            assert runner is not None
            if len(self.log) == before and runner.state.operation is None:
                return

    # --- what it is made of -----------------------------------------------------------------------------------

    def _tree(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "strategy": given["strategy"],
            "auto_shutdown": given["auto_shutdown"],
            "children": [self._spec(one) for one in given["children"]],
            **_budget(given),
        }

    def _spec(self, given: dict[str, Any]) -> ChildSpec:
        common: dict[str, Any] = {
            "id": given["id"],
            "restart": given["restart"],
            "significant": given["significant"],
            "shutdown": _shutdown(given["shutdown"]),
        }
        if "supervisor" in given:
            args = {"stage": self, "id": given["id"], "tree": self._tree(given["supervisor"])}
            return child(Nested, args=args, **common)
        self.plans.setdefault(given["id"], list(given["plan"]))
        self.behaviours.setdefault(given["id"], given["stop"])
        return child(Leaf, **common)

    def _build(self, spec: ChildSpec, node: Node) -> Child:
        self.children[spec.id] = Doer(spec.id, self)
        return self.children[spec.id]


class Nested(Supervisor):
    """A supervisor under the one of a scenario."""

    def __init__(self, stage: Stage, id: str, tree: dict[str, Any]) -> None:
        super().__init__(**tree)
        self.stage = stage
        self.id = id

    async def on_start(self) -> None:
        self.stage.nested[self.id] = self
        self.stage.log.append(["init", self.id])

    async def on_stop(self, exit: Exit) -> None:
        self.stage.log.append(["down", self.id, _word(exit)])


class Doer:
    """A child that does as its plan says."""

    def __init__(self, id: str, stage: Stage) -> None:
        self.id = id
        self.stage = stage
        self.incarnation = 0
        self.running = False
        self.on_exit: Callable[[Exit], None] | None = None
        self.terminate: Callable[[], Awaitable[None]] | None = None

    @property
    def ref(self) -> Doer:
        return self

    async def start(self) -> None:
        assert not self.running
        plan = self.stage.plans[self.id]
        outcome = plan.pop(0) if plan else "start"
        self.stage.log.append([outcome, self.id])
        if outcome == "fail":
            raise ValueError("boom")
        if outcome == "ignore":
            raise Ignore
        self.running = True
        self.incarnation += 1

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        if not self.running:
            return exit
        how = self.stage.behaviours[self.id]
        if how == "never" and timeout:
            await asyncio.sleep(timeout)
        if timeout == 0 or how == "never":
            exit = KILLED
        elif how == "crash":
            exit = Exit("failed", RuntimeError("boom"))
        self.running = False
        self.stage.log.append(["down", self.id, _word(exit)])
        return exit

    def pause(self, seconds: float) -> None: ...

    def close(self, exit: Exit) -> None: ...

    def end(self, reason: str) -> None:
        assert self.running
        self.running = False
        kinds: dict[str, Any] = {"crash": "failed", "detail": "shutdown"}
        exit = Exit(kinds.get(reason, reason), RuntimeError("boom") if reason == "crash" else None)
        self.stage.log.append(["down", self.id, _word(exit)])
        assert self.on_exit is not None
        self.on_exit(exit)


def _budget(given: dict[str, Any]) -> dict[str, Any]:
    return {"max_restarts": given["intensity"], "within": float(given["period"])}


def _shutdown(given: Any) -> Any:
    if given == "infinity":
        return None
    return given if given == "brutal" else given / 1000


def _word(exit: Exit) -> str:
    """As OTP has it: a start that failed is "failed", what a child died of is a crash."""
    return "crash" if exit.kind == "failed" and not isinstance(exit.error, StartFailed) else exit.kind


def _failed(error: BaseException | None) -> list[str]:
    return [error.child, *_failed(error.__cause__)] if isinstance(error, StartFailed) else []
