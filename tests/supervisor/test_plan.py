"""The plan: which steps make one tree of another, and that they touch nothing else."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import fields, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor import Actor, Backoff, DynamicSupervisor, Mailbox, Supervisor
from mbactor.supervisor.operate.plan import EFFECTS, Marks, Step, applied, canonical, effect_of, plan, subtree
from mbactor.supervisor.operate.plan_values import changed, shown
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec, child
from tests.process import ROOT
from tests.supervisor.world import Leaf, leaf


class Other(Actor):
    def __init__(self, **settings: Any) -> None: ...


class Shop(Supervisor):
    """A supervisor of a class of its own."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()


def nest(id: str, *children: ChildSpec, process: bool = False, **own: Any) -> ChildSpec:
    return child(Supervisor, id=id, args={**own, "children": children}, process=process)


def tree(*children: ChildSpec, **own: Any) -> SupervisorSpec:
    return SupervisorSpec(children=children, **own)


def told(before: SupervisorSpec, after: SupervisorSpec, **marks: set[str]) -> list[str]:
    """The steps, each as a line."""
    steps = plan(before, after, "top", Marks(**{name: frozenset(paths) for name, paths in marks.items()}))
    return [line(step) for step in steps]


def line(step: Step) -> str:
    where = "" if step.act not in {"start", "move"} else f" after {step.after}" if step.after else " first"
    return f"{step.act} {step.path}" + where + "".join(f", {one}" for one in step.changes)


# --- properties -----------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32)
OPTIONS: dict[str, list[Any]] = {
    "restart": ["permanent", "transient", "temporary"],
    "shutdown": [0, 1, 5, None],
    "backoff": [None, Backoff(1, 2)],
    "mailbox": [None, Mailbox(5), Mailbox(7)],
}
OWN: dict[str, list[Any]] = {
    "strategy": ["one_for_one", "one_for_all", "rest_for_one"],
    "max_restarts": [0, 1, 2, 3],
    "within": ["1s", 5.0],
}


class Maker:
    """Makes trees, and others of them: drawn value by value they would be small, and slow to draw."""

    def __init__(self, seed: int, *, processes: float = 0.2) -> None:
        self.random = Random(seed)
        self.processes = processes

    def tree(self) -> SupervisorSpec:
        return tree(*self.children(2), **self.some(OWN))

    def other(self, spec: SupervisorSpec) -> SupervisorSpec:
        """A tree with much in common with this one."""
        own = {name: getattr(spec, name) for name in OWN}
        return tree(*self.changed(spec.children, 2), **own | self.some(OWN, 0.2))

    def some(self, options: dict[str, list[Any]], share: float = 0.5) -> dict[str, Any]:
        return {name: self.random.choice(of) for name, of in options.items() if self.random.random() < share}

    def children(self, depth: int) -> tuple[ChildSpec, ...]:
        ids = self.random.sample("abcdef", self.random.randint(0, 5))
        return tuple(self.child(id, depth) for id in ids)

    def child(self, id: str, depth: int) -> ChildSpec:
        kind = self.random.choice(["leaf", "other", "shop", "nest", "nest"])
        if kind == "nest" and depth:
            process = self.random.random() < self.processes
            return nest(id, *self.children(depth - 1), process=process, **self.some(OWN))
        if kind == "shop":
            return child(Shop, id=id, args={"size": self.random.randint(0, 2)})
        if kind == "other":
            return child(Other, id=id, args={"size": self.random.randint(0, 2)}, **self.some(OPTIONS))
        return leaf(id, **self.some(OPTIONS))

    def changed(self, children: tuple[ChildSpec, ...], depth: int) -> tuple[ChildSpec, ...]:
        kept = [self.varied(one, depth) for one in children if self.random.random() < 0.8]
        known = {one.id for one in kept}
        kept += [one for one in self.children(depth) if one.id not in known and self.random.random() < 0.5]
        if self.random.random() < 0.3:
            self.random.shuffle(kept)
        return tuple(kept)

    def varied(self, one: ChildSpec, depth: int) -> ChildSpec:
        if self.random.random() < 0.3:
            return self.child(one.id, depth)
        if one.target is Supervisor:
            return replace(one, args={**one.args, "children": self.changed(one.args["children"], max(0, depth - 1))})
        return replace(one, shutdown=7.0) if self.random.random() < 0.3 else one


def paths(spec: SupervisorSpec, at: str = "top") -> dict[str, ChildSpec]:
    """Every child, by its path."""
    found = {}
    for one in spec.children:
        found[f"{at}/{one.id}"] = one
        inner = subtree(spec, [one.id])
        found |= {} if inner is None else paths(inner, f"{at}/{one.id}")
    return found


