"""A tree that is changed again and again while its actors crash, fail to start and are stopped and started by others: it
becomes what was wanted last, nobody runs twice, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

import pytest

from mbactor import Actor, ActorSystem, Backoff, Exit, MbactorError, Supervisor, child, endpoint
from mbactor.supervisor.operate.applying import ApplyFailed
from mbactor.supervisor.operate.by_name import operate
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec
from mbactor.supervisor.tree import TreeNode, walked

pytestmark = pytest.mark.usefixtures("mbactor_loop")

STRATEGIES: Any = ("one_for_one", "one_for_all", "rest_for_one")
VERBS: Any = ("stop", "start", "restart")


class Hand(Actor):
    """Counts those of its path that run, and fails to start where it is to."""

    running: ClassVar[Counter[str]] = Counter()
    most: ClassVar[Counter[str]] = Counter()
    fails: ClassVar[Counter[str]] = Counter()

    def __init__(self, path: str, size: int, slow: float) -> None:
        self.path = path
        self.slow = slow

    async def on_start(self) -> None:
        await asyncio.sleep(self.slow)
        if self.fails[self.path]:
            self.fails[self.path] -= 1
            raise RuntimeError("no")
        self.running[self.path] += 1
        self.most[self.path] = max(self.most[self.path], self.running[self.path])

    async def on_stop(self, exit: Exit) -> None:
        await asyncio.sleep(self.slow)
        self.running[self.path] -= 1

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("boom")

    @endpoint
    async def finish(self) -> None:
        self.stop()


class Rough:
    """One system, and what happens to it."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.system = ActorSystem("top", tree=self.tree(), watchdog=None)
        self.over = False
        for counter in (Hand.running, Hand.most, Hand.fails):
            counter.clear()

    def tree(self) -> SupervisorSpec:
        return SupervisorSpec(**self.own(), children=self.children(2, "top"))

    def own(self) -> dict[str, Any]:
        return {"strategy": self.chance.choice(STRATEGIES), "max_restarts": 10**6, "within": "1h"}

    def children(self, depth: int, above: str) -> list[ChildSpec]:
        chance, found = self.chance, list[ChildSpec]()
        for id in chance.sample("abcdef", chance.randint(1 if depth == 2 else 0, 4)):
            path = f"{above}/{id}"
            restart: Any = chance.choice(["permanent", "permanent", "transient", "temporary"])
            more: dict[str, Any] = {"id": id, "restart": restart}
            if chance.random() < 0.4:
                more["backoff"] = Backoff(chance.choice([0.1, 1.0]), 2.0)
            if depth and chance.random() < 0.4:
                found.append(child(Supervisor, args={**self.own(), "children": self.children(depth - 1, path)}, **more))
            else:
                args = {"path": path, "size": chance.randint(0, 2), "slow": chance.choice([0.0, 0.3])}
                found.append(child(Hand, args=args, **more))
        return found

    # --- what happens ---------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[tuple[str, TreeNode]]:
        return (pair for pair in walked(self.system.tree()) if pair[0] != "top")

    def actors(self, above: Supervisor) -> Iterator[Any]:
        for row in above.which_children():
            if not isinstance(row.ref, Supervisor):
                yield row.ref
            elif row.ref.phase in {"boot", "running"}:
                yield from self.actors(row.ref)

    async def crash(self) -> None:
        while not self.over:
            found = [ref for root in self.system.roots() for ref in self.actors(root) if ref is not None]
            if found:
                self.chance.choice(found).tell(Hand.finish if self.chance.random() < 0.2 else Hand.crash)
            for path in Hand.most:
                Hand.fails[path] += self.chance.random() < 0.05
            await asyncio.sleep(self.chance.choice([0, 0.01, 0.1, 0.5]))

    async def operate(self) -> None:
        while not self.over:
            path = self.chance.choice([path for path, _ in self.nodes()] or ["top"])
            with suppress(MbactorError, TimeoutError):
                async with asyncio.timeout(self.chance.choice([0.01, 1, None])):
                    await operate(self.chance.choice(VERBS), path, self.system.roots())
            await asyncio.sleep(self.chance.choice([0, 0.05, 0.6]))

    async def apply(self) -> None:
        for _ in range(6):
            with suppress(ApplyFailed, TimeoutError):
                async with asyncio.timeout(self.chance.choice([0.5, None, None])):
                    await self.system.apply(self.tree())
            await asyncio.sleep(self.chance.random())
        self.over = True

    async def calm(self) -> None:
        """All that was stopped runs again, and what is wanted last is all there is."""
        Hand.fails.clear()
        await asyncio.sleep(30)
        while held := [path for path, node in self.nodes() if node.held]:
            for path in held:
                with suppress(MbactorError):  # it was below another one, and runs with that
                    await operate("start", path, self.system.roots())
        wanted = self.tree()
        await self.system.apply(wanted)
        await asyncio.sleep(30)
        assert self.system.plan(wanted).steps == ()
        assert [path for path, node in self.nodes() if node.state != "running"] == []


@pytest.mark.parametrize("seed", range(15))
async def test_a_tree_under_fire_becomes_what_was_wanted_last(seed: int) -> None:
    rough = Rough(seed)
    async with rough.system as system:
        await asyncio.gather(rough.crash(), rough.operate(), rough.apply())
        await rough.calm()
        assert system.abandoned == 0
    assert {path for path, most in Hand.most.items() if most > 1} == set()
    assert +Hand.running == Counter()
    assert asyncio.all_tasks() == {asyncio.current_task()}
