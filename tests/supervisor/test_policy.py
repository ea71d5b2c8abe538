"""The rules of supervision, one sentence each, on the pure policy."""

from __future__ import annotations

from typing import Any

import pytest

from mbactor.kernel.exit import Exit
from mbactor.supervisor.spec import Backoff
from mbactor.supervisor.state import (
    Abort,
    Close,
    Delay,
    Ended,
    Exited,
    GaveUp,
    GiveUp,
    Ignored,
    NotStarted,
    Start,
    StartChild,
    Started,
    StartFailed,
    Stop,
    Stopped,
    Up,
)
from tests.supervisor.world import World, leaf


def three(strategy: str = "one_for_one", **options: Any) -> World:
    world = World(leaf("a"), leaf("b"), leaf("c"), strategy=strategy, **options).boot()
    world.took()
    return world


# --- start ---------------------------------------------------------------------------------------------


def test_children_start_one_after_another_in_list_order() -> None:
    world = World(leaf("a"), leaf("b"))
    world.hold = lambda action: action == Start("a")
    world.boot()
    assert world.took() == []
    world.release()
    assert world.took() == [("start", "a"), ("start", "b")]
    assert isinstance(world.actions[-1], Up)


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_a_failed_first_start_stops_those_that_are_up_in_reverse(restart: str) -> None:
    world = World(leaf("a"), leaf("b"), leaf("c", restart=restart), leaf("d"), fails={"c": 1}).boot()
    assert world.log[3:] == [("stop", "b"), ("stop", "a"), ("end", "failed")]
    (ended,) = [action for action in world.actions if isinstance(action, Ended)]
    assert isinstance(ended.exit.error, StartFailed)
    assert ended.exit.error.child == "c"
    assert not any(isinstance(action, GiveUp) for action in world.actions)


@pytest.mark.parametrize(("restart", "status"), [("permanent", "stopped"), ("temporary", "absent")])
def test_an_ignored_start_keeps_the_specification_unless_temporary(restart: str, status: str) -> None:
    world = World(leaf("a", restart=restart), leaf("b"))
    world.hold = lambda action: action == Start("a")
    world.boot()
    world.feed(Ignored("a", 0.0))
    assert (world.status("a"), world.status("b")) == (status, "running")


# --- the restart table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "shutdown", "failed", "killed", "gave_up"])
@pytest.mark.parametrize(
    ("restart", "clean", "abnormal"),
    [
        ("permanent", "running", "running"),
        ("transient", "stopped", "running"),
        ("temporary", "absent", "absent"),
    ],
)
def test_restart_type_and_exit_decide_who_comes_back(restart: str, clean: str, abnormal: str, kind: str) -> None:
    world = World(leaf("a", restart=restart)).boot()
    world.exit("a", kind)
    expected = clean if kind in {"normal", "shutdown"} else abnormal
    assert world.status("a") == expected
    assert len(world.state.spent) == (expected == "running")


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", [("start", "b")]),
        ("one_for_all", [("stop", "c"), ("stop", "a"), ("start", "a"), ("start", "b"), ("start", "c")]),
        ("rest_for_one", [("stop", "c"), ("start", "b"), ("start", "c")]),
    ],
)
def test_strategy_decides_who_is_restarted_with_it(strategy: str, expected: list[tuple[str, str]]) -> None:
    world = three(strategy)
    world.exit("b")
    assert world.took() == expected
    assert len(world.state.spent) == 1


STOPPED_FIRST = {"one_for_one": "", "one_for_all": "ca", "rest_for_one": "c"}
STARTED_THEN = {"one_for_one": "b", "one_for_all": "abc", "rest_for_one": "bc"}