def _two(seed: int) -> tuple[SupervisorSpec, SupervisorSpec]:
    maker = Maker(seed)
    before = maker.tree()
    return before, maker.other(before)


@settings(max_examples=400, deadline=None)
@given(SEEDS)
def test_the_steps_make_the_old_tree_the_new_one(seed: int) -> None:
    before, after = _two(seed)
    spec = canonical(before)
    for step in plan(before, after, "top"):
        assert step.act in {"start", "stop", "restart", "restart branch"} or step.fields or step.act == "move"
        spec = applied(spec, step)
    assert spec == canonical(after)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_equal_trees_need_no_step(seed: int) -> None:
    spec = Maker(seed).tree()
    assert plan(spec, spec, "top") == ()
    assert plan(spec, canonical(spec), "top") == ()


@settings(max_examples=300, deadline=None)
@given(SEEDS)
def test_what_no_change_concerns_is_in_no_step(seed: int) -> None:
    before, after = _two(seed)
    was, becomes = paths(canonical(before)), paths(canonical(after))
    steps = plan(before, after, "top")
    assert len({(step.path, step.act) for step in steps}) == len(steps)
    for step in steps:
        old, new = was.get(step.path), becomes.get(step.path)
        match step.act:
            case "start":
                assert old is None
            case "stop":
                assert new is None
            case "restart" | "restart branch":
                assert old != new
            case "change":
                assert step.changes
    for path in was.keys() & becomes.keys():
        if was[path] == becomes[path]:
            assert {step.act for step in steps if step.path == path} <= {"move"}
            assert not any(step.path.startswith(f"{path}/") for step in steps)


@settings(max_examples=200, deadline=None)
@given(st.permutations("abcdefgh"))
def test_as_few_children_move_as_can_be(order: list[str]) -> None:
    steps = plan(tree(*map(leaf, "abcdefgh")), tree(*map(leaf, order)), "top")
    assert all(step.act == "move" for step in steps)
    longest = [1] * 8
    for n, id in enumerate(order):
        longest[n] = 1 + max((longest[m] for m in range(n) if order[m] < id), default=0)
    assert len(steps) == 8 - max(longest)


# --- what each change does ------------------------------------------------------------------------------------


def test_children_come_and_go_by_their_ids_the_last_first() -> None:
    before = tree(leaf("a"), leaf("b"), leaf("c"))
    assert told(before, tree(leaf("n"), leaf("b"), leaf("m"))) == [
        "stop top/c",
        "stop top/a",
        "start top/n first",
        "start top/m after b",
    ]
    more = tree(leaf("w", replicas=3), leaf("b"))
    assert told(tree(leaf("w", replicas=2), leaf("b")), more) == ["start top/w-3 after w-2"]


def test_policy_changes_in_place_and_arguments_restart_the_child() -> None:
    before = tree(child(Other, id="a", args={"size": 1, "name": "x"}), leaf("b", shutdown=5))
    after = tree(child(Other, id="a", args={"size": 2}, restart="transient"), leaf("b", shutdown=None), max_restarts=9)
    assert told(before, after) == [
        "change top, max_restarts 3 -> 9",
        "change top/b, shutdown 5s -> infinity",
        "restart top/a, args.size 1 -> 2, args.name 'x' -> unset, restart permanent -> transient",
    ]


def test_a_nested_supervisor_of_the_file_is_compared_child_by_child() -> None:
    before = tree(nest("inner", leaf("a"), nest("deep", leaf("x"))))
    after = tree(nest("inner", nest("deep", leaf("x", shutdown=1), leaf("y"), strategy="one_for_all")))
    assert told(before, after) == [
        "stop top/inner/a",
        "change top/inner/deep, strategy one_for_one -> one_for_all",
        "change top/inner/deep/x, shutdown 5s -> 1s",
        "start top/inner/deep/y after x",
    ]


def test_a_supervisor_of_a_class_of_its_own_or_in_a_process_is_restarted_with_all_under_it() -> None:
    before = tree(child(Shop, id="shop", args={"size": 1}), nest("node", leaf("a"), process=True))
    after = tree(child(Shop, id="shop", args={"size": 2}), nest("node", leaf("a", shutdown=1), process=True))
    assert told(before, after) == [
        "restart branch top/shop, args.size 1 -> 2",
        "restart branch top/node, a.shutdown 5s -> 1s",
    ]
    far = leaf("far", process=True)
    assert told(tree(far), tree(replace(far, shutdown=1.0))) == ["change top/far, shutdown 5s -> 1s"]
    assert told(tree(far), tree(replace(far, mailbox=Mailbox(5)))) == ["restart top/far, mailbox none -> 5, reject"]
    assert told(tree(nest("n", leaf("a"))), tree(nest("n", leaf("a"), process=True))) == [
        "restart branch top/n, process False -> True"
    ]
    assert told(tree(leaf("n")), tree(child(Shop, id="n"))) == [
        f"restart branch top/n, class {Leaf.__module__}:Leaf -> {Shop.__module__}:Shop, shutdown 5s -> infinity"
    ]


