"""What a tree allows and hardly anybody means is told; what is in order is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hypothesis import given

from mbactor.kernel.actor import Actor
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.partition import PartitionSupervisor
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec, child
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology.lints import MOST_ATTEMPTS, Lint, lints, spec_of, stop_time
from mbactor.testing import child_trees
from tests.supervisor.topology_parts import read


class One(Actor):
    host = "one.example"


class Two(Actor):
    host = "two.example"


class AlsoTwo(Actor):
    host = "two.example"


class InCode(Supervisor):
    auto_shutdown = "any_significant"
    children = (child(One, shutdown="9s", restart="transient", significant=True),)


class Grown(Supervisor):
    def __init__(self) -> None:
        super().__init__(children=[child(One)])


class Late(Supervisor):
    children = (child(One, shutdown="9s"),)

    async def on_start(self) -> None:
        self.children = (child(Two, shutdown="1s"),)


def nested(id: str, children: list[ChildSpec], *, options: dict[str, Any] | None = None, **tree: Any) -> ChildSpec:
    return child(Supervisor, id=id, args={"children": tuple(children), **tree}, **(options or {}))


def found(*children: ChildSpec, **options: Any) -> list[tuple[tuple[str, ...], str]]:
    return [(lint.ids, lint.field) for lint in lints(SupervisorSpec(children=children, **options))]


def test_a_dynamic_supervisor_alone_in_a_process_is_told() -> None:
    alone = child(DynamicSupervisor, id="pool", process=True)
    assert found(alone, child(One)) == [(("pool",), "process")]
    inside = nested("n", [child(DynamicSupervisor, id="pool"), child(One)], options={"process": True})
    assert found(inside) == []


TREES = child_trees(One, Two, AlsoTwo)


def below(spec: ChildSpec, ids: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], ChildSpec, SupervisorSpec]]:
    """All supervisors of a tree, from the top."""
    inner = spec_of(spec)
    if inner is None:
        return []
    return [(ids, spec, inner), *(one for child in inner.children for one in below(child, (*ids, child.id)))]


def told(spec: ChildSpec, field: str) -> set[tuple[str, ...]]:
    inner = spec_of(spec)
    assert inner is not None
    return {lint.ids for lint in lints(inner) if lint.field == field}


# --- each lint against what it stands for -------------------------------------------------------------------


def longest_stop(spec: ChildSpec, unsaid: float = 5.0) -> float:
    inner = spec_of(spec)
    bound = math.inf if spec.shutdown is None else spec.shutdown
    if inner is None:
        return unsaid if (spec.kind, bound) == ("actor", 5.0) else bound
    spent = 0.0
    for one in reversed(inner.children):
        spent += longest_stop(one, unsaid)
    return min(spent, bound)


def gives_up(spec: SupervisorSpec, place: int) -> bool:
    """Whether a crash loop of one child is ever too much, where all that is stopped with it takes its time."""
    crashing = spec.children[place]
    others = {
        "one_for_one": [],
        "one_for_all": [one for one in spec.children if one is not crashing],
        "rest_for_one": list(spec.children[place + 1 :]),
    }[spec.strategy]
    stops = sum(longest_stop(one, unsaid=0.0) for one in others)
    now, charged = 0.0, [0.0]
    for attempt in range(spec.max_restarts):
        now += stops + (crashing.backoff.delay(attempt, 0.0) if crashing.backoff else 0.0)
        charged.append(now)
    return charged[-1] - charged[0] <= spec.within


@given(TREES)
def test_the_longest_stop_is_that_of_all_children_one_after_another(tree: ChildSpec) -> None:
    assert stop_time(tree) == longest_stop(tree)


@given(TREES)
def test_a_window_is_told_of_where_some_crash_loop_never_fills_it(tree: ChildSpec) -> None:
    endless = {
        ids
        for ids, _, inner in below(tree)
        if not all(gives_up(inner, place) for place, one in enumerate(inner.children) if one.restart != "temporary")
    }
    assert told(tree, "within") == endless


@given(TREES)
def test_a_finite_shutdown_is_told_of_where_it_cuts_off_what_is_below(tree: ChildSpec) -> None:
    short = {
        ids
        for ids, spec, inner in below(tree)
        if ids and spec.shutdown and spec.shutdown < sum(map(longest_stop, inner.children))
    }
    assert told(tree, "shutdown") == short


@given(TREES)
def test_budgets_are_told_of_once_where_they_multiply_beyond_measure(tree: ChildSpec) -> None:
    def starts(ids: tuple[str, ...], spec: SupervisorSpec, above: int) -> set[tuple[str, ...]]:
        whole = sum(1 for _ in range(above) for _ in range(spec.max_restarts + 1))
        if above > 1 and whole > MOST_ATTEMPTS >= above:
            over.add(ids)
        for one in spec.children:
            inner = spec_of(one)
            if inner is not None:
                starts((*ids, one.id), inner, 1 if one.restart == "temporary" else whole)
        return over

    over: set[tuple[str, ...]] = set()
    root = spec_of(tree)
    assert root is not None
    assert told(tree, "max_restarts") == starts((), root, 1)


@given(TREES)
def test_hosts_are_told_of_where_different_classes_serve_one(tree: ChildSpec) -> None:
    served: dict[str, set[type]] = {}
    for _, _, inner in below(tree):
        for one in inner.children:
            if one.kind == "actor":
                served.setdefault(vars(one.target)["host"], set()).add(one.target)
    assert bool(told(tree, "actor")) == any(len(classes) > 1 for classes in served.values())


# --- by example ---------------------------------------------------------------------------------------------


def test_a_tree_by_default_has_no_warning() -> None:
    for strategy in ("one_for_one", "one_for_all", "rest_for_one"):
        assert found(child(One), child(Two, replicas=3), nested("n", [child(One)]), strategy=strategy) == []


def test_a_window_says_what_would_do() -> None:
    (lint,) = lints(SupervisorSpec("one_for_all", children=[child(One), child(Two, shutdown="1m")]))
    assert lint == Lint(
        (),
        "within",
        "3 restarts of 'one' may take 3m (its backoff, and the stops of those that go with it), so more of them may "
        "never fall within 5s, and a crash loop does not end; within: 3m or more, or shorter stops and backoffs expected",
    )
    assert not lints(SupervisorSpec("one_for_all", 3, "3m", children=[child(One), child(Two, shutdown="1m")]))


def test_a_stop_without_end_is_told_of_as_such() -> None:
    (lint,) = lints(SupervisorSpec("rest_for_one", 1, children=[child(One), child(Two, shutdown=None)]))
    assert "a restart of 'one' may take for ever" in lint.text
    assert "a finite `shutdown`" in lint.text


def test_no_budget_and_nothing_restarted_leave_no_window() -> None:
    assert found(child(One), child(Two), strategy="one_for_all", max_restarts=0) == []
    assert found(*(child(one, restart="temporary") for one in (One, Two)), strategy="one_for_all") == []


def test_an_auto_shutting_supervisor_is_no_permanent_child() -> None:
    assert found(child(InCode)) == [(("in-code",), "restart")]
    assert found(child(InCode, restart="transient")) == []


def test_the_children_of_a_class_count_where_it_has_them_before_it_is_constructed() -> None:
    assert found(child(InCode, shutdown="1s", restart="transient")) == [(("in-code",), "shutdown")]
    assert found(child(Grown, shutdown="1s")) == []
    assert found(child(Late, shutdown="1s")) == []
    assert found(child(DynamicSupervisor, shutdown="1s")) == []


class Shares(PartitionSupervisor):
    children = (child(One, shutdown="9s"),)
    partitions = 3


class Counted(Shares):
    def __init__(self) -> None:
        super().__init__(partitions=4)


def test_partitions_are_looked_into() -> None:
    assert found(child(Shares, shutdown="26s")) == [(("shares",), "shutdown")]
    assert found(child(Shares, shutdown="27s")) == []
    assert found(child(Counted, shutdown="1s")) == []
    given = child(PartitionSupervisor, shutdown="1s", args={"child": child(One, shutdown="9s"), "partitions": 2})
    assert found(given) == [(("partition-supervisor",), "shutdown")]
    assert spec_of(child(Shares, args={"partitions": 0})) is None
    assert found(child(PartitionSupervisor, positional=(child(One),), args={"partitions": 2})) == []


def test_brutal_is_meant() -> None:
    assert found(nested("n", [child(One)], options={"shutdown": "brutal"})) == []


def test_warnings_are_told_with_their_places(folder: Path) -> None:
    topology = read(
        folder,
        """\
        version: 1
        supervisor:
          strategy: one_for_all
          within: 1s
          children:
            - actor: shop_for_test:Orders
              shutdown: 4s
            - supervisor: inner
              shutdown: 100ms
              restart: permanent
              auto_shutdown: any_significant
              max_restarts: 999
              children:
                - actor: shop_for_test:Rival
                - actor: shop_for_test:Rival
                  id: other
        """,
    )
    places = [where.replace(f"{folder}/", "") for where, _ in topology.warnings]
    assert places == [
        "tree.yaml:4:11",
        "tree.yaml:9:17",
        "tree.yaml:10:16",
        "tree.yaml:12:21",
        "tree.yaml:14:18",
        "tree.yaml:15:18",
    ]
    assert topology.warnings[2][1].startswith("supervisor.children[1].restart: auto_shutdown: any_significant")


def test_what_a_replica_or_a_partition_is_warned_of_is_told_once_where_it_is_declared(folder: Path) -> None:
    topology = read(
        folder,
        """\
        version: 1
        supervisor:
          children:
            - supervisor: shares
              partitions: 3
              children:
                - supervisor: share
                  children:
                    - supervisor: slow
                      shutdown: 1s
                      children: [{actor: "shop_for_test:Orders", shutdown: 9s}]
            - supervisor: twins
              replicas: 2
              children:
                - supervisor: slow
                  shutdown: 1s
                  children: [{actor: "shop_for_test:Orders", shutdown: 9s}]
        """,
    )
    places = [where.replace(f"{folder}/", "") for where, _ in topology.warnings]
    assert places == ["tree.yaml:10:25", "tree.yaml:16:21"]
