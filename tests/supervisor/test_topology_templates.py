"""Children are made of templates, replicas know their number, and siblings wait for each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology import load
from tests.supervisor.topology_parts import child_faults, children, faults, read

TEMPLATES = """\
version: 1
templates:
  base:
    restart: transient
    backoff: {initial: 100ms, maximum: 10s}
  worker:
    template: base
    actor: shop_for_test:Orders
    args: {start: 1, tags: [a]}
  team:
    supervisor: team
    children:
      - {template: worker, id: inner}
  sold:
    sale: {id: sold, start: 5}
supervisor:
  children:
"""


def made(folder: Path, *items: str) -> list[str]:
    return faults(folder, TEMPLATES + "".join(f"    - {item}\n" for item in items))


def test_a_child_is_made_of_its_template_and_its_own_keys_win(folder: Path) -> None:
    items = [
        "{template: worker, id: a, backoff: {maximum: 1m}, args: {tags: [b], channel: x}}",
        "{template: team}",
        "{template: sold, sale: {start: 6}, restart: temporary}",
        "{include: more.yaml}",
    ]
    (folder / "more.yaml").write_text("- {template: worker, id: included}\n")
    topology = read(folder, TEMPLATES + "".join(f"    - {item}\n" for item in items))
    first, team, sold, included = topology.supervisor.children
    assert first.args == {"start": 1, "tags": ["b"], "channel": "x"}
    assert (first.restart, first.backoff) == ("transient", Backoff("100ms", "1m"))
    (inner,) = Supervisor(**team.args).spec().children
    assert (team.id, inner.id, inner.restart) == ("team", "inner", "transient")
    assert (sold.id, sold.args, sold.restart) == ("sold", {"start": 6}, "temporary")
    assert (included.id, included.args) == ("included", {"start": 1, "tags": ["a"]})
    assert topology.warnings == ()


def test_an_included_file_has_templates_of_its_own(folder: Path) -> None:
    (folder / "more.yaml").write_text(
        "templates: {mine: {actor: 'shop_for_test:Orders', id: b}}\nchildren: [{template: mine}]\n"
    )
    spec = read(folder, TEMPLATES + "    - include: more.yaml\n    - {template: mine, id: c}\n").supervisor
    assert [one.id for one in spec.children] == ["b", "c"]
    (folder / "more.yaml").write_text("templates: {base: {restart: temporary}}\nchildren: []\n")
    (problem,) = made(folder, "include: more.yaml")
    assert problem == "more.yaml:1:13: templates.base: the template is given twice (first at tree.yaml:3:3)"


def test_an_overlay_changes_templates_and_children_that_come_from_them(folder: Path) -> None:
    over = """
        templates:
          base: {restart: temporary}
          extra: {template: worker}
        supervisor:
          children:
            - id: team
              children:
                - {id: inner, args: {start: 9}}
                - {template: extra, id: more}
            - {template: extra, id: top}
    """
    topology = read(folder, TEMPLATES + "    - template: team\n", overlays=[over])
    team, top = topology.supervisor.children
    inner, more = Supervisor(**team.args).spec().children
    assert inner.args == {"start": 9, "tags": ["a"]}
    assert {one.restart for one in (inner, more, top)} == {"temporary"}


def test_a_template_that_nobody_uses_is_a_warning(folder: Path) -> None:
    warnings = read(folder, TEMPLATES + "    - {template: worker, id: a}\n").warnings
    assert [(where.replace(f"{folder}/", ""), text) for where, text in warnings] == [
        ("tree.yaml:10:3", "templates.team: no child is made of this template"),
        ("tree.yaml:14:3", "templates.sold: no child is made of this template"),
    ]


def test_a_fault_in_a_template_is_told_there_and_once(folder: Path) -> None:
    text = TEMPLATES.replace("restart: transient", "restrat: transient")
    items = "".join(f"    - {{template: worker, id: c{n}}}\n" for n in range(3))
    (problem,) = faults(folder, text + items)
    assert problem == "tree.yaml:4:5: templates.base.restrat: unknown key, did you mean 'restart'?"


def test_what_is_missing_is_told_at_the_child(folder: Path) -> None:
    (problem,) = made(folder, "{template: base, id: a}")
    assert problem.startswith("tree.yaml:18:7: supervisor.children[0]: no kind given")


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (
            "{template: wroker, id: a}",
            "tree.yaml:18:18: supervisor.children[0].template: there is no template 'wroker', did you mean 'worker'?",
        ),
        ("{template: q, id: a}", "there is no template 'q'; known: base, worker, team, sold"),
        ("{template: [worker], id: a}", "a list given, the name of a template expected"),
    ],
)
def test_an_unknown_template_is_refused_and_nothing_else_is_said_of_the_child(
    folder: Path, item: str, problem: str
) -> None:
    (found,) = made(folder, item)
    assert problem in found


def test_templates_made_of_each_other_are_spelled_out(folder: Path) -> None:
    text = """\
version: 1
templates:
  a: {template: b}
  b: {template: c}
  c: {supervisor: x, children: [{template: a}]}
  d: 5
supervisor:
  children:
    - template: b
