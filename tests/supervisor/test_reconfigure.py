"""A supervisor that is told to supervise otherwise, on the pure policy: what runs goes on."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.errors import NoSuchChild
from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.state import Adopt, Ignored, Start, Stop
from tests.supervisor.world import World, leaf


def world(*children: Any, **options: Any) -> World:
    made = World(*(children or (leaf("a"), leaf("b"), leaf("c"))), **options).boot()
    made.took()
    return made


def ids(made: World) -> list[str]:
    return [child.id for child in made.state.children]


# --- in place ---------------------------------------------------------------------------------------------


def test_fields_specifications_and_order_change_while_all_goes_on() -> None:
    made = world()
    assert made.reconfigure(leaf("c"), leaf("a", restart="temporary"), leaf("b"), strategy="rest_for_one") == "ok"
    assert made.took() == []
    assert ids(made) == ["c", "a", "b"]
    made.exit("c")
    assert made.took() == [("stop", "b"), ("stop", "a"), ("drop", "a"), ("start", "c"), ("start", "b")]


def test_the_restarts_that_were_charged_stay_charged() -> None:
    made = world(max_restarts=2)
    made.exit("a")
    made.exit("b")
    assert made.reconfigure(max_restarts=3, within=60.0) == "ok"
    assert len(made.state.spent) == 2
    made.advance(30)
    made.exit("a")
    assert len(made.state.spent) == 3
    made.exit("a")
    assert made.state.phase == "ended"


def test_a_smaller_budget_ends_nothing_before_the_next_restart() -> None:
    made = world(max_restarts=5)
    for _ in range(3):
        made.exit("a")
    made.took()
    assert made.reconfigure(max_restarts=1) == "ok"
    assert made.took() == []
    made.exit("a")
    assert made.state.phase == "ended"


def test_children_that_were_added_at_run_time_stay_behind_the_others() -> None:
    made = world()
    assert made.add(leaf("late")) == "ok"
    made.took()
    assert made.reconfigure(leaf("b"), leaf("new"), leaf("a"), leaf("c"), child="new", start=True) == "ok"
    assert made.took() == [("start", "new")]
    assert ids(made) == ["b", "new", "a", "c", "late"]


def test_a_held_child_takes_its_new_specification_over_and_stays_held() -> None:
    made = world()
    made.terminate("b")
    made.took()
    assert made.reconfigure(leaf("a"), leaf("b", shutdown=1), leaf("c")) == "ok"
    assert made.took() == []
    child = made.state.find("b")
    assert child is not None
    assert (child.held, child.spec.shutdown) == (True, 1.0)


# --- start, stop, restart -----------------------------------------------------------------------------------


def test_a_child_is_stopped_and_forgotten() -> None:
    made = world()
    assert made.reconfigure(leaf("a"), leaf("c"), child="b", stop=True) == "ok"
    assert made.took() == [("stop", "b"), ("drop", "b")]
    assert [one.id for one in made.spec.children] == ["a", "c"]


def test_a_restart_stops_by_the_old_specification_and_starts_by_the_new() -> None:
    made = world(leaf("a", shutdown=7))
    assert made.reconfigure(leaf("a", shutdown=1), child="a", stop=True, start=True) == "ok"
    kinds = [action for action in made.actions if isinstance(action, Stop | Adopt | Start)][1:]
    assert [type(one) for one in kinds] == [Stop, Adopt, Start]
    assert kinds[0] == Stop("a", 7.0)


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_an_operators_restart_charges_nothing_forgets_nobody_and_ends_a_hold(restart: str) -> None:
    made = world(leaf("a", restart=restart), max_restarts=0)
    assert made.renew("a") == "ok"
    assert made.took() == [("stop", "a"), ("start", "a")]
    assert made.state.spent == ()
    if restart != "temporary":
        made.terminate("a")
        made.took()
        assert made.renew("a") == "ok"
        assert made.took() == [("start", "a")]
        child = made.state.find("a")
        assert child is not None
        assert not child.held


def test_an_operators_restart_leaves_the_order_as_it_is() -> None:
    made = world(strategy="rest_for_one")
    made.terminate("a")
    made.delete("a")
    made.add(leaf("a"))
    assert made.renew("b") == "ok"
    assert ids(made) == ["b", "c", "a"]


def test_a_child_that_waits_out_a_backoff_starts_at_once_by_its_new_specification() -> None:
    made = world(leaf("a", backoff=Backoff(60, 60, jitter=0)), leaf("b"))
    made.exit("a")
    assert made.status("a") == "restarting"
    assert made.reconfigure(leaf("a"), leaf("b"), child="a", stop=True, start=True) == "ok"
    assert made.took() == [("start", "a")]
    assert made.timers == {}
    assert made.status("a") == "running"


def test_those_that_wait_with_it_are_restarted_all_the_same() -> None:
    made = world(leaf("a", backoff=Backoff(60, 60, jitter=0)), leaf("b"), strategy="one_for_all")
    made.exit("a")
    made.took()
    made.reconfigure(leaf("b"), child="a", stop=True)
    assert made.took() == [("drop", "a")]
    made.advance(60)
    assert made.took() == [("start", "b")]


def test_a_start_that_fails_holds_the_child_so_that_no_group_restart_meets_it() -> None:
    made = world(leaf("a"), leaf("b"), strategy="one_for_all", max_restarts=1)
    made.fails["b"] = 1
    assert made.reconfigure(leaf("a"), leaf("b", shutdown=1), child="b", stop=True, start=True) == "StartFailed"
    child = made.state.find("b")
    assert child is not None
    assert (child.status, child.held, child.broken, child.spec.shutdown) == ("stopped", True, True, 1.0)
    made.took()
    made.exit("a")
    assert made.took() == [("start", "a")]
    assert made.reconfigure(child="b", start=True) == "ok"
    child = made.state.find("b")
    assert child is not None
    assert (child.status, child.held, child.broken) == ("running", False, False)


def test_an_operators_stop_of_a_child_that_failed_to_start_is_an_operators_stop() -> None:
    made = world()
    made.fails["n"] = 1
    children = (leaf("a"), leaf("b"), leaf("c"), leaf("n"))
    assert made.reconfigure(*children, child="n", start=True) == "StartFailed"
    made.terminate("n")
    child = made.state.find("n")
    assert child is not None
    assert (child.held, child.broken) == (True, False)


def test_a_new_temporary_child_that_asks_not_to_be_started_is_forgotten() -> None:
    made = world()
    made.hold = lambda action: action == Start("job")
    job = leaf("job", restart="temporary")
    made.reconfigure(leaf("a"), leaf("b"), leaf("c"), job, child="job", start=True)
    made.feed(Ignored("job", made.now))
    assert ids(made) == ["a", "b", "c"]
    assert made.replies[1] == "ok"


# --- its turn -------------------------------------------------------------------------------------------------


def test_it_waits_for_what_is_under_way_and_a_stop_wins() -> None:
    made = world(strategy="one_for_all")
    made.hold = lambda action: action == Start("b", again=True)
    made.exit("a")
    assert made.reconfigure(max_restarts=9) == "pending"
    assert made.spec.max_restarts == 3
    made.release()
    assert (made.replies[1], made.spec.max_restarts) == ("ok", 9)
    made.hold = lambda action: action == Start("b", again=True)
    made.exit("a")
    assert made.reconfigure(max_restarts=1) == "pending"
    made.stop()
    assert made.replies[2] == "Unavailable"


def test_a_stop_breaks_it_off() -> None:
    made = world()
    made.hold = lambda action: action == Start("n")
    children = (leaf("a"), leaf("b"), leaf("c"), leaf("n"))
    assert made.reconfigure(*children, child="n", start=True) == "pending"
    made.hold = lambda _: False
    made.stop()
    assert made.replies[1] == "Unavailable"
    assert made.state.phase == "ended"


# --- whoever waits for a restart has it --------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_nobody_is_forgotten_whatever_changes_while_restarts_wait(seed: int) -> None:
    random = Random(seed)
    children = [leaf(id, backoff=random.choice([None, Backoff(1, 4, jitter=0)])) for id in "abcd"]
    strategies = ["one_for_one", "one_for_all", "rest_for_one"]
    made = World(*children, strategy=random.choice(strategies), max_restarts=1000, within=1e6).boot()
    spent = 0
    for _ in range(12):
        match random.randrange(5):
            case 0 | 1:
                made.exit(random.choice("abcd"), "failed")
            case 2:
                made.fails[random.choice("abcd")] = random.randint(0, 2)
            case 3:
                random.shuffle(children)
                made.reconfigure(*children, strategy=random.choice(strategies))
            case _:
                made.advance(random.choice([0.25, 1, 3]))
        assert len(made.state.spent) >= spent
        spent = len(made.state.spent)
    for _ in range(20):
        made.advance(10)
    assert {id: made.status(id) for id in "abcd"} == dict.fromkeys("abcd", "running")
    assert made.timers == {}


def test_a_start_of_a_child_that_somebody_else_has_started_meanwhile_is_its_restart() -> None:
    made = world()
    assert made.reconfigure(leaf("a"), leaf("b", shutdown=1), leaf("c"), child="b", start=True) == "ok"
    assert made.took() == [("stop", "b"), ("start", "b")]
    assert made.spec.children[1].shutdown == 1


def test_what_an_operator_does_before_a_planned_restart_has_its_turn_decides_whether_it_is_one() -> None:
    made = world()
    made.hold = lambda action: isinstance(action, Start | Stop)
    made.terminate("b")
    children = (leaf("a"), leaf("b", shutdown=1), leaf("c"))
    assert made.reconfigure(*children, child="b", stop=True, start=True, unless_held=True) == "pending"
    made.release()
    assert (made.status("b"), made.took()) == ("stopped", [("stop", "b")])
    made.hold = lambda action: isinstance(action, Start)
    made.restart("b")
    children = (leaf("a"), leaf("b", shutdown=2), leaf("c"))
    assert made.reconfigure(*children, child="b", stop=True, start=True, unless_held=True) == "pending"
    made.release()
    assert (made.status("b"), made.took()) == ("running", [("start", "b"), ("stop", "b"), ("start", "b")])


def test_a_restart_of_a_child_that_was_forgotten_before_its_turn_is_refused() -> None:
    made = world(leaf("a", restart="temporary"), leaf("b"))
    made.exit("a")
    made.took()
    assert made.renew("a") == "NoSuchChild"
    assert made.took() == []
    assert made.terminate("b") == "ok"


@pytest.mark.anyio
async def test_an_operators_restart_of_an_unknown_child_names_those_there_are() -> None:
    from mbactor.supervisor.supervisor import Supervisor
    from tests.supervisor.parts import Yard, running

    async with running(Yard(), Supervisor(children=[leaf("a"), leaf("b")])) as supervisor:
        with pytest.raises(NoSuchChild, match="no child 'x'; known: a, b"):
            await supervisor.renew_child("x")