@pytest.mark.parametrize("kind", ["normal", "shutdown", "failed", "killed", "gave_up"])
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@pytest.mark.parametrize("strategy", STOPPED_FIRST)
def test_the_table_of_restarts(strategy: str, restart: str, kind: str) -> None:
    world = World(leaf("a"), leaf("b", restart=restart), leaf("c"), strategy=strategy).boot()
    world.took()
    world.exit("b", kind)
    clean = kind in {"normal", "shutdown"}
    if restart == "permanent" or (restart == "transient" and not clean):
        stops, starts = STOPPED_FIRST[strategy], STARTED_THEN[strategy]
        assert world.took() == [*(("stop", id) for id in stops), *(("start", id) for id in starts)]
        assert world.state.spent == (0.0,)
        assert world.status("b") == "running"
    else:
        assert world.took() == ([("drop", "b")] if restart == "temporary" else [])
        assert world.state.spent == ()
        assert world.status("b") == ("absent" if restart == "temporary" else "stopped")


def test_a_group_restart_revives_finished_transients_and_ignored_children_but_no_held_one() -> None:
    specs = [leaf("a"), leaf("done", restart="transient"), leaf("ignored"), leaf("held")]
    world = World(*specs, strategy="one_for_all")
    world.hold = lambda action: action == Start("ignored")
    world.boot()
    world.hold = lambda _: False
    world.feed(Ignored("ignored", 0.0))
    world.exit("done", "normal")
    world.terminate("held")
    world.took()
    world.exit("a")
    assert world.took() == [("start", "a"), ("start", "done"), ("start", "ignored")]
    assert world.restart("held") == "ok"
    world.exit("a")
    assert world.status("held") == "running"


def test_a_group_restart_drops_temporary_siblings() -> None:
    world = World(leaf("a"), leaf("t", restart="temporary"), strategy="one_for_all").boot()
    world.took()
    world.exit("a")
    assert world.took() == [("stop", "t"), ("drop", "t"), ("start", "a")]


@pytest.mark.parametrize(("restart", "kind"), [("temporary", "failed"), ("transient", "normal")])
def test_an_end_that_triggers_nothing_touches_no_sibling(restart: str, kind: str) -> None:
    world = World(leaf("a", restart=restart), leaf("b"), strategy="one_for_all").boot()
    world.took()
    world.exit("a", kind)
    assert [step for step in world.took() if step[0] != "drop"] == []


# --- the budget ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_budget_of_n_allows_n_restarts(most: int) -> None:
    world = three(max_restarts=most)
    for _ in range(most):
        world.exit("a")
        assert world.state.phase == "running"
    world.exit("a")
    assert world.state.phase == "ended"
    assert world.log[-3:] == [("stop", "c"), ("stop", "b"), ("end", "gave_up")]


def test_giving_up_names_the_child_and_keeps_its_error() -> None:
    world = three(max_restarts=0)
    world.exit("b")
    (ended,) = [action for action in world.actions if isinstance(action, Ended)]
    assert isinstance(ended.exit.error, GaveUp)
    assert ended.exit.error.child == "b"
    assert isinstance(ended.exit.error.__cause__, RuntimeError)
    assert not ended.exit.clean


@pytest.mark.parametrize(("apart", "phase"), [(5.0, "ended"), (5.01, "running")])
def test_a_restart_exactly_the_window_old_still_counts(apart: float, phase: str) -> None:
    world = three(max_restarts=1, within=5.0)
    world.exit("a")
    world.advance(apart)
    world.exit("a")
    assert world.state.phase == phase


def test_a_child_that_never_starts_again_is_tried_as_often_as_the_budget_allows() -> None:
    world = three(max_restarts=4)
    world.fails["a"] = 100
    world.exit("a")
    world.run_due()
    assert world.log.count(("start", "a")) == 4
    assert world.state.phase == "ended"


def test_told_crashes_are_paced_and_never_give_up() -> None:
    world = three(max_restarts=0)
    waits = []
    for _ in range(12):
        world.exit("a", told=True)
        (delay,) = [action for action in world.actions if isinstance(action, Delay)][-1:]
        waits.append(delay.seconds)
        world.advance(delay.seconds)
        assert world.status("a") == "running"
    assert waits[:3] == pytest.approx([0.01, 0.02, 0.04])
    assert waits[-1] == pytest.approx(1.0)
    assert world.state.spent == ()
    world.advance(1.5)
    world.exit("a", told=True)
    assert world.timers["a"] - world.now == pytest.approx(0.01)


