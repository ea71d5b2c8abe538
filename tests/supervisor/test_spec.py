"""A specification that exists is valid; a faulty one is refused with field and value."""

from __future__ import annotations

from typing import Any

import pytest

from mbactor.errors import InvalidSpec
from mbactor.kernel.actor import Actor
from mbactor.mailbox import Mailbox
from mbactor.supervisor.spec import Backoff, SupervisorSpec, child, kebab_case
from mbactor.supervisor.supervisor import Supervisor
from tests.supervisor.world import Leaf, leaf


class Needs(Actor):
    def __init__(self, start: int, *, step: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Orders", "orders"), ("HTTPServer", "http-server"), ("OrderLine2Item", "order-line2-item"), ("a_b", "a-b")],
)
def test_the_default_id_is_the_class_name_in_kebab_case(name: str, expected: str) -> None:
    assert kebab_case(name) == expected


def test_defaults_depend_on_the_kind() -> None:
    actor, supervisor = child(Leaf), child(Supervisor)
    assert (actor.id, actor.kind, actor.shutdown, actor.restart) == ("leaf", "actor", 5.0, "permanent")
    assert (supervisor.kind, supervisor.shutdown) == ("supervisor", None)
    assert (child(Leaf, shutdown="brutal").shutdown, child(Leaf, shutdown=None).shutdown) == (0.0, None)
    assert child(Leaf, shutdown="1m30s").shutdown == 90.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"id": "a b"}, "id: 'a b' given"),
        ({"id": ""}, "id: '' given"),
        ({"id": "a/b"}, "id: 'a/b' given"),
        ({"id": 5}, "id: 5 given"),
        ({"restart": "always"}, "restart: 'always' given, one of permanent, transient, temporary expected"),
        ({"shutdown": "5"}, "shutdown: '5' is not a duration"),
        ({"shutdown": -1}, "shutdown: -1 is not a duration"),
        ({"replicas": 0}, "replicas: 0 given"),
        ({"replicas": True}, "replicas: True given"),
        ({"backoff": 5}, "backoff: 5 given"),
        ({"mailbox": 1000}, "mailbox: 1000 given, a Mailbox or None expected"),
        ({"significant": True}, "significant: True given with restart 'permanent'"),
        ({"process": 1}, "process: 1 given, True or False expected"),
        ({"after": "db"}, "after: 'db' given, a list of the ids of siblings expected"),
        (
            {"args": {"start": 1, "strat": 1}},
            "args: Needs(start=1, strat=1): got an unexpected keyword argument 'strat'; it takes start, step",
        ),
        ({"args": {}}, "args: Needs(): missing a required argument: 'start'; it takes start, step"),
    ],
)
def test_a_faulty_child_is_refused_by_field_and_value(options: dict[str, Any], text: str) -> None:
    target = Needs if "args" in options else Leaf
    with pytest.raises(InvalidSpec) as caught:
        child(target, **options)
    assert text in str(caught.value)


def test_a_choice_that_is_none_is_told_with_its_child_or_its_field() -> None:
    with pytest.raises(InvalidSpec) as caught:
        child(Leaf, id="a", restart="always")  # type: ignore[arg-type]
    assert str(caught.value) == "child 'a': restart: 'always' given, one of permanent, transient, temporary expected"
    with pytest.raises(InvalidSpec) as caught:
        SupervisorSpec(strategy="all")  # type: ignore[arg-type]
    assert str(caught.value) == "strategy: 'all' given, one of one_for_one, one_for_all, rest_for_one expected"


def test_a_supervisor_takes_each_of_its_arguments_and_a_class_may_have_them() -> None:
    ends = leaf("a", restart="transient", significant=True)
    given: dict[str, Any] = {
        "strategy": "rest_for_one", "max_restarts": 7, "within": 9.0, "auto_shutdown": "all_significant", "children": (ends,),
    }  # fmt: skip
    made = [Supervisor(**given), Supervisor.from_spec(SupervisorSpec(**given)), type("Own", (Supervisor,), given)()]
    for one in made:
        spec = one.spec()
        assert {name: getattr(spec, name) for name in given} == given


