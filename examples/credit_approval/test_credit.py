"""The example's own tests: the tasks alone, the graph, and the whole thing in one process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples.credit_approval.credit import Credit, Decision
from mbactor import ActorSystem, MbactorError
from mbactor.foreman import Flow, Flows, Foreman, Parked

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[ActorSystem]:
    async with ActorSystem() as system:
        await system.spawn(Foreman, database=f"sqlite:///{tmp_path}/flows.db", workers=2)
        await system.spawn(Credit)
        yield system


async def test_a_task_is_a_method_like_any_other() -> None:
    verdict = await Credit().verify_credit(700)
    assert (verdict.sumScore, verdict.listFindings) == (2, ["credit score 700 is good"])


async def test_a_task_with_signals_is_given_a_flow() -> None:
    flow = Flow.of({})
    assert await Credit().decide(flow, amount=5, limit=10, sumScore=3) == Decision(
        approved=True, decided_by="the rules"
    )
    with pytest.raises(Parked):
        await Credit().decide(flow, amount=11, limit=10, sumScore=3)


def test_the_graph_is_valid_and_can_be_drawn() -> None:
    graph = Credit().approval()
    graph.validate()
    assert "verify_credit" in graph.mermaid()


async def test_a_good_application_is_approved_with_the_findings_of_both_branches(system: ActorSystem) -> None:
    outcome = await system.ask(Credit.apply, name="Ada", credit_score=700, amount=5000)
    assert outcome.status == "completed"
    assert outcome.state["approved"] is True
    assert outcome.state["sumScore"] == 3
    assert outcome.state["listFindings"] == ["credit score 700 is good", "Ada is known"]


async def test_a_bad_score_is_declined(system: ActorSystem) -> None:
    outcome = await system.ask(Credit.apply, name="Bob", credit_score=500, amount=5000)
    assert outcome.state["approved"] is False
    assert outcome.state["sumScore"] == 1


@pytest.mark.parametrize("approved", [True, False])
async def test_a_large_amount_waits_for_a_human(system: ActorSystem, *, approved: bool) -> None:
    outcome = await system.ask(Credit.apply, name="Ada", credit_score=700, amount=500_000)
    assert outcome.status == "interrupted"
    [(_, question)] = outcome.interrupts
    assert question == {"question": "approve 500000?", "score": 3}
    answered = await system.ask(Credit.answer, flow_key=outcome.flow_key, approved=approved)
    assert answered.status == "completed"
    assert answered.state["approved"] is approved
    assert answered.state["decided_by"] == "a human"


async def test_an_amount_that_is_none_is_refused(system: ActorSystem) -> None:
    with pytest.raises(MbactorError, match="amount 0 given") as refused:
        await system.ask(Credit.apply, name="Ada", credit_score=700, amount=0)
    assert refused.value.status == 400


async def test_tasks_do_not_queue_behind_the_endpoint_that_waits_for_them(system: ActorSystem) -> None:
    asked = [system.ask(Credit.apply, name="Ada", credit_score=700, amount=10) for _ in range(20)]
    outcomes = await asyncio.gather(*asked)
    assert {outcome.status for outcome in outcomes} == {"completed"}
    assert len((await Flows(system).list("completed")).flows) == 20