def test_a_failed_restart_after_a_told_crash_is_charged() -> None:
    world = three(max_restarts=1)
    world.fails["a"] = 1
    world.exit("a", told=True)
    world.advance(0.01)
    assert len(world.state.spent) == 1


def test_simultaneous_ends_count_once_in_a_group_and_twice_alone() -> None:
    for strategy, count in (("one_for_all", 1), ("one_for_one", 2)):
        world = three(strategy)
        world.hold = lambda action: isinstance(action, (Start, Stop))
        world.exit("b")
        world.exit("a")
        world.release()
        assert len(world.state.spent) == count
        assert world.log.count(("start", "a")) == 1
        assert all(world.status(id) == "running" for id in "abc")


@pytest.mark.parametrize(("first", "second", "count"), [("a", "c", 1), ("c", "a", 2)])
def test_in_rest_for_one_the_earlier_listed_absorbs_the_later(first: str, second: str, count: int) -> None:
    world = three("rest_for_one")
    world.hold = lambda action: isinstance(action, (Start, Stop))
    world.exit(first)
    world.exit(second)
    world.release()
    assert len(world.state.spent) == count


# --- backoff -----------------------------------------------------------------------------------------------


def test_backoff_grows_to_its_maximum_and_starts_again_after_a_long_run() -> None:
    backoff = Backoff("100ms", "400ms", jitter=0.2)
    world = World(leaf("a", backoff=backoff), max_restarts=100).boot()
    waits = []
    for sample in (0.0, 0.5, 0.0, 0.0):
        world.exit("a", sample=sample)
        waits.append(world.timers["a"] - world.now)
        world.advance(waits[-1])
    assert waits == pytest.approx([0.1, 0.18, 0.4, 0.4])
    world.advance(0.5)
    world.exit("a")
    assert world.timers["a"] - world.now == pytest.approx(0.1)


def test_a_delayed_group_restart_stops_the_group_at_once_and_starts_it_when_due() -> None:
    world = World(leaf("a"), leaf("b", backoff=Backoff(1, 8)), leaf("c"), strategy="rest_for_one").boot()
    world.took()
    world.exit("b")
    assert world.took() == [("stop", "c")]
    assert (world.status("b"), world.status("c")) == ("restarting", "stopped")
    world.exit("a")
    assert world.took() == []
    assert world.status("a") == "restarting"
    world.advance(1)
    assert world.took() == [("start", "a"), ("start", "b"), ("start", "c")]
    assert world.timers == {}


def test_terminating_the_delayed_child_hands_the_group_restart_to_the_next() -> None:
    world = World(leaf("a"), leaf("b", backoff=Backoff(1, 8)), leaf("c"), strategy="one_for_all").boot()
    world.exit("b")
    assert world.terminate("b") == "ok"
    world.took()
    world.advance(1)
    assert world.took() == [("start", "a"), ("start", "c")]
    assert world.status("b") == "stopped"


def test_those_that_a_failed_group_attempt_had_still_to_revive_are_revived_by_the_next_one() -> None:
    """Also where the one that failed is out of it: a transient one that had finished would wait for ever."""
    world = World(
        leaf("a", backoff=Backoff(1, 8)), leaf("b", restart="transient"), leaf("c"), strategy="rest_for_one"
    ).boot()
    world.exit("b", "normal")
    world.fails["a"] = 1
    world.exit("a")
    world.advance(1)
    assert (world.status("a"), world.status("b"), world.status("c")) == ("restarting", "stopped", "stopped")
    world.took()
    assert world.terminate("a") == "ok"
    world.advance(8)
    assert [id for verb, id in world.took() if verb == "start"] == ["b", "c"]