def test_a_supervisor_takes_no_mailbox() -> None:
    with pytest.raises(InvalidSpec, match="mailbox: Mailbox.*given for a supervisor, which has none"):
        child(Supervisor, mailbox=Mailbox(capacity=5))


def test_only_actor_and_supervisor_classes_are_children() -> None:
    for target in (int, Leaf(), "x"):
        with pytest.raises(InvalidSpec, match="an Actor or Supervisor class expected"):
            child(target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "all"}, "strategy: 'all' given"),
        ({"max_restarts": -1}, "max_restarts: -1 given"),
        ({"max_restarts": 1.5}, "max_restarts: 1.5 given"),
        ({"within": 0}, "within: 0 given"),
        ({"auto_shutdown": "any"}, "auto_shutdown: 'any' given"),
        ({"children": [Leaf]}, "children[0]: "),
        ({"children": [leaf("a"), leaf("a")]}, "the id 'a' is given twice"),
        ({"children": [leaf("a", replicas=2), leaf("a-2")]}, "the id 'a-2' is given twice"),
        ({"children": [leaf("a", restart="transient", significant=True)]}, "auto_shutdown is 'never'"),
        ({"children": [leaf("a", after=["b"]), leaf("c")]}, "after: 'b' given, one of its siblings expected: c"),
        ({"children": [leaf("a", after=["a"])]}, "started after each other: a after a"),
        (
            {"children": [leaf("a", after=["c"]), leaf("b", after=["a"]), leaf("c", after=["b"])]},
            "started after each other: a after c after b after a",
        ),
    ],
)
def test_a_faulty_supervisor_is_refused_by_field_and_value(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        SupervisorSpec(**options)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("children", "order"),
    [
        ([leaf("a"), leaf("b"), leaf("c")], "a b c"),
        ([leaf("a", after=["c"]), leaf("b"), leaf("c")], "b c a"),
        ([leaf("c", after=["a", "b"]), leaf("b", after=["a"]), leaf("a")], "a b c"),
        ([leaf("web", after=["db"]), leaf("db", replicas=2), leaf("log")], "db-1 db-2 web log"),
        ([leaf("web", after=["db-1"]), leaf("db", replicas=2)], "db-1 web db-2"),
        ([leaf("web", after=["db"], replicas=2), leaf("db")], "db web-1 web-2"),
        (
            [leaf(str(n), after=[str(n + 1)]) for n in range(2000)] + [leaf("2000")],
            " ".join(map(str, range(2000, -1, -1))),
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_child_stands_behind_those_it_is_started_after(children: list[Any], order: str) -> None:
    spec = SupervisorSpec(children=children)
    assert " ".join(one.id for one in spec.children) == order
    assert SupervisorSpec(children=spec.children) == spec  # what was read once can be read again


@pytest.mark.parametrize(
    "options",
    [
        {"initial": 0, "maximum": 1},
        {"initial": 2, "maximum": 1},
        {"initial": 1, "maximum": 1, "factor": 0.5},
        {"initial": 1, "maximum": 1, "jitter": 2},
        {"initial": "5", "maximum": 1},
    ],
)
def test_a_faulty_backoff_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match="backoff"):
        Backoff(**options)


def test_backoff_is_bounded_however_many_attempts() -> None:
    backoff = Backoff("100ms", "10s", factor=3, jitter=0.2)
    assert [backoff.delay(n, 0.0) for n in (0, 1, 2, 5, 100_000)] == pytest.approx([0.1, 0.3, 0.9, 10, 10])
    assert backoff.delay(100, 1.0) == pytest.approx(8)


@pytest.mark.parametrize("factor", [1, 3, 1e5, 1e200, float("inf")])
def test_backoff_is_bounded_whatever_its_factor(factor: float) -> None:
    backoff = Backoff(1, 10, factor=factor)
    delays = [backoff.delay(n, 0.0) for n in (0, 1, 2, 62, 63, 64, 100_000)]
    assert delays == ([1.0] * 7 if factor == 1 else [1, 3, 9, 10, 10, 10, 10] if factor == 3 else [1, *[10] * 6])
