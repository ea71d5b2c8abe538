"""What is told of flows, and the options of a new one, travel as JSON and as msgpack."""

from __future__ import annotations

import datetime as dt
from types import ModuleType
from typing import Any, cast

import msgspec
import pytest

from mbactor.errors import BadRequest, FlowNotFound, MbactorError, to_wire
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.outcome import (
    FlowOptions,
    FlowOutcome,
    FlowPage,
    FlowSummary,
    ShardInfo,
    StepRecord,
    Subflow,
)
from mbactor.foreman.model.status import FLOW_STATUSES, STEP_STATUSES, STOPPED, TERMINAL, is_stopped, is_terminal

AT = dt.datetime(2026, 5, 1, 12, 0, tzinfo=dt.UTC)
WIRES = [msgspec.json, msgspec.msgpack]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "value",
    [
        FlowOutcome(flow_key="f", status="completed", state={"n": 2**60, "x": [1.5, None]}),
        FlowOutcome(flow_key="f", status="interrupted", interrupts=[("s1", {"q": 1}), ("s2", None)]),
        FlowOutcome(flow_key="f", status="failed", error=to_wire(FlowNotFound("gone"))),
        FlowPage([FlowSummary(flow_key="f", status="running", created_at=AT)], "1=5"),
        StepRecord(
            step_key="s",
            node="n",
            status="failed",
            error="boom",
            started_at=AT,
            due_at=AT,
            subflow=Subflow(flow_key="c", steps=[StepRecord(step_key="t", node="m", status="pending")]),
            reducers={"f": "add (prefix sum)"},
        ),
        ShardInfo(shard=1, error="down"),
        FlowOptions(time_budget="20s", start_at=AT, baggage={"a": 1}, thread_key="t"),
        FlowOptions(start_at=dt.timedelta(minutes=1), priority=0, fairness_weight=0.5),
    ],
)
def test_every_value_survives_the_wire(wire: ModuleType, value: Any) -> None:
    assert wire.decode(wire.encode(value), type=type(value)) == value


def test_a_failure_is_an_exception_again() -> None:
    failed = FlowOutcome(flow_key="f", status="failed", error=to_wire(FlowNotFound("gone")))
    assert isinstance(failed.failure, FlowNotFound)
    assert failed.failure.status == 404
    plain = StepRecord(step_key="s", node="n", status="failed", error="boom")
    assert type(plain.failure) is MbactorError
    assert FlowOutcome(flow_key="f", status="completed").failure is None


def test_an_outcome_says_whether_the_flow_rests() -> None:
    resting = {status for status in FLOW_STATUSES if FlowOutcome(flow_key="f", status=status).stopped}
    assert resting == {"interrupted", "completed", "failed", "cancelled"} == STOPPED
    assert {status for status in STEP_STATUSES if is_terminal(status)} == TERMINAL
    assert is_stopped("interrupted")
    assert not is_terminal("interrupted")


def test_a_step_knows_how_long_it_ran() -> None:
    step = StepRecord(step_key="s", node="n", status="completed", started_at=AT, ended_at=AT + dt.timedelta(seconds=2))
    assert step.duration == 2.0
    assert StepRecord(step_key="s", node="n", status="running", started_at=AT).duration is None


def test_the_baggage_of_a_flow_is_passed_on_as_it_is() -> None:
    assert FlowOptions(baggage=cast("Any", Flow.of(baggage={"tenant": 7}).baggage)).baggage == {"tenant": 7}


def test_durations_of_options_become_seconds() -> None:
    options = FlowOptions(time_budget=dt.timedelta(seconds=3), start_at="1h")
    assert (options.time_budget, options.start_at) == (3.0, 3600.0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"priority": -1}, "priority=-1"),
        ({"fairness_weight": 0}, "fairness_weight=0"),
        ({"fairness_weight": -1.0}, "fairness_weight"),
        ({"fairness_weight": float("nan")}, "fairness_weight"),
        ({"time_budget": "0s"}, "time_budget=0 s"),
        ({"time_budget": "soon"}, "time_budget: 'soon'"),
        ({"time_budget": -1}, "time_budget: -1"),
        ({"time_budget": []}, "time_budget"),
        ({"start_at": dt.datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001 - the case under test
        ({"start_at": "tomorrow"}, "start_at: 'tomorrow'"),
        ({"priority": 2**63}, "priority=9223372036854775808 is too large"),
        ({"concurrency_key": "k", "concurrency_limit": 2**63}, "concurrency_limit=9223372036854775808 is too large"),
        ({"fairness_weight": 10**400}, "fairness_weight"),
        ({"fairness_key": "a\0"}, "fairness_key='a\\x00'"),
        ({"fairness_key": "\ud800"}, "fairness_key='\\ud800'"),
        ({"concurrency_key": "\ud800"}, "concurrency_key"),
        ({"idempotency_key": "a\0"}, "idempotency_key"),
        ({"notify_on_stop": "\ud800"}, "notify_on_stop"),
        ({"idempotency_key": ""}, "idempotency_key='': a text expected, or None"),
        ({"concurrency_key": ""}, "concurrency_key='': a text expected, or None"),
        ({"notify_on_stop": ""}, "notify_on_stop='': a text expected, or None"),
        ({"baggage": ["a"]}, "baggage=['a']: an object with named fields expected"),
    ],
)
def test_an_option_that_cannot_be_is_a_bad_request_that_names_it(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as caught:
        FlowOptions(**options)
    assert named in str(caught.value)
    assert caught.value.status == 400