def test_after_a_failed_group_attempt_one_for_all_begins_again_and_rest_for_one_goes_on() -> None:
    for strategy, retried in (("one_for_all", "abc"), ("rest_for_one", "bc")):
        world = three(strategy)
        world.fails["b"] = 1
        world.exit("a")
        assert (world.status("a"), world.status("b"), world.status("c")) == ("running", "restarting", "stopped")
        world.took()
        world.run_due()
        assert [id for verb, id in world.took() if verb == "start"] == list(retried)


# --- stop ---------------------------------------------------------------------------------------------------


def test_a_stop_breaks_off_a_start_and_then_stops_in_reverse() -> None:
    world = World(leaf("a"), leaf("b"), leaf("c"))
    world.hold = lambda action: action == Start("b")
    world.boot()
    world.hold = lambda _: False
    world.stop()
    assert world.log == [("start", "a"), ("abort", "b"), ("stop", "a"), ("end", "shutdown")]


def test_a_stop_cancels_delayed_restarts_and_refuses_waiting_calls() -> None:
    world = World(leaf("a", backoff=Backoff(1, 8)), leaf("b")).boot()
    world.exit("a")
    world.hold = lambda action: action == Stop("b", 5.0)
    world.terminate("b")
    assert world.add(leaf("x")) == "pending"
    world.hold = lambda _: False
    world.stop()
    assert world.replies == {1: "Unavailable", 2: "Unavailable"}
    assert world.timers == {}
    world.feed(Stopped("b", Exit("shutdown"), 0.0))
    assert world.state.phase == "ended"
    assert world.add(leaf("y")) == "Unavailable"


def test_a_stop_during_the_stops_of_giving_up_changes_nothing_but_a_kill_hurries_them() -> None:
    world = three(max_restarts=0)
    world.hold = lambda action: isinstance(action, Stop)
    world.exit("a")
    world.stop(kill=True)
    assert world.actions[-1] == Stop("c", 0.0)
    world.hold = lambda _: False
    world.feed(Stopped("c", Exit("killed"), 0.0))
    assert Stop("b", 0.0) in world.actions
    assert world.log[-1] == ("end", "gave_up")


def test_a_child_that_ends_while_its_siblings_are_stopped_is_not_stopped() -> None:
    world = three()
    world.hold = lambda action: action == Stop("c", 5.0)
    world.stop()
    world.exit("a")
    world.release()
    assert world.took() == [("stop", "c"), ("stop", "b"), ("end", "shutdown")]


def test_an_end_reported_before_the_news_of_the_start_is_judged_after_it() -> None:
    world = World(leaf("a"))
    world.hold = lambda action: action == Start("a")
    world.boot()
    world.feed(Exited("a", Exit("failed"), 0.0))
    world.hold = lambda _: False
    world.feed(Started("a", 0.0))
    assert world.status("a") == "running"
    assert world.log == [("start", "a")]
    assert len(world.state.spent) == 1


# --- auto_shutdown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "restart", "kind", "phases"),
    [
        ("any_significant", "transient", "normal", ["ended", "ended"]),
        ("any_significant", "temporary", "failed", ["ended", "ended"]),
        ("any_significant", "transient", "failed", ["running", "running"]),
        ("any_significant", "temporary", "gave_up", ["running", "running"]),
        ("all_significant", "transient", "normal", ["running", "ended"]),
        ("all_significant", "temporary", "failed", ["running", "ended"]),
    ],
)
def test_significant_ends_shut_the_supervisor_down(mode: str, restart: str, kind: str, phases: list[str]) -> None:
    specs = [leaf("a", restart=restart, significant=True), leaf("b", restart=restart, significant=True), leaf("c")]
    world = World(*specs, auto_shutdown=mode).boot()
    seen = []
    for id in "ab":
        world.exit(id, kind)
        seen.append(world.state.phase)
    assert seen == phases
    if phases[-1] == "ended":
        assert world.log[-1] == ("end", "shutdown")


def test_an_operators_stop_is_no_significant_end() -> None:
    world = World(leaf("a", restart="transient", significant=True), auto_shutdown="any_significant").boot()
    world.terminate("a")
    assert world.state.phase == "running"


