"""One trace from the HTTP request through the asks to every step of the flow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.credit_approval.credit import Credit
from mbactor import ActorSystem, observe
from mbactor.foreman import Foreman
from mbactor.services.gateway import Gateway

pytestmark = pytest.mark.anyio


class Spans:
    def __init__(self) -> None:
        self.ended: list[observe.Span] = []
        self.url = ""

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "gateway.serving":
            self.url = fields["url"]

    def on_start(self, span: observe.Span) -> None: ...

    def on_end(self, span: observe.Span) -> None:
        self.ended.append(span)


async def test_a_trace_runs_from_the_request_through_asks_to_every_step(tmp_path: Path) -> None:
    spans = Spans()
    trace = "ab" * 16
    with observe.observing(spans):
        async with ActorSystem() as system:
            await system.spawn(Foreman, database=f"sqlite:///{tmp_path}/flows.db", workers=2)
            await system.spawn(Credit)
            await system.spawn(Gateway, port=0)
            async with httpx.AsyncClient(timeout=60) as client:
                answer = await client.post(
                    f"{spans.url}/credit.example/apply",
                    json={"name": "Ada", "credit_score": 700, "amount": 5000},
                    headers={"traceparent": f"00-{trace}-{'cd' * 8}-01"},
                )
            assert answer.status_code == 200
    names = {(span.kind, span.name) for span in spans.ended}
    steps = {("step", name) for name in ("intake", "verify_credit", "verify_identity", "decide")}
    tasks = {("inbound", f"Credit.{name}") for _, name in steps}
    assert steps | tasks | {("inbound", "Credit.apply"), ("inbound", "ForemanApi.create")} <= names
    assert {span.trace_id for span in spans.ended} == {trace}
    by_id = {span.span_id: span for span in spans.ended}
    for span in spans.ended:
        if span.kind == "inbound" and span.name in {f"Credit.{name}" for _, name in steps}:
            assert span.parent_id is not None
            assert by_id[span.parent_id].kind == "step"
            assert by_id[span.parent_id].fields["workflow"] == "https://credit.example:428/approval"