"""
    assert faults(folder, text) == [
        "tree.yaml:3:17: templates.a.template: the template is made of itself: b -> c -> a -> b",
        "tree.yaml:6:6: templates.d: '5' given, a mapping expected",
    ]


def test_the_root_and_an_include_are_made_of_no_template(folder: Path) -> None:
    text = TEMPLATES.replace("supervisor:\n  children:\n", "supervisor:\n  template: team\n  children: []\n")
    (problem,) = faults(folder, text)
    assert problem.startswith("tree.yaml:17:3: supervisor.template: unknown key")
    (problem,) = faults(
        folder, "version: 1\ntemplates: {i: {include: x.yaml}}\nsupervisor: {children: [{template: i}]}\n"
    )
    assert problem == "tree.yaml:2:17: templates.i.include: an include stands in a list of children by itself"


# --- replicas ---------------------------------------------------------------------------------------------


def test_each_replica_has_its_number_in_its_arguments(folder: Path) -> None:
    text = """
        - actor: shop_for_test:Orders
          replicas: 3
          args: {start: "${replica}", channel: "c-${replica}-${X}", tags: ["${replica}", "$${replica}"]}
    """
    specs = children(folder, text, {"X": "x"}).children
    assert [one.id for one in specs] == ["orders-1", "orders-2", "orders-3"]
    assert [one.args["start"] for one in specs] == [1, 2, 3]
    assert specs[1].args == {"start": 2, "channel": "c-2-x", "tags": ["2", "${replica}"]}
    (only,) = children(folder, text.replace("replicas: 3", "replicas: 1"), {"X": "x"}).children
    assert (only.id, only.args["start"]) == ("orders", 1)


@pytest.mark.parametrize(
    "text",
    [
        "- actor: shop_for_test:Orders\n  args: {channel: '${replica}'}",
        "- actor: shop_for_test:Orders\n  replicas: 2\n  id: 'x-${replica}'",
        "- supervisor: 'x-${replica}'\n  replicas: 2",
        "- sale: {channel: '${replica}'}",
    ],
)
def test_a_number_of_a_replica_elsewhere_is_refused(folder: Path, text: str) -> None:
    assert any("${replica} given, and there is no such number here" in one for one in child_faults(folder, text))


def test_a_fault_in_the_arguments_of_replicas_is_told_once(folder: Path) -> None:
    text = "- actor: shop_for_test:Orders\n  replicas: 3\n  args: {start: 'x${replica}'}"
    assert child_faults(folder, text) == ["tree.yaml:6:21: supervisor.children[0].args.start: 'x1' given, int expected"]


def test_more_replicas_than_anybody_means_are_refused_at_once(folder: Path) -> None:
    text = "- actor: shop_for_test:Orders\n  replicas: 1000000000000"
    (problem,) = child_faults(folder, text)
    assert "and <= 10000 expected" in problem


def test_a_nested_supervisor_has_replicas(folder: Path) -> None:
    text = "- supervisor: team\n  process: true\n  replicas: 2\n  children: [{actor: 'shop_for_test:Orders'}]"
    specs = children(folder, text).children
    assert [(one.id, one.kind, one.process) for one in specs] == [
        ("team-1", "supervisor", True),
        ("team-2", "supervisor", True),
    ]


# --- after --------------------------------------------------------------------------------------------------


def test_a_child_is_started_after_those_that_it_names(folder: Path) -> None:
    text = """
        - actor: shop_for_test:Orders
          id: last
          after: [pool, "${X}"]
        - actor: shop_for_test:Orders
          id: pool
          replicas: 2
        - actor: shop_for_test:Orders
          id: second
          after: [pool-2]
    """
    spec = children(folder, text, {"X": "second"})
    assert [one.id for one in spec.children] == ["pool-1", "pool-2", "second", "last"]
    assert spec.children[-1].after == ("pool-1", "pool-2", "second")


def test_unknown_siblings_and_circles_are_told_where_they_are(folder: Path) -> None:
    text = """
        - {actor: 'shop_for_test:Orders', id: a, after: [b]}
        - {actor: 'shop_for_test:Orders', id: b, after: [c, dd]}
        - {actor: 'shop_for_test:Orders', id: c, replicas: 2, after: [a]}
        - {actor: 'shop_for_test:Orders', id: d, after: [d]}
        - {actor: 'shop_for_test:Orders', id: e, after: f}
        - {actor: 'shop_for_test:Orders', id: f, after: [qqq, [x]]}
    """
    assert child_faults(folder, text) == [
        "tree.yaml:4:54: supervisor.children[0].after[0]: they are started after each other: a after b after c after a",
        "tree.yaml:5:57: supervisor.children[1].after[1]: there is no child 'dd' here, did you mean 'd'?",
        "tree.yaml:7:54: supervisor.children[3].after[0]: they are started after each other: d after d",
        "tree.yaml:8:53: supervisor.children[4].after: 'f' given, a list expected",
        (
            "tree.yaml:9:54: supervisor.children[5].after[0]: there is no child 'qqq' here, one of its siblings expected: "
            "a, b, c-1, c-2, c, d, e"
        ),
        "tree.yaml:9:59: supervisor.children[5].after[1]: a list given, the id of a sibling expected",
    ]


def test_files_that_include_each_other_again_and_again_are_refused(folder: Path) -> None:
    for n in range(20):
        (folder / f"f{n}.yaml").write_text(f"- include: f{n + 1}.yaml\n- include: f{n + 1}.yaml\n")
    (folder / "f20.yaml").write_text("- actor: shop_for_test:Orders\n")
    assert any("more than 1000 includes" in one for one in child_faults(folder, "- include: f0.yaml"))


@pytest.mark.parametrize("again", ["more.yaml", "deep/../more.yaml", "link/more.yaml"])
def test_a_file_with_a_template_and_the_same_file_again_are_one(folder: Path, again: str) -> None:
    (folder / "deep").mkdir()
    (folder / "link").symlink_to(folder)
    (folder / "more.yaml").write_text("templates: {t: {actor: 'shop_for_test:Orders'}}\nchildren: [{template: t}]\n")
    text = "version: 1\nsupervisor:\n  children:\n    - {supervisor: a, children: [{include: more.yaml}]}\n"
    (folder / "tree.yaml").write_text(text + f"    - include: {again}\n")
    assert [one.id for one in load(folder / "tree.yaml", {}).supervisor.children] == ["a", "orders"]
