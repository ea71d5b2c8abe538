"""An overlay changes what it names, and what is wrong is told where it was written."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology import load
from tests.supervisor.topology_parts import faults, read

BASE = """\
version: 1
name: shop
supervisor:
  max_restarts: 3
  within: 5s
  children:
    - actor: shop_for_test:Orders
      backoff: {initial: 100ms, maximum: 10s}
      args: {start: 10, tags: [a, b]}
    - actor: shop_for_test:Orders
      id: ${SECOND:-second}
    - include: more.yaml
    - supervisor: pipelines
      children:
        - sale: {id: flows, start: 1}
        - actor: shop_for_test:Tree
"""
MORE = "- actor: shop_for_test:Orders\n  id: included\n"


@pytest.fixture
def shop(folder: Path) -> Path:
    (folder / "more.yaml").write_text(MORE)
    return folder


def nested(spec: object) -> Supervisor:
    return Supervisor(**spec.args)  # type: ignore[attr-defined]


def test_an_overlay_changes_children_by_id_appends_new_ones_and_takes_others_away(shop: Path) -> None:
    over = """
        name: shop-of-today
        supervisor:
          within: 1m
          children:
            - id: orders
              backoff: {maximum: 1m}
              args: {channel: app, tags: [c]}
              replicas: 2
            - id: second
              remove: true
            - id: included
              restart: temporary
            - supervisor: pipelines
              strategy: one_for_all
              children:
                - id: flows
                  restart: transient
                  sale: {channel: flow}
                - id: tree
                  remove: true
                - actor: shop_for_test:Orders
            - actor: shop_for_test:Tree
              id: new
    """
    topology = read(shop, BASE, overlays=[over])
    spec = topology.supervisor
    assert (topology.name, spec.max_restarts, spec.within) == ("shop-of-today", 3, 60.0)
    assert [one.id for one in spec.children] == ["orders-1", "orders-2", "included", "pipelines", "new"]
    first, _, included, pipelines, _ = spec.children
    assert first.backoff == Backoff("100ms", "1m")
    assert first.args == {"start": 10, "channel": "app", "tags": ["c"]}
    assert included.restart == "temporary"
    inner = nested(pipelines).spec()
    assert inner.strategy == "one_for_all"
    flows, orders = inner.children
    assert (flows.id, flows.restart, flows.args) == ("flows", "transient", {"start": 1, "channel": "flow"})
    assert orders.id == "orders"
    assert [path.name for path in topology.overlays] == ["over1.yaml"]


def test_overlays_are_worked_in_one_after_another(shop: Path) -> None:
    first = "supervisor:\n  children:\n    - {id: orders, args: {start: 11, channel: app}}\n"
    second = "supervisor:\n  children:\n    - {id: orders, args: {start: 12}}\n    - {id: included, remove: true}\n"
    spec = read(shop, BASE, overlays=[first, second]).supervisor
    assert spec.children[0].args == {"start": 12, "channel": "app", "tags": ["a", "b"]}
    assert [one.id for one in spec.children] == ["orders", "second", "pipelines"]


def test_without_overlays_and_with_an_empty_one_the_tree_is_the_same(shop: Path) -> None:
    assert read(shop, BASE, overlays=["supervisor: {}\n"]).supervisor == read(shop, BASE).supervisor


def test_an_overlay_can_replace_a_child_by_one_of_another_kind(shop: Path) -> None:
    over = """
        supervisor:
          children:
            - {id: second, remove: true}
            - {supervisor: second, children: []}
    """
    assert read(shop, BASE, overlays=[over]).supervisor.children[-1].kind == "supervisor"


def test_an_overlay_brings_in_files_relative_to_itself(shop: Path) -> None:
    (shop / "prod").mkdir()
    (shop / "prod" / "extra.yaml").write_text("- {id: orders, restart: transient}\n- {sale: {id: extra}}\n")
    (shop / "prod" / "prod.yaml").write_text("supervisor:\n  children: [{include: extra.yaml}]\n")
    (shop / "tree.yaml").write_text(BASE)
    topology = load(shop / "tree.yaml", {}, [shop / "prod" / "prod.yaml"])
    assert topology.supervisor.children[0].restart == "transient"
    assert topology.supervisor.children[-1].id == "extra"
    assert [path.name for path in topology.included] == ["more.yaml", "extra.yaml"]


def test_what_is_wrong_in_an_overlay_is_told_at_its_place_there(shop: Path) -> None:
    over = """\
        supervisor:
          within: 5
          children:
            - id: ordres
              restart: transient
            - id: included
              restart: allways
              args: {strat: 1}
            - id: secnd
              remove: true
            - id: second
              remove: true
              restart: transient
            - restart: transient
            - supervisor: pipelines
              children:
                - id: flwos
            - just text
    """
    assert faults(shop, BASE, overlays=[over]) == [
        (
            "over1.yaml:2:11: supervisor.within: '5' given, a duration with its unit, such as 500ms or 5s, expected, "
            "did you mean '5s'?"
        ),
        (
            "over1.yaml:4:11: supervisor.children[0].id: there is no child 'ordres' to change here, did you mean "
            "'orders'? (a new one needs a kind, such as `actor: module:Class`)"
        ),
        (
            "over1.yaml:7:16: supervisor.children[1].restart: 'allways' given, one of permanent, transient, temporary "
            "expected"
        ),
        "over1.yaml:8:14: supervisor.children[1].args.strat: Orders takes no such argument, did you mean 'start'?",
        "over1.yaml:9:11: supervisor.children[2].id: there is no child 'secnd' to remove here, did you mean 'second'?",
        "over1.yaml:13:7: supervisor.children[3].restart: given for a child that is removed; nothing else expected",
        (
            "over1.yaml:14:7: supervisor.children[4]: no kind given, one of actor, supervisor, include, foreman, gateway, "
            "lost, sale expected"
        ),
        (
            "over1.yaml:17:15: supervisor.children[5].children[0].id: there is no child 'flwos' to change here, "
            "did you mean 'flows'? (a new one needs a kind, such as `actor: module:Class`)"
        ),
        "over1.yaml:18:7: supervisor.children[6]: 'just text' given, a mapping such as `actor: module:Class` expected",
    ]


@pytest.mark.parametrize(
    ("over", "problem"),
    [
        ("- a\n", "over1.yaml:1:1: a list given, a mapping with `version` and `supervisor` expected"),
        ("version: 2\n", "over1.yaml:1:10: version: '2' given, 1 expected"),
        ("nmae: x\n", "over1.yaml:1:1: nmae: unknown key, did you mean 'name'?"),
        ("supervisor: 5\n", "over1.yaml:1:13: supervisor: '5' given, a mapping expected"),
        ("supervisor: {children: 5}\n", "over1.yaml:1:24: supervisor.children: '5' given, a list expected"),
        ("supervisor: {children: [{remove: true}]}\n", "there is no child to remove here; known: orders, "),
        ("supervisor: {children: [{id: second, remove: 5}]}\n", "'5' given, true or false expected"),
        ("supervisor: {children: [{id: orders, sale: {}}]}\n", "two kinds given, 'actor' and 'sale'"),
        ("", "over1.yaml:1:1: the file is empty"),
    ],
)
def test_a_faulty_overlay_is_refused(shop: Path, over: str, problem: str) -> None:
    found = faults(shop, BASE, overlays=[over])
    assert any(problem in one for one in found), found


def test_children_are_added_to_a_supervisor_that_had_none_and_none_is_there_to_change(shop: Path) -> None:
    base = BASE.replace("    - include: more.yaml", "    - supervisor: empty\n    - include: more.yaml")
    over = "supervisor: {children: [{supervisor: empty, children: [{actor: 'shop_for_test:Orders', id: new}]}]}\n"
    spec = read(shop, base, overlays=[over]).supervisor
    assert [one.id for one in nested(spec.children[2]).spec().children] == ["new"]
    for given, verb in (("id: new, remove: true", "remove"), ("id: new, restart: transient", "change")):
        wrong = f"supervisor: {{children: [{{supervisor: empty, children: [{{{given}}}]}}]}}\n"
        (problem,) = faults(shop, base, overlays=[wrong])
        assert f"there is no child 'new' to {verb} here; known: none" in problem


def test_an_overlay_may_name_a_child_twice_and_one_that_it_took_away_is_gone(shop: Path) -> None:
    twice = "supervisor: {children: [{id: orders, restart: transient}, {id: orders, shutdown: 1s}]}\n"
    first = read(shop, BASE, overlays=[twice]).supervisor.children[0]
    assert (first.restart, first.shutdown) == ("transient", 1.0)
    gone = "supervisor: {children: [{id: orders, remove: true}, {id: orders, shutdown: 1s}]}\n"
    (problem,) = faults(shop, BASE, overlays=[gone])
    assert "there is no child 'orders' to change here" in problem


def test_an_overlay_may_put_another_class_in_the_place_of_a_child(shop: Path) -> None:
    base = BASE.replace(
        "    - include: more.yaml", "    - {supervisor: 'shop_for_test:Tree', id: branch}\n    - include: more.yaml"
    )
    over = "supervisor: {children: [{id: branch, supervisor: 'mbactor:DynamicSupervisor', shutdown: 1s}]}\n"
    branch = read(shop, base, overlays=[over]).supervisor.children[2]
    assert (branch.id, branch.target, branch.shutdown) == ("branch", DynamicSupervisor, 1.0)
    over = "supervisor: {children: [{id: orders, actor: 'shop_for_test:Gate', args: {start: 1}}]}\n"
    assert all("Gate takes no such argument" in problem for problem in faults(shop, BASE, overlays=[over]))


def test_an_overlay_gives_a_mapping_where_there_was_nothing_or_something_else(shop: Path) -> None:
    base = BASE.replace("    - include: more.yaml", "    - sale:\n      id: cheap\n    - include: more.yaml")
    over = "supervisor: {children: [{id: cheap, sale: {start: 7}}, {id: orders, args: {tags: [z]}}]}\n"
    found = {one.id: one for one in read(shop, base, overlays=[over]).supervisor.children}
    assert (found["cheap"].args, found["orders"].args) == ({"start": 7}, {"start": 10, "tags": ["z"]})
    wrong = BASE.replace("{start: 10, tags: [a, b]}", "5")
    given = "supervisor: {children: [{id: orders, args: {start: 1}}]}\n"
    assert read(shop, wrong, overlays=[given]).supervisor.children[0].args == {"start": 1}


def test_remove_is_for_overlays(shop: Path) -> None:
    (problem,) = faults(shop, BASE.replace("id: ${SECOND:-second}", "id: second\n      remove: true"))
    assert problem.startswith("tree.yaml:12:7: supervisor.children[1].remove: unknown key")


def test_a_fault_of_the_base_is_told_there_though_an_overlay_changes_the_child(shop: Path) -> None:
    over = "supervisor: {children: [{id: orders, restart: transient}]}\n"
    (problem,) = faults(shop, BASE.replace("start: 10", "strat: 10"), overlays=[over])
    assert problem.startswith("tree.yaml:9:14: supervisor.children[0].args.strat: ")


def test_the_same_file_may_be_an_overlay_of_several(shop: Path) -> None:
    (shop / "tree.yaml").write_text(BASE)
    (shop / "prod.yaml").write_text(dedent("supervisor:\n  max_restarts: 9\n"))
    assert load(shop / "tree.yaml", {}, [shop / "prod.yaml"] * 2).supervisor.max_restarts == 9
