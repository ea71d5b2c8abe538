"""The tree as a value, and drawings of it."""

from __future__ import annotations

import asyncio
import json

import pytest

from mbactor import Actor, ActorSystem, Backoff, endpoint
from mbactor.errors import InvalidSpec, MbactorError
from mbactor.supervisor.children import Budget
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.spec import SupervisorSpec, child
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.tree import TreeNode, render, tree_of, tree_of_spec
from tests.supervisor.parts import Yard, running, until
from tests.supervisor.world import leaf

NESTED = child(
    Supervisor, id="pipelines", args={"strategy": "one_for_all", "children": (leaf("x", restart="temporary"),)}
)
SPEC = SupervisorSpec(children=(leaf("orders", replicas=2), NESTED))


def test_a_specification_is_drawn_with_box_drawing_lines() -> None:
    assert render(tree_of_spec(SPEC, "shop"), "text").splitlines() == [
        "shop  supervisor (one_for_one)",
        "├── orders-1  actor  permanent",
        "├── orders-2  actor  permanent",
        "└── pipelines  supervisor (one_for_all)  permanent",
        "    └── x  actor  temporary",
    ]


def test_mermaid_dot_and_json_show_the_same_nodes() -> None:
    tree = tree_of_spec(SPEC, 'a "shop"')
    assert render(tree, "mermaid").splitlines()[:4] == [
        "flowchart TD",
        '    n0["a #quot;shop#quot; (one_for_one)"]',
        '    n1["orders-1"]',
        "    n0 --> n1",
    ]
    assert '    n0 [label="a \\"shop\\" (one_for_one)"];' in render(tree, "dot").splitlines()
    assert "    n3 -> n4;" in render(tree, "dot").splitlines()
    plain = json.loads(render(tree, "json"))
    assert [one["id"] for one in plain["children"]] == ["orders-1", "orders-2", "pipelines"]
    assert plain["children"][2]["children"][0]["restart"] == "temporary"
    with pytest.raises(InvalidSpec, match="'svg' given, one of text, mermaid, dot, json expected"):
        render(tree, "svg")


def test_siblings_that_look_alike_are_drawn_apart() -> None:
    tree = TreeNode("t", "supervisor", "declared", children=tuple(TreeNode("a", "actor", "declared") for _ in "ab"))
    assert [line[:4] for line in render(tree, "text").splitlines()] == ["t  s", "├── ", "└── "]


@pytest.mark.anyio
async def test_a_running_tree_shows_states_and_what_happened() -> None:
    yard = Yard()
    top = Supervisor(children=[leaf("a"), NESTED, child(DynamicSupervisor, id="pool")])
    async with running(yard, top):
        await top.which_children()[2].ref.start_child(leaf("late"))
        yard.parts["a"].crash()
        await until(lambda: top.which_children()[0].state == "running")
        await top.terminate_child("pipelines")
        tree = tree_of(top)
        assert (tree.id, tree.state, tree.incarnation) == ("top", "running", 1)
        a, pipelines, pool = tree.children
        assert (a.state, a.restarts, a.incarnation, a.last_exit) == ("running", 1, 2, "failed: RuntimeError: boom")
        assert a.uptime is not None
        assert (pipelines.state, pipelines.held) == ("stopped", True)
        assert [one.id for one in pool.children] == ["late"]
        assert "stopped, held" in render(tree, "text")


@pytest.mark.anyio
async def test_a_running_tree_shows_the_restarts_left_and_when_the_next_is_due() -> None:
    yard = Yard()
    slow = leaf("slow", backoff=Backoff("1h", "1h", jitter=0))
    top = Supervisor(children=[leaf("a"), slow, child(DynamicSupervisor, id="pool")], max_restarts=5, within="1h")
    async with running(yard, top):
        pool = top.which_children()[2].ref
        for name in ("fresh", "worn"):
            await pool.start_child(leaf(name))
        for name in ("a", "worn", "slow"):
            yard.parts[name].crash()
        await until(lambda: top.which_children()[0].restarts == pool.which_children()[1].restarts == 1)
        tree = tree_of(top)
        assert tree.budget == Budget(max_restarts=5, within=3600.0, spent=2)
        assert Budget(5, 3600.0, 2).left == 3
        a, waiting, dynamic = tree.children
        assert (a.budget, a.restarts_in) == (None, None)
        assert waiting.restarts_in == pytest.approx(3600, abs=30)
        assert (dynamic.budget, pool.restart_budget()) == (None, None)
        assert [one.budget.left for one in dynamic.children if one.budget] == [3, 2]
        await top.terminate_child("slow")
        assert tree_of(top).children[1].restarts_in is None


# --- of a system ------------------------------------------------------------------------------------------


class Clerk(Actor):
    """Works for as long as it is told, or fails."""

    host = "clerk.example"

    def __init__(self, start_takes: float = 0.0, stop_takes: float = 0.0) -> None:
        self.start_takes = start_takes
        self.stop_takes = stop_takes

    async def on_start(self) -> None:
        await self.sleep(self.start_takes)

    async def on_stop(self, exit: object) -> None:
        await self.sleep(self.stop_takes)

    @endpoint
    async def work(self, seconds: float) -> None:
        await self.sleep(seconds)

    @endpoint
    async def fail(self) -> None:
        raise RuntimeError("lost the thread")


class Fragile(Clerk):
    host = "fragile.example"


