"""Credit approval: one actor that takes applications and does the tasks of the workflow that decides them.

    apply -> intake -+-> verify_credit   -+-> decide -> END
                     +-> verify_identity -+

The two verifications run in parallel and meet at `decide`. Each adds to `sumScore` and to `listFindings`: by
their prefixes the branches' values are added up and joined. Above the actor's limit `decide` asks a human and
waits, for days if need be; `answer` is where the human's word comes in.

    curl -s localhost:8080/credit.example/apply -d '{"name": "Ada", "credit_score": 700, "amount": 5000}'
    curl -s localhost:8080/credit.example/apply -d '{"name": "Ada", "credit_score": 700, "amount": 500000}'
    curl -s localhost:8080/credit.example/answer -d '{"flow_key": "<the key>", "approved": true}'
"""

import msgspec

from mbactor import Actor, MbactorError, endpoint
from mbactor.foreman import END, Flow, FlowOutcome, Flows, Graph, task, workflow


class Verdict(msgspec.Struct):
    """What one verification finds out. Prefixed fields are reduced where the branches meet."""

    sumScore: int  # noqa: N815 - the prefix rule's own spelling
    listFindings: list[str]  # noqa: N815


class Decision(msgspec.Struct):
    """The end of an application."""

    approved: bool
    decided_by: str


class Credit(Actor):
    """Decides on credits."""

    host = "credit.example"

    def __init__(self, limit: int = 100_000) -> None:
        self.limit = limit

    @endpoint
    async def apply(self, name: str, credit_score: int, amount: int) -> FlowOutcome:
        """Start an application and return how far it came: decided, or waiting for a human."""
        if amount <= 0:
            raise MbactorError(f"amount {amount} given, more than 0 expected", status=400)
        applied = {"name": name, "credit_score": credit_score, "amount": amount, "limit": self.limit}
        return await Flows(self).run(Credit.approval, applied)

    @endpoint
    async def answer(self, flow_key: str, approved: bool) -> FlowOutcome:
        """A human's word on an application that waits for it."""
        flows = Flows(self)
        await flows.resume(flow_key, {"approved": approved})
        return await flows.wait(flow_key)

    @endpoint(method="GET")
    async def status(self, flow_key: str) -> FlowOutcome:
        """How far an application is."""
        return await Flows(self).snapshot(flow_key)

    @task
    async def intake(self, name: str) -> dict[str, str]:
        return {"name": name.strip()}

    @task
    async def verify_credit(self, credit_score: int) -> Verdict:
        if credit_score >= 640:
            return Verdict(2, [f"credit score {credit_score} is good"])
        return Verdict(0, [f"credit score {credit_score} is below 640"])

    @task
    async def verify_identity(self, name: str) -> Verdict:
        return Verdict(1, [f"{name} is known"]) if name else Verdict(0, ["no name was given"])

    @task
    async def decide(self, flow: Flow, amount: int, limit: int, sumScore: int) -> Decision:  # noqa: N803
        if amount > limit:
            answer = flow.interrupt({"question": f"approve {amount}?", "score": sumScore})
            return Decision(bool(answer["approved"]), "a human")
        return Decision(sumScore >= 3, "the rules")

    @workflow
    def approval(self) -> Graph:
        graph = Graph("CreditApproval")
        graph.add_transition_fan_out(Credit.intake, Credit.verify_credit, Credit.verify_identity)
        graph.add_transition(Credit.verify_credit, Credit.decide)
        graph.add_transition(Credit.verify_identity, Credit.decide)
        graph.set_fan_in(Credit.decide)
        graph.add_transition(Credit.decide, END)
        return graph