# --- operators' calls -----------------------------------------------------------------------------------


def in_state(status: str) -> World:
    world = World(leaf("a", backoff=Backoff(1, 8)), leaf("b")).boot()
    if status == "stopped":
        world.terminate("a")
    if status == "restarting":
        world.exit("a")
    if status == "unknown":
        world.terminate("a")
        world.delete("a")
    assert world.status("a") == {"unknown": "absent"}.get(status, status)
    world.took()
    return world


@pytest.mark.parametrize(
    ("call", "status", "reply", "after"),
    [
        ("add", "running", "AlreadyStarted", "running"),
        ("add", "stopped", "AlreadyPresent", "stopped"),
        ("add", "restarting", "AlreadyPresent", "restarting"),
        ("add", "unknown", "ok", "running"),
        ("terminate", "running", "ok", "stopped"),
        ("terminate", "stopped", "ok", "stopped"),
        ("terminate", "restarting", "ok", "stopped"),
        ("terminate", "unknown", "NoSuchChild", "absent"),
        ("restart", "running", "ChildRunning", "running"),
        ("restart", "stopped", "ok", "running"),
        ("restart", "restarting", "ChildRestarting", "restarting"),
        ("restart", "unknown", "NoSuchChild", "absent"),
        ("delete", "running", "ChildRunning", "running"),
        ("delete", "stopped", "ok", "absent"),
        ("delete", "restarting", "ChildRestarting", "restarting"),
        ("delete", "unknown", "NoSuchChild", "absent"),
    ],
)
def test_the_table_of_run_time_calls(call: str, status: str, reply: str, after: str) -> None:
    world = in_state(status)
    said = world.add(leaf("a")) if call == "add" else getattr(world, call)("a")
    assert said == reply
    assert world.status("a") == after
    if call == "terminate":
        world.advance(100)
        assert world.status("a") == after
    assert world.state.spent == ((0.0,) if status == "restarting" else ())


def test_an_added_child_comes_last_and_a_failed_one_is_forgotten() -> None:
    world = three("rest_for_one")
    world.add(leaf("d"))
    assert [child.id for child in world.state.children] == ["a", "b", "c", "d"]
    world.fails["e"] = 1
    assert world.add(leaf("e")) == "StartFailed"
    assert world.status("e") == "absent"
    world.terminate("a")
    world.fails["a"] = 1
    assert world.restart("a") == "StartFailed"
    assert world.status("a") == "stopped"
    assert world.state.spent == ()


def test_calls_wait_for_the_operation_at_hand_and_are_served_in_order() -> None:
    world = three()
    world.hold = lambda action: action == Start("a", again=True)
    world.exit("a")
    assert world.terminate("b") == "pending"
    assert world.delete("b") == "pending"
    world.release()
    assert world.replies == {1: "ok", 2: "ok"}
    assert world.status("b") == "absent"


@pytest.mark.parametrize("comes_up", [False, True])
def test_terminating_a_child_breaks_off_its_start_and_nothing_is_made_of_the_failure(comes_up: bool) -> None:
    world = three("one_for_all", max_restarts=1)
    world.hold = lambda action: action in {Start("b", again=True), Abort("b", 5.0)}
    world.exit("a")
    assert world.terminate("b") == "pending"
    assert world.terminate("b") == "pending"
    assert world.actions.count(Abort("b", 5.0)) == 1
    world.hold = lambda _: False
    world.took()
    world.feed(Started("b", 0.0) if comes_up else NotStarted("b", TimeoutError(), 0.0))
    assert world.took() == [("start", "c"), *([("stop", "b")] if comes_up else [])]
    assert world.replies == {1: "ok", 2: "ok"}
    assert {id: world.status(id) for id in "abc"} == {"a": "running", "b": "stopped", "c": "running"}
    assert len(world.state.spent) == 1


