"""The carrier: state, signals, parks, its wire form, and how a run is judged."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor import clock
from mbactor.errors import FlowNotFound, InvalidState, MbactorError, ParkRefused, to_wire
from mbactor.foreman.model.flow import Flow, Outcome, Parked, ParkRecord, Signals, finish
from mbactor.foreman.model.state import apply, decode_all, initial_state

Task = Callable[[Flow], object]


def run(task: Task, flow: Flow | None = None) -> tuple[Outcome, Flow]:
    """Run a plain task over a flow and judge it."""
    flow = flow if flow is not None else Flow.of()
    try:
        task(flow)
    except BaseException as error:  # noqa: BLE001 - what the engine does with whatever a task raises
        return finish(flow, error), flow
    return finish(flow, None), flow


def in_turn(*tasks: Task) -> Task:
    """One task that does what each of these does."""

    def task(flow: Flow) -> None:
        for each in tasks:
            each(flow)

    return task


# --- the state --------------------------------------------------------------------------------------------


def test_a_flow_is_a_mutable_mapping_over_the_state() -> None:
    flow = Flow.of({"a": 1, "b": [1, 2]})
    flow["c"] = {"x": 1}
    del flow["a"]
    flow.update(b=[3])
    assert dict(flow) == {"b": [3], "c": {"x": 1}}
    assert "a" not in flow
    assert flow.get("a", 9) == 9
    assert flow.pop("b") == [3]
    assert len(flow) == 1
    with pytest.raises(KeyError):
        del flow["a"]
    with pytest.raises(KeyError):
        flow["a"]


def test_changes_hold_what_was_written_and_a_null_for_what_was_deleted() -> None:
    flow = Flow.of({"a": 1, "b": 2})
    flow["a"] = 1
    flow["b"] = None
    flow["new"] = None
    assert {name: bytes(raw) for name, raw in flow.changes.items()} == {"a": b"1", "b": b"null", "new": b"null"}
    assert decode_all(apply(initial_state({"a": 1, "b": 2}), flow.changes)) == {"a": 1}


def test_changes_of_earlier_runs_are_part_of_the_state() -> None:
    flow = Flow(initial_state({"a": 1, "b": 2}), {"a": msgspec.Raw(b"5"), "b": msgspec.Raw(b"null")})
    assert dict(flow) == {"a": 5}
    flow["c"] = 1
    assert set(flow.changes) == {"a", "b", "c"}


def test_clear_deletes_every_field() -> None:
    flow = Flow.of({"a": 1, "b": 2})
    flow.clear()
    assert dict(flow) == {}
    assert set(flow.changes) == {"a", "b"}


def test_a_value_is_a_copy_both_ways() -> None:
    mine = [1]
    flow = Flow.of()
    flow["a"] = mine
    mine.append(2)
    flow["a"].append(3)
    assert flow["a"] == [1]
    snapshot = flow.snapshot()
    flow["a"] = [9]
    assert snapshot == {"a": [1]}


@pytest.mark.parametrize("value", [float("nan"), "\0", object(), {"x": float("inf")}])
def test_what_cannot_be_stored_is_refused_where_it_is_set(value: Any) -> None:
    flow = Flow.of()
    with pytest.raises(InvalidState, match=r"flow\['a'\]"):
        flow["a"] = value
    assert not flow.changes


def test_a_field_name_is_a_string_without_nul() -> None:
    flow = Flow.of()
    with pytest.raises(InvalidState):
        flow["a\0"] = 1
    with pytest.raises(InvalidState):
        flow[1] = 1  # type: ignore[index]


class Customer(msgspec.Struct):
    name: str
    tags: list[str] = []


class Order(msgspec.Struct):
    total: int = 0
    customer: Customer | None = None
    lines: list[Customer] = []


@dataclass
class Total:
    total: int


def test_parse_reads_the_fields_a_type_knows() -> None:
    flow = Flow.of({"total": 5, "other": "x"})
    assert flow.parse(Order) == Order(5)
    assert flow.parse(Total) == Total(5)


def test_parse_says_which_field_does_not_fit() -> None:
    with pytest.raises(InvalidState, match=r"total"):
        Flow.of({"total": "much"}).parse(Order)


def test_set_changes_writes_only_what_differs() -> None:
    flow = Flow.of({"total": 5, "other": "x", "customer": {"name": "Ada", "tags": []}, "lines": []})
    before = flow.snapshot()
    order = flow.parse(Order)
    order.total += 1
    flow.set_changes(order, before)
    assert decode_all(flow.changes) == {"total": 6}
    assert flow["other"] == "x"


def test_set_changes_keeps_what_the_type_does_not_know_at_any_depth() -> None:
    flow = Flow.of(
        {
            "total": 0,
            "customer": {"name": "Ada", "tags": [], "vip": True},
            "lines": [{"name": "a", "tags": [], "id": 1}, {"name": "b", "tags": [], "id": 2}],
        }
    )
    before, order = flow.snapshot(), flow.parse(Order)
    assert order.customer is not None
    order.customer.name = "Bea"
    order.lines = [order.lines[1], order.lines[0]]
    order.lines[1].tags = ["new"]
    flow.set_changes(order, before)
    assert flow["customer"] == {"name": "Bea", "tags": [], "vip": True}
    assert flow["lines"] == [{"name": "b", "tags": [], "id": 2}, {"name": "a", "tags": ["new"], "id": 1}]


def test_set_changes_keeps_the_unknown_of_elements_that_moved() -> None:
    flow = Flow.of({"lines": [{"name": "a", "tags": [], "id": 1}, {"name": "b", "tags": [], "id": 2}]})
    before, order = flow.snapshot(), flow.parse(Order)
    order.lines = [Customer("new"), order.lines[1]]
    order.lines.append(Customer("newer"))
    flow.set_changes(order, before)
    assert [line.get("id") for line in flow["lines"]] == [None, 2, None]


def test_set_changes_deletes_a_field_that_became_none() -> None:
    flow = Flow.of({"total": 1, "customer": {"name": "Ada", "tags": []}, "lines": []})
    before, order = flow.snapshot(), flow.parse(Order)
    order.customer = None
    flow.set_changes(order, before)
    assert set(flow) == {"total", "lines"}


def test_set_changes_of_a_mapping_leaves_the_fields_it_does_not_have() -> None:
    flow = Flow.of({"a": 1, "b": 2})
    flow.set_changes({"a": 3, "c": 4}, flow.snapshot())
    assert dict(flow) == {"a": 3, "b": 2, "c": 4}


def test_set_changes_records_a_fresh_object_even_where_it_equals_its_defaults() -> None:
    flow = Flow.of({})
    flow.set_changes(Total(0), flow.snapshot())
    assert dict(flow) == {"total": 0}


def test_set_changes_needs_named_fields_and_storable_values() -> None:
    flow = Flow.of({})
    with pytest.raises(InvalidState, match="named fields"):
        flow.set_changes([1], {})
    with pytest.raises(InvalidState, match="nan"):
        flow.set_changes({"x": float("nan")}, {})


def test_the_carrier_says_what_run_it_is() -> None:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    flow = Flow.of({}, flow_key="1-2-a", step_key="1-3-b", attempt=2, step_created_at=at, baggage={"tenant": "x"})
    assert (flow.flow_key, flow.step_key, flow.attempt, flow.step_created_at) == ("1-2-a", "1-3-b", 2, at)
    assert flow.baggage == {"tenant": "x"}
    assert "1-2-a" not in repr(flow)


# --- signals ------------------------------------------------------------------------------------------------


def test_a_plain_return_completes() -> None:
    assert run(lambda flow: flow.update(a=1))[0] == Outcome("completed")


class Reference:
    node_name = "decide"
    url = "https://credit.example:428/decide"


def test_goto_takes_a_name_or_a_task_reference() -> None:
    outcome, flow = run(lambda flow: flow.goto(Reference()))
    assert (outcome.kind, flow.signals.goto) == ("completed", "decide")
    assert run(lambda flow: flow.goto("END"))[1].signals.goto == "END"
    with pytest.raises(TypeError, match="node_name"):
        Flow.of().goto(5)


def test_sleep_arms_a_delay_and_is_harmless_with_goto_and_retry() -> None:
    outcome, flow = run(in_turn(lambda flow: flow.sleep("1m"), lambda flow: flow.goto("x")))
    assert (outcome.kind, flow.signals.sleep) == ("completed", 60.0)
    outcome, flow = run(in_turn(lambda flow: flow.sleep(dt.timedelta(seconds=2)), lambda flow: flow.retry(3)))
    assert (outcome.kind, flow.signals.sleep, flow.signals.retry_delay) == ("retry", 2.0, 3.0)


def test_a_sleep_of_nothing_or_less_does_nothing() -> None:
    for nothing in (0, -5, dt.timedelta(0), dt.timedelta(seconds=-5)):
        flow = Flow.of()
        flow.sleep(nothing)
        assert flow.signals.sleep == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda flow: flow.sleep(float("nan")),
        lambda flow: flow.sleep("soon"),
        lambda flow: flow.retry(float("nan")),
        lambda flow: flow.retry(1, multiplier=float("nan")),
        lambda flow: flow.retry(0, multiplier=float("inf")),
    ],
)
def test_a_delay_that_is_no_number_is_refused(call: Callable[[Flow], Any]) -> None:
    flow = Flow.of()
    with pytest.raises(ValueError, match=r"duration|multiplier=.*a number expected"):
        call(flow)
    assert flow.signals == Signals()


def test_awaiting_sleep_is_an_error_that_says_so() -> None:
    async def task(flow: Flow) -> None:
        await flow.sleep(1)  # type: ignore[misc, func-returns-value]

    with pytest.raises(TypeError, match="not awaited"):
        asyncio.run(task(Flow.of()))


@pytest.mark.parametrize(("attempt", "expected"), [(0, 1.0), (1, 2.0), (3, 8.0), (10, 60.0), (5000, 60.0)])
def test_the_delay_of_a_retry_grows_up_to_its_maximum(attempt: int, expected: float) -> None:
    flow = Flow.of({}, attempt=attempt)
    assert flow.retry("1s", 2, "1m")
    assert flow.signals.retry_delay == expected


def test_a_retry_without_arguments_is_immediate_and_unbounded() -> None:
    flow = Flow.of({}, attempt=10_000)
    assert flow.retry()
    assert flow.signals.retry_delay == 0.0


def test_a_step_of_unknown_age_does_not_give_up_for_it() -> None:
    assert Flow.of().retry(10, give_up_after="1m")


def test_a_retry_that_grows_without_bound_stays_a_date() -> None:
    flow = Flow.of({}, attempt=10_000)
    assert flow.retry(1, multiplier=10)
    assert flow.signals.retry_delay is not None
    assert clock.utcnow() + dt.timedelta(seconds=flow.signals.retry_delay) > clock.utcnow()


@pytest.mark.parametrize(("age", "expected"), [(10, True), (55, False), (3600, False)])
def test_a_retry_gives_up_when_its_delay_would_reach_the_horizon(age: float, expected: bool) -> None:
    flow = Flow.of({}, step_created_at=clock.utcnow() - dt.timedelta(seconds=age))
    assert flow.retry(10, give_up_after="1m") is expected
    assert (flow.signals.retry_delay is not None) is expected


@pytest.mark.parametrize(
    ("task", "named"),
    [
        (in_turn(lambda flow: flow.goto("x"), lambda flow: flow.retry()), ["goto", "retry"]),
        (in_turn(lambda flow: flow.goto("x"), lambda flow: flow.interrupt()), ["goto", "interrupt"]),
        (in_turn(lambda flow: flow.retry(), lambda flow: flow.subgraph("w")), ["retry", "subgraph"]),
    ],
)
def test_more_than_one_control_signal_fails_the_step(task: Task, named: list[str]) -> None:
    outcome, _ = run(task)
    assert outcome.kind == "failed"
    assert "multiple competing control signals" in str(outcome.error)
    assert all(name in str(outcome.error) for name in named)


def raising(error: BaseException) -> None:
    raise error


def test_a_real_error_wins_over_every_signal() -> None:
    boom = ValueError("boom")
    outcome, _ = run(in_turn(lambda flow: flow.goto("x"), lambda flow: flow.retry(), lambda _: raising(boom)))
    assert outcome == Outcome("failed", boom)


# --- parks ----------------------------------------------------------------------------------------------------


def test_an_interrupt_parks_the_step_with_its_payload_and_keeps_the_changes() -> None:
    outcome, flow = run(
        in_turn(
            lambda flow: flow.update(a=1),
            lambda flow: flow.interrupt({"question": "?"}),
            lambda flow: flow.update(b=2),
        )
    )
    park = flow.signals.park
    assert outcome == Outcome("parked")
    assert park is not None
    assert (park.kind, bytes(park.payload), park.workflow, park.number) == ("interrupt", b'{"question":"?"}', None, 0)
    assert decode_all(flow.changes) == {"a": 1}


class Workflow:
    url = "https://credit.example:428/approval"


def test_a_subgraph_parks_with_the_workflow_and_the_childs_state() -> None:
    outcome, flow = run(lambda flow: flow.subgraph(Workflow(), {"amount": 5}))
    park = flow.signals.park
    assert outcome.kind == "parked"
    assert park is not None
    assert (park.kind, park.workflow, bytes(park.payload)) == ("subgraph", Workflow.url, b'{"amount":5}')
    assert run(lambda flow: flow.subgraph("w"))[1].signals.park is not None


@pytest.mark.parametrize("answer", [{"approved": True}, {}, [1], "yes", 5, False, None])
def test_on_re_entry_an_interrupt_returns_its_answer(answer: Any) -> None:
    def task(flow: Flow) -> None:
        flow["answer"] = {"was": flow.interrupt()}

    outcome, flow = run(task, Flow.of(parks=[ParkRecord.answering(answer)]))
    assert outcome.kind == "completed"
    assert flow["answer"] == {"was": answer}


def test_the_nth_call_gets_the_nth_answer_and_kinds_may_mix() -> None:
    def task(flow: Flow) -> None:
        first = flow.interrupt("one")
        child = flow.subgraph("w", {"x": first})
        flow["seen"] = [first, child["y"], flow.interrupt("three")]

    parks = [ParkRecord.answering(1), ParkRecord.returning("w", {"y": 2})]
    outcome, flow = run(task, Flow.of(parks=parks))
    assert outcome.kind == "parked"
    assert flow.signals.park is not None
    assert flow.signals.park.number == 2
    outcome, flow = run(task, Flow.of(parks=[*parks, ParkRecord.answering(3)]))
    assert (outcome.kind, flow["seen"]) == ("completed", [1, 2, 3])


def test_a_recorded_park_without_an_answer_parks_again_in_its_place() -> None:
    outcome, flow = run(lambda flow: flow.interrupt("q"), Flow.of(parks=[ParkRecord("interrupt")]))
    assert outcome.kind == "parked"
    assert flow.signals.park is not None
    assert flow.signals.park.number == 0


@pytest.mark.parametrize(
    ("recorded", "task", "told"),
    [
        (ParkRecord.answering(1), lambda flow: flow.subgraph("w"), "was interrupt() .*is subgraph('w')"),
        (ParkRecord.returning("w", {}), lambda flow: flow.interrupt(), "was subgraph('w') .*is interrupt()"),
        (ParkRecord.returning("w", {}), lambda flow: flow.subgraph("v"), "was subgraph('w') .*is subgraph('v')"),
    ],
)
def test_a_call_that_differs_from_the_record_fails_the_step(recorded: ParkRecord, task: Task, told: str) -> None:
    outcome, _ = run(task, Flow.of(parks=[recorded]))
    assert isinstance(outcome.error, ParkRefused)
    was, now = told.split(" .*")
    assert was in str(outcome.error)
    assert now in str(outcome.error)


def test_a_task_that_hides_a_differing_call_fails_all_the_same() -> None:
    def task(flow: Flow) -> None:
        try:
            flow.subgraph("w")
        except MbactorError:
            flow["hidden"] = True

    outcome, _ = run(task, Flow.of(parks=[ParkRecord.answering(1)]))
    assert outcome.kind == "failed"
    assert isinstance(outcome.error, ParkRefused)


def test_a_second_park_of_one_run_fails_the_step_and_does_not_replace_the_first() -> None:
    def task(flow: Flow) -> None:
        try:
            flow.interrupt("first")
        except BaseException:  # noqa: BLE001 - the mistake under test
            flow.interrupt("second")

    outcome, flow = run(task)
    assert isinstance(outcome.error, ParkRefused)
    assert "second park" in str(outcome.error)
    assert flow.signals.park is not None
    assert bytes(flow.signals.park.payload) == b'"first"'


@pytest.mark.parametrize(("error", "status"), [("boom", 500), (to_wire(FlowNotFound("no such flow")), 404)])
def test_a_child_that_failed_raises_its_error_which_the_task_may_handle(error: Any, status: int) -> None:
    record = ParkRecord("subgraph", "w", error=error)
    outcome, _ = run(lambda flow: flow.subgraph("w"), Flow.of(parks=[record]))
    assert isinstance(outcome.error, MbactorError)
    assert outcome.error.status == status

    def tolerant(flow: Flow) -> None:
        try:
            flow.subgraph("w")
        except MbactorError as failure:
            flow["failed"] = str(failure)

    assert run(tolerant, Flow.of(parks=[record]))[0].kind == "completed"


def test_except_exception_lets_a_park_pass() -> None:
    def task(flow: Flow) -> None:
        try:
            flow.interrupt()
        except Exception:  # noqa: BLE001 - the habit under test
            flow["caught"] = True

    outcome, flow = run(task)
    assert outcome.kind == "parked"
    assert "caught" not in flow


@pytest.mark.parametrize("call", [lambda flow: flow.interrupt(), lambda flow: flow.subgraph("w")])
def test_a_swallowed_park_fails_the_step(call: Task) -> None:
    def catches(flow: Flow) -> None:
        try:
            call(flow)
        except BaseException:  # noqa: BLE001 - the mistake under test
            return

    outcome, flow = run(catches)
    assert flow.signals.park is not None
    assert str(outcome.error) == (
        f"{flow.signals.park.kind}() was swallowed; do not catch BaseException or return in finally"
    )


def test_an_error_after_a_park_is_the_steps_error() -> None:
    def task(flow: Flow) -> None:
        try:
            flow.interrupt()
        finally:
            raise ValueError("in finally")

    outcome, _ = run(task)
    assert isinstance(outcome.error, ValueError)


def test_a_group_of_nothing_but_parks_parks() -> None:
    async def task(flow: Flow) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(flow))

    async def ask(flow: Flow) -> None:
        flow.interrupt("inside")

    flow = Flow.of()
    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(task(flow))
    assert finish(flow, caught.value) == Outcome("parked")


def test_a_group_with_another_error_fails_with_that_error() -> None:
    flow = Flow.of()
    with pytest.raises(Parked) as caught:
        flow.interrupt()
    boom = ValueError("boom")
    group = BaseExceptionGroup("outer", [caught.value, BaseExceptionGroup("inner", [boom])])
    assert finish(flow, group) == Outcome("failed", boom)


def test_several_other_errors_stay_a_group_without_the_park() -> None:
    flow = Flow.of()
    with pytest.raises(Parked) as caught:
        flow.interrupt()
    group = BaseExceptionGroup("outer", [caught.value, ValueError("a"), KeyError("b")])
    error = finish(flow, group).error
    assert isinstance(error, ExceptionGroup)
    assert [type(each) for each in error.exceptions] == [ValueError, KeyError]


def test_a_group_without_parks_is_the_error_as_it_is() -> None:
    group = ExceptionGroup("g", [ValueError("a")])
    assert finish(Flow.of(), group).error is group


def test_parked_raised_by_hand_fails_the_step() -> None:
    outcome, _ = run(lambda _: raising(Parked()))
    assert "without interrupt() or subgraph()" in str(outcome.error)


def test_a_payload_that_cannot_be_encoded_does_not_park() -> None:
    outcome, flow = run(lambda flow: flow.interrupt({"x": float("nan")}))
    assert isinstance(outcome.error, InvalidState)
    assert flow.signals.park is None
    outcome, flow = run(lambda flow: flow.subgraph("w", [1]))
    assert isinstance(outcome.error, InvalidState)
    assert flow.signals.park is None


@pytest.mark.parametrize(
    "late",
    [
        lambda flow: flow.interrupt(),
        lambda flow: flow.subgraph("w"),
        lambda flow: flow.update(a=1),
        lambda flow: flow.goto("x"),
        lambda flow: flow.retry(),
        lambda flow: flow.sleep(1),
    ],
)
def test_after_the_run_the_carrier_refuses_everything_but_reading(late: Task) -> None:
    flow = Flow.of({"a": 0})
    finish(flow, None)
    with pytest.raises(ParkRefused, match="after the task had returned"):
        late(flow)
    assert flow["a"] == 0


# --- the wire ----------------------------------------------------------------------------------------------------


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from("abc"), values),
    st.dictionaries(st.sampled_from("abc"), values),
    st.lists(values, max_size=3),
    st.integers(0, 10),
)
@settings(deadline=None)
def test_the_carrier_survives_the_wire(
    state: dict[str, Any], written: dict[str, Any], answers: list[Any], attempt: int
) -> None:
    flow = Flow.of(
        state,
        flow_key="f",
        step_key="s",
        attempt=attempt,
        step_created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        baggage={"n": 2**70},
        parks=[ParkRecord.answering(answer) for answer in answers],
    )
    flow.update(written)
    there = Flow.from_wire(flow.to_wire())
    assert there.to_wire() == flow.to_wire()
    assert (dict(there), there.changes, there.attempt, there.baggage) == (
        dict(flow),
        flow.changes,
        attempt,
        flow.baggage,
    )
    assert [there.interrupt() for _ in answers] == answers


def test_an_unanswered_park_and_a_failed_child_survive_the_wire() -> None:
    parks = (ParkRecord("interrupt"), ParkRecord("subgraph", "w", error={"error": "x", "statusCode": 404}))
    assert Flow.from_wire(Flow.of(parks=parks).to_wire()).parks == parks


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        (lambda flow: flow.update(a=2**70), "completed"),
        (
            in_turn(lambda flow: flow.update(a=None), lambda flow: flow.goto("x"), lambda flow: flow.sleep(2)),
            "completed",
        ),
        (lambda flow: flow.retry("1s"), "retry"),
        (lambda flow: flow.interrupt({"q": 1}), "parked"),
        (lambda flow: flow.subgraph("w", {"x": 1}), "parked"),
    ],
)
def test_the_result_of_a_remote_run_is_judged_the_same_here(task: Task, kind: str) -> None:
    here = Flow.of({"a": 1, "b": 2})
    outcome, there = run(task, Flow.from_wire(here.to_wire()))
    here.apply_result(there.result_to_wire())
    assert outcome.kind == kind
    assert finish(here, None).kind == kind
    assert (here.changes, dict(here)) == (there.changes, dict(there))
    assert msgspec.json.encode(here.signals) == msgspec.json.encode(there.signals)


def test_a_remote_result_with_competing_signals_fails_here_too() -> None:
    here = Flow.of()
    here.apply_result(b'{"signals":{"goto":"x","retryDelay":1.0}}')
    assert finish(here, None).kind == "failed"


@pytest.mark.parametrize("data", [b"", b"[]", b'{"attempt":"x"}', b'{"signals":5,"state":5}'])
def test_what_is_no_wire_form_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidState):
        Flow.from_wire(data)
    if data != b'{"attempt":"x"}':
        with pytest.raises(InvalidState):
            Flow.of().apply_result(data)
