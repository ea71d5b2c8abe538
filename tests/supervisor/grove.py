"""A generated tree of real actors under real supervisors, in virtual time, and what it can be made to do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

from mbactor import Actor, ActorSystem, Backoff, DynamicSupervisor, Exit, Ignore, Supervisor, child, endpoint, observe
from mbactor.supervisor.line import Line, LineRunner
from mbactor.supervisor.runner import Runner
from mbactor.supervisor.spec import ChildSpec
from mbactor.supervisor.state import Action, Start, Stop
from mbactor.testing import VirtualTimeLoop
from tests.supervisor.naive import Kid, Model, Nature, Pool

T = TypeVar("T")
IDS = ("a", "b", "c", "d", "e")


# --- trees as plain values --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twig:
    """A child."""

    id: str
    restart: Any = "permanent"
    backoff: tuple[float, float] | None = None
    significant: bool = False
    shutdown: Any = 5.0
    inner: Branch | None = None


@dataclass(frozen=True)
class Branch:
    """A supervisor. A dynamic one has no strategy."""

    strategy: Any = "one_for_one"
    most: int = 3
    within: float = 4.0
    auto: Any = "never"
    twigs: tuple[Twig, ...] = ()
    limit: int | None = None

    @property
    def dynamic(self) -> bool:
        return bool(self.strategy == "dynamic")

    def model(self, nature: Nature, path: str) -> Model:
        """The naive model of it."""
        if self.dynamic:
            return Pool("one_for_one", self.most, self.within, [], nature=nature, path=path, limit=self.limit)
        kids = [kid_of(twig) for twig in self.twigs]
        return Model(self.strategy, self.most, self.within, kids, self.auto, nature, path)


def kid_of(twig: Twig) -> Kid:
    inner = None if twig.inner is None else twig.inner.model
    return Kid(twig.id, twig.restart, twig.backoff, twig.significant, inner)


# Exact in binary, so that both sides add up to the same instants; and of many values, so that few of those coincide.
SHAPES = st.none() | st.none() | st.integers(1, 63).map(lambda n: (n / 64, 2.0))


def twigs(ids: Any, *, auto: str, depth: int, slow: bool) -> st.SearchStrategy[Twig]:
    weights = ["permanent"] if auto == "never" else ["transient", "temporary"]
    restart = st.sampled_from(["permanent", "transient", "temporary", *weights])
    shutdown = st.sampled_from([5.0, 0.25, "brutal", None] if slow else [5.0, None])
    inner = st.none() if depth == 0 else st.none() | st.none() | branches(depth=depth - 1, slow=slow)

    def made(id: str, restart: str, shape: Any, significant: bool, shutdown: Any, inner: Branch | None) -> Twig:
        weighs = significant and auto != "never" and restart != "permanent"
        return Twig(id, restart, shape, weighs, None if inner and not slow else shutdown, inner)

    return st.builds(made, ids, restart, SHAPES, st.sampled_from([True, True, False]), shutdown, inner)


@st.composite
def branches(draw: st.DrawFn, *, depth: int, slow: bool = False, top: bool = False) -> Branch:
    most = draw(st.sampled_from([0, 1, 2, 3, 50]))
    if not top and draw(st.integers(0, 3)) == 0:
        return Branch("dynamic", most, limit=draw(st.sampled_from([None, None, 2])))
    auto = draw(st.sampled_from(["never", "never", "any_significant", "all_significant"]))
    size = draw(st.integers(1 if top else 0, 4 if top else 3))
    found = tuple(draw(twigs(st.just(id), auto=auto, depth=depth, slow=slow)) for id in IDS[:size])
    strategy = draw(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]))
    return Branch(strategy, most, 4.0, auto, found)


# --- the real thing -----------------------------------------------------------------------------------------------


class Script:
    """How the next starts, stops and messages of one actor go, and what became of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fails = 0
        self.ignores = 0
        self.ignored = False
        self.slow_start = 0.0
        self.slow_stop = 0.0
        self.swallows = False
        self.alive = 0
        self.most_alive = 0


