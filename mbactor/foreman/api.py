"""`ForemanApi`: the Foreman's endpoints, `https://foreman.core:444/...`, which `Flows` asks."""

from __future__ import annotations

from typing import Any

from mbactor import clock, offload
from mbactor.foreman.features import workflow_address
from mbactor.foreman.model.outcome import FlowOptions, FlowOutcome, FlowPage, ShardInfos, StepRecord
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.model.schedule import Schedule
from mbactor.foreman.model.state import decode_fields
from mbactor.foreman.model.status import FlowStatus
from mbactor.foreman.news import News
from mbactor.foreman.page import history_page
from mbactor.foreman.render import history_mermaid
from mbactor.foreman.roll import Kept, Roll
from mbactor.foreman.schedules import Schedules
from mbactor.foreman.shards import Shards
from mbactor.kernel import endpoint, event
from mbactor.kernel.actor import Actor
from mbactor.mailbox import Mailbox
from mbactor.transport.address import INTERNAL_PORT

HOST = "foreman.core"
Listing = list[Schedule]


class ForemanApi(Actor):
    """Creates, steers and shows flows, for `Flows`. It serves many at once: most of them wait."""

    host = HOST
    concurrency = 10_000
    mailbox = Mailbox(capacity=10_000)

    def __init__(self, shards: Shards, roll: Roll, schedules: Schedules) -> None:
        self._shards = shards
        self._roll = roll
        self._schedules = schedules

    @event
    async def on_news(self, news: News) -> None: ...

    @event
    async def on_flow_stopped(self, flow_key: str, outcome: FlowOutcome) -> None: ...

    @endpoint(port=INTERNAL_PORT)
    async def kept(self) -> Kept:
        return self._roll.kept

    @endpoint(port=INTERNAL_PORT)
    async def create(self, workflow: str, state: bytes, options: FlowOptions | None = None, start: bool = True) -> str:
        return await self._shards.create(workflow, decode_fields(state), options, start=start)

    @endpoint(port=INTERNAL_PORT)
    async def start(self, flow_key: str) -> None:
        await self._shards.of(flow_key).start(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def wait(self, flow_key: str) -> FlowOutcome:
        return await self._shards.of(flow_key).wait(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def poll(self, flow_key: str, within: float) -> FlowOutcome:
        return await self._shards.of(flow_key).poll(flow_key, within)

    @endpoint(port=INTERNAL_PORT)
    async def snapshot(self, flow_key: str) -> FlowOutcome:
        return await self._shards.of(flow_key).snapshot(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def history(self, flow_key: str) -> list[StepRecord]:
        return await self._shards.of(flow_key).history(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def history_mermaid(self, flow_key: str) -> str:
        engine = self._shards.of(flow_key)
        flow, steps = await engine.summary(flow_key), await engine.history(flow_key)
        return await offload.run(history_mermaid, steps, title=flow.workflow_name, link="step")

    @endpoint(port=INTERNAL_PORT)
    async def history_page(self, flow_key: str) -> str:
        engine = self._shards.of(flow_key)
        flow, steps = await engine.summary(flow_key), await engine.history(flow_key)
        # Of thousands of steps it takes a while.
        return await offload.run(history_page, flow, steps, clock.utcnow())

    @endpoint(port=INTERNAL_PORT)
    async def step(self, step_key: str) -> StepRecord:
        return await self._shards.of(step_key, "step").step(step_key)

    @endpoint(port=INTERNAL_PORT)
    async def resume(self, flow_key: str, data: Any, step_key: str | None = None) -> None:
        await self._shards.of(flow_key).resume(flow_key, data, step_key)

    @endpoint(port=INTERNAL_PORT)
    async def cancel(self, flow_key: str, reason: str = "") -> None:
        await self._shards.of(flow_key).cancel(flow_key, reason)

    @endpoint(port=INTERNAL_PORT)
    async def list(self, query: FlowQuery) -> FlowPage:
        return await self._shards.list(query)

    @endpoint(port=INTERNAL_PORT)
    async def purge(self, query: FlowQuery) -> int:
        return await self._shards.purge(query)

    @endpoint(port=INTERNAL_PORT)
    async def fingerprint(self, flow_key: str) -> tuple[str, FlowStatus]:
        return await self._shards.of(flow_key).fingerprint(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def put_schedule(self, schedule: Schedule) -> None:
        workflow_address(schedule.workflow)
        await self._schedules.put(schedule)

    @endpoint(port=INTERNAL_PORT)
    async def pause_schedule(self, name: str, paused: bool) -> None:
        await self._schedules.pause(name, paused)

    @endpoint(port=INTERNAL_PORT)
    async def drop_schedule(self, name: str) -> None:
        await self._schedules.drop(name)

    @endpoint(port=INTERNAL_PORT)
    async def schedules(self) -> Listing:
        return await self._schedules.all()

    @endpoint(port=INTERNAL_PORT)
    async def restart(self, flow_key: str, state: bytes) -> None:
        await self._shards.of(flow_key).recovery.restart(flow_key, decode_fields(state))

    @endpoint(port=INTERNAL_PORT)
    async def restart_from(self, step_key: str, state: bytes) -> None:
        await self._shards.of(step_key, "step").recovery.restart_from(step_key, decode_fields(state))

    @endpoint(port=INTERNAL_PORT)
    async def recover(self, flow_key: str, state: bytes) -> None:
        await self._shards.of(flow_key).recovery.recover(flow_key, decode_fields(state))

    @endpoint(port=INTERNAL_PORT)
    async def retry(self, flow_key: str, state: bytes) -> None:
        await self._shards.of(flow_key).recovery.retry(flow_key, decode_fields(state))

    @endpoint(port=INTERNAL_PORT)
    async def fork(self, step_key: str, state: bytes) -> str:
        return await self._shards.of(step_key, "step").recovery.fork(step_key, decode_fields(state))

    @endpoint(port=INTERNAL_PORT)
    async def continue_thread(self, flow_key: str, state: bytes) -> str:
        return await self._shards.of(flow_key).recovery.continue_thread(flow_key, decode_fields(state))

    @endpoint(port=INTERNAL_PORT)
    async def break_before(self, flow_key: str, task: str, on: bool = True) -> None:
        await self._shards.of(flow_key).recovery.break_before(flow_key, task, on)

    @endpoint(port=INTERNAL_PORT)
    async def resume_break(self, flow_key: str, state: bytes) -> None:
        await self._shards.of(flow_key).recovery.resume_break(flow_key, decode_fields(state))

    @endpoint(port=INTERNAL_PORT)
    async def delete(self, flow_key: str) -> None:
        await self._shards.of(flow_key).delete(flow_key)

    @endpoint(port=INTERNAL_PORT)
    async def shards(self) -> ShardInfos:
        return await self._shards.info()

    @endpoint(port=INTERNAL_PORT)
    async def cordon(self, shard: int) -> None:
        await self._roll.cordon(shard)

    @endpoint(port=INTERNAL_PORT)
    async def uncordon(self, shard: int) -> None:
        await self._roll.uncordon(shard)

    @endpoint(port=INTERNAL_PORT)
    async def add_shard(self) -> int:
        return await self._roll.add()

    @endpoint(port=INTERNAL_PORT)
    async def remove_shard(self, shard: int) -> None:
        await self._roll.remove(shard)


# Its outcome is for the host that the flow names, and for no other.
ForemanApi.on_flow_stopped.feature.at_sink = True
