"""What stays and what goes when steps run again: examples, and laws over random trees."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mbactor.foreman.model.join import ENOUGH, FAILED, NEVER_BEGAN
from mbactor.foreman.model.places import FlowPlace, StepPlace
from mbactor.foreman.model.rewinding import Rewound, rewind

ROOT = FlowPlace(1, "failed")


def step(id: int, status: str = "completed", **place: Any) -> StepPlace:
    return StepPlace(id, place.pop("flow_id", 1), status, **place)


# 1 fans out to 2 and 3; 2 goes on to 4; 5 joins them and leads to 6.
FAN = [
    step(1, cohort_size=2, cohort_arrivals=2),
    step(2, predecessor_id=1, spawn_id=1, ordinal=0),
    step(3, predecessor_id=1, spawn_id=1, ordinal=1),
    step(4, predecessor_id=2, spawn_id=1, ordinal=0),
    step(5, predecessor_id=4, cohort_id=1),
    step(6, predecessor_id=5),
]


def test_with_a_branch_goes_the_fan_in_that_another_branch_led_to() -> None:
    found = rewind([ROOT], FAN, [3])
    assert (found.again, found.gone_steps, found.counts) == ((3,), frozenset({5, 6}), {1: (1, 0)})
    assert found.statuses == {1: "running"}


def test_with_a_step_goes_all_that_followed_it() -> None:
    found = rewind([ROOT], FAN, [2])
    assert (found.gone_steps, found.counts) == (frozenset({4, 5, 6}), {1: (1, 0)})


def test_a_step_that_spawned_a_cohort_spawns_it_anew() -> None:
    found = rewind([ROOT], FAN, [1])
    assert (found.again, found.gone_steps, found.counts) == ((1,), frozenset({2, 3, 4, 5, 6}), {})


def test_failures_are_counted_anew_also_around_an_inner_cohort() -> None:
    steps = [
        step(1, cohort_size=2, cohort_arrivals=2, cohort_failures=1),
        step(2, predecessor_id=1, spawn_id=1, ordinal=0, cohort_size=2, cohort_arrivals=2, cohort_failures=2),
        step(3, predecessor_id=1, spawn_id=1, ordinal=1),
        step(4, "failed", predecessor_id=2, spawn_id=2, ordinal=0),
        step(5, "failed", predecessor_id=2, spawn_id=2, ordinal=1),
    ]
    assert rewind([ROOT], steps, [4]).counts == {1: (1, 0), 2: (1, 1)}
    assert rewind([ROOT], steps, [4, 5]).counts == {1: (1, 0), 2: (0, 0)}


def test_a_branch_whose_own_cohort_was_cancelled_is_not_waited_for() -> None:
    steps = [
        step(1, cohort_size=2, cohort_arrivals=1, cohort_failures=0),
        step(2, predecessor_id=1, spawn_id=1, ordinal=0),
        step(3, predecessor_id=1, spawn_id=1, ordinal=1, cohort_size=2),
        step(4, "cancelled", predecessor_id=3, spawn_id=3, ordinal=0),
        step(5, "cancelled", predecessor_id=3, spawn_id=3, ordinal=1),
    ]
    assert rewind([FlowPlace(1, "cancelled")], steps, [2]).counts == {}, "1 of the 2, and that is the other branch now"


def test_branches_that_led_to_the_fan_in_at_once_stay_arrived() -> None:
    steps = [
        step(1, cohort_size=3, cohort_arrivals=3, cohort_failures=1),
        step(2, "failed", predecessor_id=1, spawn_id=1),
    ]
    assert rewind([ROOT], steps, [2]).counts == {1: (2, 0)}


def test_the_flows_above_wait_again_and_later_calls_of_theirs_go() -> None:
    flows = [FlowPlace(1, "completed"), FlowPlace(2, "completed", 11), FlowPlace(3, "completed", 11)]
    steps = [step(11), step(12, predecessor_id=11), step(21, flow_id=2), step(31, flow_id=3)]
    found = rewind(flows, steps, [21])
    assert (found.waiting, found.gone_steps, found.gone_flows) == ({11: 2}, frozenset({12}), frozenset({3}))
    assert found.statuses == {1: "running", 2: "running"}


def test_what_the_step_had_called_goes_with_all_below() -> None:
    flows = [FlowPlace(1, "failed"), FlowPlace(2, "failed", 11), FlowPlace(3, "failed", 21)]
    steps = [step(11, "failed"), step(21, "failed", flow_id=2), step(31, "failed", flow_id=3)]
    found = rewind(flows, steps, [11])
    assert (found.again, found.gone_flows, found.gone_steps) == ((11,), frozenset({2, 3}), frozenset())


def test_a_flow_stays_interrupted_while_another_step_of_it_waits() -> None:
    steps = [
        step(1, cohort_size=2, cohort_arrivals=1, cohort_failures=1),
        step(2, "failed", predecessor_id=1, spawn_id=1),
        step(3, "interrupted", predecessor_id=1, spawn_id=1, ordinal=1),
    ]
    assert rewind([FlowPlace(1, "interrupted")], steps, [2]).statuses == {1: "interrupted"}
    assert rewind([FlowPlace(1, "interrupted")], steps, [3]).statuses == {1: "running"}


# --- laws ------------------------------------------------------------------------------------------------

ENDS = ("completed", "failed", "cancelled", "pending", "running", "interrupted")


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[FlowPlace], list[StepPlace]]:
    """Trees as an engine makes them: chains, fan-outs with or without their fan-in, called flows."""
    flows: list[FlowPlace] = [FlowPlace(1, "failed")]
    steps: list[StepPlace] = []

    def put(**place: Any) -> int:
        steps.append(step(len(steps) + 1, **place))
        return len(steps)

    def change(id: int, **place: Any) -> None:
        steps[id - 1] = msgspec.structs.replace(steps[id - 1], **place)

    def line(flow_id: int, before: int | None, spawn: int | None, ordinal: int, depth: int) -> tuple[int, str]:
        """A chain of steps; its last one, and how that ended."""
        last = before
        for _ in range(draw(st.integers(1, 3))):
            last = put(flow_id=flow_id, predecessor_id=last, spawn_id=spawn, ordinal=ordinal)
            if depth and draw(st.booleans()):
                flows.append(FlowPlace(len(flows) + 1, "completed", last))
                line(len(flows), None, None, 0, 0)
            if depth and draw(st.booleans()):
                own = last
                ends = [line(flow_id, own, own, n, depth - 1) for n in range(draw(st.integers(1, 3)))]
                arrived = [status for _, status in ends if status in {"completed", "cancelled", "failed"}]
                failures = arrived.count("failed")
                change(own, cohort_size=len(ends), cohort_arrivals=len(arrived), cohort_failures=failures)
                if len(arrived) < len(ends):
                    return own, "pending"
                if failures or "cancelled" in arrived:
                    return own, "failed" if failures else "cancelled"
                last = put(flow_id=flow_id, predecessor_id=ends[-1][0], spawn_id=spawn, ordinal=ordinal, cohort_id=own)
        assert last is not None
        status = draw(st.sampled_from(ENDS))
        change(last, status=status)
        return last, status

    line(1, None, None, 0, 2)
    return flows, steps


def after(steps: list[StepPlace], found: Rewound) -> list[StepPlace]:
    """The steps once what was decided has been written."""
    left = []
    for one in steps:
        if one.id in found.gone_steps or one.flow_id in found.gone_flows:
            continue
        if one.id in found.again or one.id in found.waiting:
            status = "pending" if one.id in found.again else "running"
            counts = {"cohort_size": 0, "cohort_arrivals": 0, "cohort_failures": 0}
            one = msgspec.structs.replace(one, status=status, cancel_reason=None, **counts)
        if one.id in found.counts:
            arrivals, failures = found.counts[one.id]
            one = msgspec.structs.replace(one, cohort_arrivals=arrivals, cohort_failures=failures)
        left.append(one)
    return left


def going_on(steps: list[StepPlace], spawn: StepPlace) -> list[int]:
    """The branches of a cohort of which a step has not ended."""
    if any(one.cohort_id == spawn.id for one in steps):
        return []
    found = []
    for ordinal in {one.ordinal for one in steps if one.spawn_id == spawn.id}:
        branch = [one for one in steps if (one.spawn_id, one.ordinal) == (spawn.id, ordinal)]
        if any(one.status in {"pending", "running", "interrupted"} or going_on(steps, one) for one in branch):
            found.append(ordinal)
    return found


@given(trees(), st.data())
def test_what_stays_rests_on_what_stays_and_is_counted_rightly(
    tree: tuple[list[FlowPlace], list[StepPlace]], data: st.DataObject
) -> None:
    flows, steps = tree
    target = data.draw(st.sampled_from([one.id for one in steps]))
    found = rewind(flows, steps, [target])
    left = after(steps, found)
    ids = {one.id for one in left}
    kept_flows = {flow.id for flow in flows} - found.gone_flows
    assert found.again == (target,)
    assert {one.id for one in left if one.flow_id not in kept_flows} == set()
    for one in left:
        assert {one.predecessor_id, one.spawn_id, one.cohort_id} - {None} <= ids
        assert one.cohort_failures <= one.cohort_arrivals <= one.cohort_size
        if one.cohort_size and one.flow_id in found.statuses:
            assert one.cohort_size - one.cohort_arrivals == len(going_on(left, one)), "each of the others will arrive"
        if one.cohort_id is not None:
            members = [other for other in left if other.spawn_id == one.cohort_id]
            assert all(other.status not in {"pending", "running", "interrupted"} for other in members)
    for flow in flows:
        if flow.id in kept_flows and flow.caller_id is not None:
            assert flow.caller_id in ids
    assert not any(target in {one.predecessor_id, one.cohort_id} for one in left)


@given(trees(), st.data())
def test_nothing_more_goes_the_second_time(tree: tuple[list[FlowPlace], list[StepPlace]], data: st.DataObject) -> None:
    flows, steps = tree
    target = data.draw(st.sampled_from([one.id for one in steps]))
    first = rewind(flows, steps, [target])
    left_flows = [flow for flow in flows if flow.id not in first.gone_flows]
    again = rewind(left_flows, after(steps, first), [target])
    assert (again.gone_steps, again.gone_flows, again.counts) == (frozenset(), frozenset(), {})
    assert again.waiting == first.waiting


def test_a_branch_whose_inner_cohort_goes_on_has_not_arrived_though_others_are_enough_there() -> None:
    for status, failures in (("completed", 0), ("failed", 1)):
        steps = [
            step(1, cohort_size=2, cohort_arrivals=2, cohort_failures=failures),
            step(2, predecessor_id=1, spawn_id=1, cohort_size=2, cohort_arrivals=2, cohort_needed=1 + failures),
            step(3, predecessor_id=1, spawn_id=1, ordinal=1),
            step(4, status, predecessor_id=2, spawn_id=2, ordinal=0),
            step(5, predecessor_id=2, spawn_id=2, ordinal=1),
        ]
        assert rewind([ROOT], steps, [5]).counts == {1: (1, 0), 2: (1, failures)}


# --- room in a cohort ----------------------------------------------------------------------------------------


def branches(*statuses: str, at_once: int = 1, **places: Any) -> list[StepPlace]:
    """1 fans out to branches of a step each, 2 and on."""
    failures, open_ones = statuses.count("failed"), statuses.count("pending") + statuses.count("created")
    counts: dict[str, Any] = {"cohort_arrivals": len(statuses) - open_ones, "cohort_failures": failures}
    spawn = step(1, cohort_size=len(statuses), cohort_at_once=at_once, **counts, **places)
    return [
        spawn,
        *(step(n + 2, status, predecessor_id=1, spawn_id=1, ordinal=n) for n, status in enumerate(statuses)),
    ]


def test_of_what_runs_again_in_a_cohort_so_much_begins_as_it_has_room_for() -> None:
    steps = branches("failed", "completed", "failed", "failed", at_once=2)
    assert rewind([ROOT], steps, [2, 4, 5]).held == {5: (1, 3)}
    assert rewind([ROOT], branches("failed", "failed", at_once=0), [2, 3]).held == {}


def test_a_branch_that_runs_again_waits_while_others_have_its_room() -> None:
    steps = branches("completed", "pending")
    found = rewind([ROOT], steps, [2])
    assert (found.held, found.status_of(2), found.counts) == ({2: (1, 0)}, "created", {1: (0, 0)})
    going_on = [*steps, step(4, predecessor_id=3, spawn_id=1, ordinal=1, status="pending")]
    assert rewind([ROOT], going_on, [3]).held == {}, "it has its room already"


def test_a_branch_that_never_began_comes_after_those_that_had() -> None:
    steps = branches("completed", "cancelled", "cancelled", "completed", cohort_needed=1)
    steps[2] = step(3, "cancelled", predecessor_id=1, spawn_id=1, ordinal=1, cancel_reason=NEVER_BEGAN[ENOUGH])
    steps[3] = step(4, "cancelled", predecessor_id=1, spawn_id=1, ordinal=2, cancel_reason=ENOUGH)
    found = rewind([ROOT], steps, [5])
    assert found.again == (3, 4, 5)
    assert found.held == {3: (1, 1), 5: (1, 3)}


def test_what_runs_again_within_a_branch_waits_for_the_room_of_the_branch() -> None:
    """Both branches of the inner cohort, and the step of a flow that one of them had called."""
    steps = [
        *branches("completed", "pending"),
        step(4, "completed", predecessor_id=2, spawn_id=1, cohort_size=3, cohort_arrivals=3, cohort_at_once=1),
        step(5, predecessor_id=4, spawn_id=4, ordinal=0),
        step(6, predecessor_id=4, spawn_id=4, ordinal=1),
        step(7, flow_id=2),
    ]
    flows = [ROOT, FlowPlace(2, "completed", 6)]
    assert rewind(flows, steps, [5, 7]).held == {5: (1, 0), 7: (4, 1)}
    assert rewind(flows, steps, [7]).held == {7: (1, 0)}
    # While it waits there, another step of the same branch finds the inner room taken, and not the outer one.
    steps = [msgspec.structs.replace(one, status="created", room_id=1) if one.id == 5 else one for one in steps]
    assert rewind(flows, steps, [7]).held == {7: (4, 1)}


def test_a_cohort_that_was_given_up_in_another_branch_goes_on_when_that_is_gone_back_to() -> None:
    """1 fans out to 2 and 3. Of each of these a branch failed, and the other one, which fans out itself, was given up."""
    steps = [
        step(1, cohort_size=2, cohort_arrivals=2, cohort_failures=2),
        step(2, predecessor_id=1, spawn_id=1, ordinal=0, cohort_size=2, cohort_arrivals=1, cohort_failures=1,
             cohort_needed=2),
        step(3, predecessor_id=1, spawn_id=1, ordinal=1, cohort_size=2, cohort_arrivals=1, cohort_failures=1,
             cohort_needed=2),
        step(4, "failed", predecessor_id=2, spawn_id=2, ordinal=0),
        step(5, predecessor_id=2, spawn_id=2, ordinal=1, cohort_size=1, cohort_needed=1),
        step(6, "failed", predecessor_id=3, spawn_id=3, ordinal=0),
        step(7, predecessor_id=3, spawn_id=3, ordinal=1, cohort_size=1, cohort_needed=1),
        step(8, "cancelled", predecessor_id=5, spawn_id=5, cancel_reason=FAILED),
        step(9, "cancelled", predecessor_id=7, spawn_id=7, cancel_reason=FAILED),
    ]  # fmt: skip
    first = rewind([ROOT], steps, [4])
    assert (first.again, first.counts) == ((4, 8), {1: (1, 1), 2: (0, 0)})
    assert rewind([ROOT], after(steps, first), [6]).again == (6, 9)
