"""The tree as a value, and drawings of it."""

from __future__ import annotations

import json

import pytest

from mbactor.errors import InvalidSpec
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
