"""`ForemanApi`: the Foreman's endpoints, `https://foreman.core:444/...`, which `Flows` asks."""

from __future__ import annotations

from typing import Any

from mbactor.foreman.engine import Engine
from mbactor.foreman.model.outcome import FlowOptions, FlowOutcome, FlowPage, StepRecord
from mbactor.foreman.model.state import decode_fields
from mbactor.foreman.model.status import FlowStatus
from mbactor.kernel import endpoint
from mbactor.kernel.actor import Actor
from mbactor.mailbox import Mailbox
from mbactor.transport.address import INTERNAL_PORT

HOST = "foreman.core"


class ForemanApi(Actor):
    """Creates, steers and shows flows, for `Flows`. It serves many at once: most of them wait."""

    host = HOST
    concurrency = 10_000
    mailbox = Mailbox(capacity=10_000)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @endpoint(port=INTERNAL_PORT)
    async def create(self, workflow: str, state: bytes, options: FlowOptions | None = None, start: bool = True) -> str:
        return await self._engine.create(workflow, decode_fields(state), options, start=start)

    @endpoint(port=INTERNAL_PORT)
    async def start(self, flow_key: str) -> None:
        await self._engine.start(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def wait(self, flow_key: str) -> FlowOutcome:
        return await self._engine.wait(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def poll(self, flow_key: str, within: float) -> FlowOutcome:
        return await self._engine.poll(flow_key, within)

    @endpoint(port=INTERNAL_PORT)
    async def snapshot(self, flow_key: str) -> FlowOutcome:
        return await self._engine.snapshot(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def history(self, flow_key: str) -> list[StepRecord]:
        return await self._engine.history(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def step(self, step_key: str) -> StepRecord:
        return await self._engine.step(step_key)

    @endpoint(port=INTERNAL_PORT)
    async def resume(self, flow_key: str, data: Any, step_key: str | None = None) -> None:
        await self._engine.resume(flow_key, data, step_key)

    @endpoint(port=INTERNAL_PORT)
    async def cancel(self, flow_key: str, reason: str = "") -> None:
        await self._engine.cancel(flow_key, reason)

    @endpoint(port=INTERNAL_PORT)
    async def list(
        self,
        status: FlowStatus | None = None,
        workflow: str | None = None,
        limit: int = 100,
        cursor: str = "",
    ) -> FlowPage:
        return await self._engine.list(status=status, workflow=workflow, limit=limit, cursor=cursor)

    @endpoint(port=INTERNAL_PORT)
    async def delete(self, flow_key: str) -> None:
        await self._engine.delete(flow_key)