def flat(tree: TreeNode) -> dict[str, TreeNode]:
    return {tree.id: tree} | {id: node for child in tree.children for id, node in flat(child).items()}


async def test_a_tree_shows_what_each_actor_handles_and_what_waits(mbactor: ActorSystem) -> None:
    clerk = await mbactor.spawn(Clerk)
    for _ in range(3):
        clerk.tell(Clerk.work, 60)
    await asyncio.sleep(5)
    node = flat(mbactor.tree())["clerk"]
    assert (node.state, node.incarnation, node.capacity) == ("running", 1, 1000)
    assert node.uptime == pytest.approx(5)
    assert [(message.method, round(message.age)) for message in node.running] == [("work", 5)]
    assert node.mailbox is not None
    assert (node.mailbox.depth, node.mailbox.accepted) == (2, 3)
    assert "up 5s  waiting 2  runs work" in render(mbactor.tree(), "text")
    await clerk.kill()


async def test_an_actor_that_ends_by_itself_is_stopping_before_its_supervisor_knows(mbactor: ActorSystem) -> None:
    clerk = await mbactor.spawn(Clerk, stop_takes=2)
    with pytest.raises(MbactorError):
        await clerk.ask(Clerk.fail)
    assert flat(mbactor.tree())["clerk"].state == "stopping"
    await asyncio.sleep(3)
    node = flat(mbactor.tree())["clerk"]
    assert (node.state, node.incarnation, node.restarts) == ("running", 2, 1)
    assert node.last_exit == "failed: RuntimeError: lost the thread"


@pytest.mark.usefixtures("mbactor_loop")
async def test_spawned_actors_stand_beside_the_tree_of_their_system() -> None:
    async with ActorSystem("shop", tree=SupervisorSpec(children=(child(Clerk, id="orders"),))) as system:
        assert [node.id for node in system.tree().children] == ["orders"]
        await system.spawn(Clerk)
        tree = system.tree()
        assert (tree.id, tree.strategy) == ("shop", "one_for_one")
        assert [node.id for node in tree.children] == ["orders", "spawned"]
        assert (tree.children[1].kind, [node.id for node in tree.children[1].children]) == ("supervisor", ["clerk"])


def test_a_system_that_does_not_run_has_a_tree_outside_of_any_loop() -> None:
    system = ActorSystem("shop", tree=SupervisorSpec(children=(child(Clerk),)))
    assert (system.tree().id, system.tree().state, system.tree().children) == ("shop", "stopped", ())
    assert ActorSystem("plain").tree().state == "stopped"

    async def live_and_end() -> None:
        async with system:
            await system.spawn(Clerk, start_takes=0.0)

    asyncio.run(live_and_end())
    assert {id: node.state for id, node in flat(system.tree()).items()} == {"shop": "stopped", "clerk": "stopped"}


async def _watch(system: ActorSystem, states: dict[str, list[str]]) -> None:
    """Look at the tree ten times a second; in which order each node had which state."""
    while True:
        tree = system.tree()
        for form in ("text", "json"):
            render(tree, form)
        for id, node in flat(tree).items():
            seen = states.setdefault(id, [])
            if not seen or seen[-1] != node.state:
                seen.append(node.state)
        await asyncio.sleep(0.1)


@pytest.mark.usefixtures("mbactor_loop")
async def test_a_tree_can_be_looked_at_while_it_starts_restarts_gives_up_and_stops() -> None:
    slow = {"start_takes": 1.0, "stop_takes": 1.0}
    fragile = child(Fragile, args=slow, backoff=Backoff("1s", "2s"))
    nested = child(Supervisor, id="nested", args={"max_restarts": 1, "within": 60, "children": (fragile,)})
    tree = SupervisorSpec(max_restarts=1, within=60, children=(child(Clerk, id="steady", args=slow), nested))
    system = ActorSystem("shop", tree=tree)
    states: dict[str, list[str]] = {}
    watching = asyncio.ensure_future(_watch(system, states))
    await asyncio.sleep(0.2)
    await system.start()
    await system.spawn(Clerk, **slow)
    while system.tree().state == "running":
        system.tell(Fragile.fail)
        await asyncio.sleep(0.5)
    await system.wait()
    await system.stop()
    await asyncio.sleep(1)
    assert not watching.done(), watching.exception()
    watching.cancel()
    assert states["shop"] == ["stopped", "starting", "running", "stopping", "stopped"]
    assert states["nested"][:4] == ["stopped", "starting", "running", "starting"]
    assert {"starting", "running", "stopping", "restarting", "stopped"} <= set(states["fragile"])
    assert states["steady"] == ["starting", "running", "stopping", "stopped"]
    assert states["clerk"][:2] == ["starting", "running"]


@pytest.mark.usefixtures("mbactor_loop")
async def test_a_tree_that_did_not_start_can_be_looked_at() -> None:
    broken = child(Clerk, id="broken", args={"start_takes": -1})
    system = ActorSystem("shop", tree=SupervisorSpec(children=(child(Clerk, id="orders"), broken)))
    with pytest.raises(MbactorError):
        await system.start()
    assert (system.tree().id, system.tree().state) == ("shop", "stopped")


def test_a_reason_of_several_lines_stays_on_its_line() -> None:
    node = TreeNode("a", "actor", "stopped", last_exit="failed: ValueError: one\n  two\x1b[31m")
    assert render(node, "text") == "a  actor  stopped  last: failed: ValueError: one two\\x1b[31m"