class Puppet(Actor):
    """Does as its script says."""

    host = "puppet.example"

    def __init__(self, script: Script, grove: Grove) -> None:
        self.script = script
        self.grove = grove

    async def on_start(self) -> None:
        script = self.script
        script.ignored = False
        self.grove.log.append(("start", script.path))
        if script.slow_start:
            await self.dawdle_for(script.slow_start)
        if script.fails:
            script.fails -= 1
            raise ValueError("no")
        if script.ignores:
            script.ignores -= 1
            script.ignored = True
            raise Ignore
        self.refs.register(script.path, self.ref)
        self.send_every("1h", Puppet.tick)

    async def on_stop(self, exit: Exit) -> None:
        if self.script.slow_stop:
            await self.dawdle_for(self.script.slow_stop)

    async def dawdle_for(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if not self.script.swallows:
                    raise

    @endpoint
    async def tick(self) -> None: ...

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def finish(self) -> None:
        self.stop()

    @endpoint(concurrency=4)
    async def dawdle(self, seconds: float) -> None:
        await self.dawdle_for(seconds)


class Watching:
    """What its supervisor does, it does one at a time, and no temporary child comes back by itself."""

    state: Any

    def _do(self, action: Action) -> None:
        if isinstance(action, Start | Stop):
            operation, child = self.state.operation, self.state.find(action.id)
            assert operation.busy
            assert operation.job.id == action.id
            assert not (isinstance(action, Start) and action.again and child.spec.restart == "temporary")
        super()._do(action)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


class WatchedRunner(Watching, Runner): ...


class WatchedLine(Watching, LineRunner): ...


class Fixed(Supervisor):
    """A supervisor that notes its own starts and ends."""

    runner_type = WatchedRunner

    def __init__(self, grove: Grove, at: str, **tree: Any) -> None:
        super().__init__(**tree)
        self.grove = grove
        self.at = at

    async def on_start(self) -> None:
        self.grove.note("start", self.at)

    async def on_stop(self, exit: Exit) -> None:
        self.grove.note("down", self.at)


class Free(DynamicSupervisor):
    """A dynamic one."""

    runner_type = WatchedRunner

    def __init__(self, grove: Grove, at: str, **budget: Any) -> None:
        super().__init__(**budget)
        self.grove = grove
        self.at = at

    def runner_of(self, line: Line) -> Runner:
        return WatchedLine(line, self._node, self.path, self._build)

    async def on_start(self) -> None:
        self.grove.note("start", self.at)

    async def on_stop(self, exit: Exit) -> None:
        self.grove.note("down", self.at)


class Grove:
    """One system with a tree in it."""

    def __init__(self, branch: Branch, seed: int = 0) -> None:
        self.loop = VirtualTimeLoop(seed)
        self.log: list[tuple[str, str]] = []
        self.scripts: dict[str, Script] = {}
        self.tasks: list[asyncio.Future[Any]] = []
        self.exit: Exit | None = None
        self.branch = branch
        self.pools: set[str] = set()
        self._observing = observe.observing(self)
        self._observing.__enter__()
        self.run(self._open())

    # --- life -------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self.system = ActorSystem("grove", watchdog=None)
        await self.system.start()
        self.top = Fixed(self, "", **self._tree(self.branch, ""))
        self.top.bind(self.system.node, "top")
        self.top.on_exit = self._ended

    def start(self) -> None:
        self.run(self.top.start())

    def _ended(self, exit: Exit) -> None:
        self.exit = exit

    def close(self) -> None:
        """Stop all of it. Neither task nor timer, neither subscription nor name is left, and nobody waits."""
        try:
            self.run(self._stop())
            node = self.system.node
            assert [name for name in node.refs if name in self.scripts] == []
            assert node.served == {}
            bus: Any = node.remote.bus
            assert not any("puppet" in subject and there for subject, there in bus._exact.items())
            assert all(one.alive == 0 for one in self.scripts.values()), "a child outlives its supervisor"
            self.run(self.system.stop())
            self.run(_all_ended())
            assert [one for one in self.loop._scheduled if not one.cancelled()] == []
            assert all(task.done() for task in self.tasks)
        finally:
            self._observing.__exit__(None, None, None)
            self.loop.close()

    async def _stop(self) -> None:
        exit = await self.top.stop()
        self.top.close(exit)
        if self.tasks:
            await asyncio.wait(self.tasks)
        for task in self.tasks:
            if not task.cancelled():
                task.exception()
        await self.quiet()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def quiet(self) -> None:
        """Until nothing is left to do at this instant."""
        while True:
            await asyncio.sleep(0)
            timers = (one.when() for one in self.loop._scheduled if not one.cancelled())
            if not self.loop._ready and min(timers, default=math.inf) > self.loop.time():
                return

    def settle(self) -> None:
        self.run(self.quiet())

    # --- what happens in it -------------------------------------------------------------------------------------

    def note(self, what: str, path: str) -> None:
        if path:
            self.log.append((what, path))

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        if name not in {"actor.started", "actor.stopped"}:
            return
        path = fields["actor"].partition("#")[2].replace(".", "/")
        script = self.scripts.get(path)
        if script is None:
            return
        if name == "actor.started":
            script.alive += 1
            script.most_alive = max(script.most_alive, script.alive)
        elif script.alive:
            script.alive -= 1
            self.log.append(("down", path))

    def on_start(self, span: observe.Span) -> None: ...

    def on_end(self, span: observe.Span) -> None: ...

    def later(self, work: Awaitable[Any]) -> None:
        """Begin it, whatever comes of it; `close` waits for it."""
        self.tasks.append(asyncio.ensure_future(work, loop=self.loop))

    # --- what it is made of ---------------------------------------------------------------------------------------

    def script(self, path: str) -> Script:
        return self.scripts.setdefault(path, Script(path))

    async def supervisor(self, path: str) -> Any:
        """The running supervisor there."""
        found: Any = self.top
        below = ""
        for part in filter(None, path.split("/")):
            below = f"{below}/{part}" if below else part
            found = next(row.ref for row in found.which_children() if row.id == _id(below))
        return found

    async def ref(self, path: str) -> Any:
        above, _, _ = path.rpartition("/")
        return next(row.ref for row in (await self.supervisor(above)).which_children() if row.id == _id(path))

    def spec(self, twig: Twig, above: str) -> ChildSpec:
        path = f"{above}/{twig.id}" if above else twig.id
        backoff = None if twig.backoff is None else Backoff(*twig.backoff, jitter=0)
        common: dict[str, Any] = {
            "id": _id(path),
            "restart": twig.restart,
            "backoff": backoff,
            "significant": twig.significant,
            "shutdown": twig.shutdown,
        }
        if twig.inner is None:
            return child(Puppet, args={"script": self.script(path), "grove": self}, **common)
        target = Free if twig.inner.dynamic else Fixed
        return child(target, args={"grove": self, "at": path, **self._tree(twig.inner, path)}, **common)

    def _tree(self, branch: Branch, path: str) -> dict[str, Any]:
        if branch.dynamic:
            self.pools.add(path)
            return {"max_restarts": branch.most, "within": branch.within, "max_children": branch.limit}
        return {
            "strategy": branch.strategy,
            "max_restarts": branch.most,
            "within": branch.within,
            "auto_shutdown": branch.auto,
            "children": [self.spec(twig, path) for twig in branch.twigs],
        }


def _id(path: str) -> str:
    """Unique in the whole tree: events name an actor by its id."""
    return path.replace("/", ".")


async def _all_ended() -> None:
    """What swallowed its cancellation ends in its own time."""
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left)