def test_terminating_a_child_that_an_operator_starts_fails_that_call() -> None:
    world = three()
    world.terminate("a")
    world.hold = lambda action: action == Start("a")
    assert world.restart("a") == "pending"
    assert world.terminate("a") == "ok"
    assert world.replies == {1: "ok", 2: "StartFailed", 3: "ok"}
    assert world.status("a") == "stopped"


def test_a_kill_hurries_a_start_that_is_being_broken_off() -> None:
    world = World(leaf("a", shutdown=None))
    world.hold = lambda action: isinstance(action, (Start, Abort))
    world.boot()
    world.stop()
    world.stop(kill=True)
    assert world.actions[-2:] == [Abort("a", None), Abort("a", 0.0)]


def test_what_rests_is_closed_so_that_nobody_waits_for_it() -> None:
    world = World(leaf("a", restart="transient"), leaf("b")).boot()
    world.exit("a", "normal")
    world.terminate("b")
    assert [action.id for action in world.actions if isinstance(action, Close)] == ["a", "b"]


def test_the_policy_never_changes_what_it_was_given() -> None:
    world = three()
    before = world.state
    world.feed(StartChild(1, leaf("x"), 0.0))
    assert [child.id for child in before.children] == ["a", "b", "c"]


# --- ends that wait behind something else ------------------------------------------------------------------


def behind_a_call(*ends: tuple[str, str], strategy: str = "one_for_all", **options: Any) -> World:
    """Children end while the supervisor is at an operator's call; then it gets to them."""
    specs = [
        leaf("a"),
        leaf("t", restart="temporary", significant=True),
        leaf("u", restart="transient", significant=True),
        leaf("b", backoff=options.pop("backoff", None)),
        leaf("c"),
    ]
    world = World(*specs, strategy=strategy, auto_shutdown="any_significant", **options).boot()
    world.hold = lambda action: action == Stop("c", 5.0)
    world.terminate("c")
    world.took()
    for id, kind in ends:
        world.exit(id, kind)
    return world


def test_a_group_restart_absorbs_the_ends_of_its_group_that_nobody_judged_yet() -> None:
    world = behind_a_call(("a", "failed"), ("t", "normal"), ("u", "normal"), ("b", "failed"))
    world.release()
    assert world.took() == [
        ("stop", "c"),
        ("drop", "t"),
        *(("start", id) for id in "aub"),
    ]
    assert len(world.state.spent) == 1
    assert world.state.phase == "running"


def test_a_delayed_group_restart_absorbs_them_too() -> None:
    world = behind_a_call(("b", "failed"), ("t", "normal"), ("u", "normal"), ("a", "failed"), backoff=Backoff(1, 8))
    world.release()
    assert world.took() == [("stop", "c"), ("drop", "t")]
    assert len(world.state.spent) == 1
    assert {id: world.status(id) for id in "atub"} == {
        "a": "stopped",
        "t": "absent",
        "u": "stopped",
        "b": "restarting",
    }
    world.advance(1)
    assert world.took() == [("start", "a"), ("start", "u"), ("start", "b")]


def test_an_end_outside_of_the_group_is_judged_for_itself() -> None:
    world = behind_a_call(("u", "failed"), ("t", "failed"), strategy="rest_for_one")
    world.release()
    assert world.log[-1] == ("end", "shutdown")


@pytest.mark.parametrize(
    ("call", "reply"),
    [("add", "AlreadyStarted"), ("restart", "ChildRunning"), ("delete", "ChildRunning"), ("terminate", "ok")],
)
def test_a_call_about_a_child_whose_end_nobody_judged_yet_finds_it_running(call: str, reply: str) -> None:
    world = World(leaf("a"), leaf("c")).boot()
    world.hold = lambda action: action == Stop("c", 5.0)
    world.terminate("c")
    said = world.add(leaf("a")) if call == "add" else getattr(world, call)("a")
    assert said == "pending"
    world.exit("a")
    world.release()
    assert world.replies[2] == reply
    assert world.status("a") == ("stopped" if call == "terminate" else "running")
    assert len(world.state.spent) == (call != "terminate")