def test_after_and_the_list_are_one_order() -> None:
    assert told(tree(leaf("a"), leaf("b")), tree(leaf("a", after=["b"]), leaf("b"))) == ["move top/b first"]
    assert told(tree(leaf("b"), leaf("a")), tree(leaf("a", after=["b"]), leaf("b"))) == []


def test_what_an_operator_stopped_stays_stopped_and_takes_the_change_over() -> None:
    before = tree(child(Other, id="a", args={"size": 1}), nest("n", leaf("x")))
    after = tree(child(Other, id="a", args={"size": 2}), nest("n", leaf("x"), leaf("y")))
    assert told(before, after, held={"top/a", "top/n"}) == [
        "change top/a, args.size 1 -> 2",
        "change top/n, y none -> new",
    ]


def test_a_temporary_child_that_has_had_its_run_has_another_only_where_it_is_another() -> None:
    job = child(Other, id="job", args={"size": 1}, restart="temporary")
    ended = {"top/job"}
    assert told(tree(job), tree(job), ended=ended) == []
    assert told(tree(job), tree(replace(job, shutdown=1.0)), ended=ended) == ["change top/job, shutdown 5s -> 1s"]
    assert told(tree(job), tree(replace(job, args={"size": 2})), ended=ended) == [
        "start top/job first, args.size 1 -> 2"
    ]
    assert told(tree(job), tree(replace(job, restart="permanent")), ended=ended) == [
        "start top/job first, restart temporary -> permanent"
    ]


def test_a_child_whose_start_failed_is_started_again_though_nothing_changed() -> None:
    spec = tree(leaf("a"), leaf("b"))
    assert told(spec, spec, broken={"top/b"}) == ["start top/b after a"]


@pytest.mark.parametrize("kind", [ChildSpec, SupervisorSpec])
def test_each_field_of_a_specification_has_its_effect(kind: type) -> None:
    ruled_by_the_ids = {"id", "replicas", "children"}
    for one in fields(kind):
        name = {"target": "class", "kind": "class", "positional": "args"}.get(one.name, one.name)
        assert name in ruled_by_the_ids or name in EFFECTS, f"say in EFFECTS, and in the README, what {name} does"
    assert effect_of("something new") == "replace"


def test_the_table_of_the_readme_is_the_table_in_the_code() -> None:
    rows = re.findall(r"^\| (.*) \| \*\*(live|restart|replace)\*\*", (ROOT / "README.md").read_text(), re.MULTILINE)
    listed = {name: effect for names, effect in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed == dict(EFFECTS)


def test_dynamic_supervisors_are_compared_by_class_and_arguments() -> None:
    pool = child(DynamicSupervisor, id="pool", args={"max_children": 5})
    assert told(tree(pool), tree(replace(pool, args={"max_children": 9}))) == [
        "restart branch top/pool, args.max_children 5 -> 9"
    ]


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("shutdown", None, "infinity"),
        ("shutdown", 0.0, "brutal"),
        ("config.pause", dt.timedelta(seconds=90), "1m30s"),
        ("config.token_pause", dt.timedelta(seconds=90), "***"),
        ("within", 90.0, "1m30s"),
        ("restart", "permanent", "permanent"),
        ("backoff", Backoff("100ms", "10s"), "100ms to 10s, x 2, jitter 0.2"),
        ("backoff", None, "none"),
        ("mailbox", Mailbox(5), "5, reject"),
        ("args.name", "x", "'x'"),
        ("args.name", "x" * 99, "'" + "x" * 58 + "…"),
        ("args.db_password", "hunter2", "***"),
        ("config.x", {"api_key": "k", "n": [1, {"token": 2}]}, "{'api_key': ***, 'n': [1, {'token': ***}]}"),
        ("args.url", "postgres://me:hunter2@db/x", "'postgres://me:***@db/x'"),
        ("args.url", "redis://:hunter2@db", "'redis://:***@db'"),
    ],
)
def test_values_are_told_by_the_fields_own_words_and_secrets_are_not(field: str, value: Any, text: str) -> None:
    assert shown(field, value) == text


def test_a_secret_that_changes_is_told_to_change() -> None:
    assert list(map(str, changed("args", {"token": "a"}, {"token": "b"}))) == ["args.token *** -> ***"]


class Odd:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_values_that_have_trouble_with_themselves_are_others_and_are_told_all_the_same() -> None:
    assert list(map(str, changed("args", {"x": Odd()}, {"x": Odd()}))) == ["args.x <Odd: no> -> <Odd: no>"]
