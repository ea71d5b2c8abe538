"""`Flows`: the client of the Foreman.

It works over anything that can ask, a system or an actor, and needs nothing of the Foreman's own process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack

import anyio
import msgspec

from mbactor.durations import Duration, seconds
from mbactor.errors import BadRequest, BudgetSpent, NoSuchActor, did_you_mean
from mbactor.foreman.api import HOST, ForemanApi
from mbactor.foreman.features import TaskReference, WorkflowReference
from mbactor.foreman.model.outcome import FlowOptions, FlowOutcome, FlowPage, ShardInfos, StepRecord
from mbactor.foreman.model.query import MOST_PURGED, FlowQuery
from mbactor.foreman.model.reference import name_of
from mbactor.foreman.model.schedule import CatchUp, Schedule
from mbactor.foreman.model.state import decode_all, encode_fields, initial_state, overrides_of
from mbactor.foreman.model.status import FlowStatus
from mbactor.kernel import Operation

P = ParamSpec("P")
R = TypeVar("R")
ScheduleList = list[Schedule]
_ROUND = 600.0
"""Seconds that `poll` waits in one ask: less than the longest that an ask may take."""
_ANSWERED = 10.0
"""Seconds that are left then for the answer to come."""


class Asker(Protocol):
    """What `Flows` needs: an `ActorSystem`, an actor, or whatever else can ask."""

    def ask(self, operation: Operation[Any, P, R], *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]: ...


class Filters(TypedDict, total=False):
    """Which flows `list` and `purge` are about, beside their status and workflow.

    page = await flows.list("failed", search="no such policy", newer_than="1d")
    """

    thread: str
    """The key of any flow of the thread."""
    task: TaskReference | str
    """The node that a flow is at, or has failed at."""
    fairness_key: str
    concurrency_key: str
    """That of their options; an empty one: flows without."""
    priority: int
    older_than: Duration
    """Its status has not changed for so long."""
    newer_than: Duration
    """Its status has changed within that time."""
    search: str
    """Text within the workflow's URL or name, the node, the error, the reason of a cancel, or the key; in any case, and
    never in a state. It reads every flow that the other filters leave."""
    include_subflows: bool
    """Also flows that other flows called. Not for `purge`."""
    shard: int


class Flows:
    """The client of the Foreman.

        flows = Flows(system)                      # or Flows(self) in an actor
        outcome = await flows.run(Credit.approval, {"credit_score": 700, "amount": 5000})
        assert outcome.status == "completed"

    A flow whose `create` returned is never lost. Workflows are named by reference or URL. Errors: FlowNotFound (404)
    for an unknown key, FlowConflict (409) where the flow's status does not allow the call, InvalidGraph and
    InvalidState (400) for what cannot be created, NoSuchActor (404) where no Foreman runs.
    """

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def create(
        self,
        workflow: WorkflowReference | str,
        state: Any = None,
        options: FlowOptions | None = None,
        *,
        start: bool = True,
    ) -> str:
        """Create a flow; its key, once it is durable. `start=False` leaves it waiting for `start`.

        `state` is anything shaped like a JSON object: a mapping, a Struct, a dataclass, or None.
        """
        url = _url_of(workflow)
        given = encode_fields(initial_state(state))
        return await self._ask(ForemanApi.create, workflow=url, state=given, options=options, start=start)

    async def _ask(self, operation: Operation[Any, P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await self._asker.ask(operation, *args, **kwargs)
        except NoSuchActor as error:
            if HOST in error.address:
                raise NoSuchActor(
                    error.address, "no Foreman runs here; spawn(Foreman, database=...) or put one into the topology"
                ) from None
            raise

    async def start(self, flow_key: str) -> None:
        """Start a flow that was created with `start=False`."""
        await self._ask(ForemanApi.start, flow_key=flow_key)

    async def run(
        self, workflow: WorkflowReference | str, state: Any = None, options: FlowOptions | None = None
    ) -> FlowOutcome:
        """Create a flow and wait until it stops: completed, failed, cancelled or interrupted.

        BudgetSpent, with `.flow_key`, when the caller's time budget ends first; the flow goes on.
        """
        return await self.wait(await self.create(workflow, state, options))

    async def wait(self, flow_key: str) -> FlowOutcome:
        """Wait until the flow stops. BudgetSpent, with `.flow_key`, when the caller's time budget ends first."""
        try:
            return await self._ask(ForemanApi.wait, flow_key=flow_key)
        except BudgetSpent as error:
            raise _goes_on(flow_key) from error

    async def poll(self, flow_key: str, within: Duration = "10s") -> FlowOutcome:
        """Wait until the flow stops, at most `within`; then the outcome so far.

            outcome = await flows.poll(flow_key, "1h")
            if not outcome.stopped:
                ...

        `within` is the time budget, whatever it is. BudgetSpent, with `.flow_key`, where the caller's own ends first.
        """
        now = asyncio.get_running_loop().time
        end = now() + _duration("within", within)
        while True:
            left = min(max(0.0, end - now()), _ROUND)
            with anyio.CancelScope(deadline=now() + left + _ANSWERED):
                try:
                    outcome = await self._ask(ForemanApi.poll, flow_key=flow_key, within=left)
                except BudgetSpent as error:
                    raise _goes_on(flow_key) from error
                if outcome.stopped or now() >= end:
                    return outcome

    async def snapshot(self, flow_key: str) -> FlowOutcome:
        """The outcome so far, at once."""
        return await self._ask(ForemanApi.snapshot, flow_key=flow_key)

    async def history(self, flow_key: str) -> list[StepRecord]:
        """What ran, step by step."""
        return await self._ask(ForemanApi.history, flow_key=flow_key)

    async def history_mermaid(self, flow_key: str) -> str:
        """What ran, as a Mermaid flowchart: durations, waits, branches side by side, called flows in their callers."""
        return await self._ask(ForemanApi.history_mermaid, flow_key=flow_key)

    async def history_page(self, flow_key: str) -> str:
        """What ran, as one HTML page that needs nothing else: a timeline, and the steps with their errors."""
        return await self._ask(ForemanApi.history_page, flow_key=flow_key)

    async def step(self, step_key: str) -> StepRecord:
        """One step, with its state, changes and interrupts."""
        return await self._ask(ForemanApi.step, step_key=step_key)

    async def resume(self, flow_key: str, data: Any = msgspec.UNSET, step_key: str | None = None) -> None:
        """Answer an interrupt: the given step's, or the one that comes first in the outcome's `interrupts`.

        Any JSON value is an answer; none is `{}`.
        """
        answer = {} if data is msgspec.UNSET else data
        await self._ask(ForemanApi.resume, flow_key=flow_key, data=answer, step_key=step_key)

    async def cancel(self, flow_key: str, reason: str = "") -> None:
        """Stop a flow for good; its running tasks are cancelled."""
        await self._ask(ForemanApi.cancel, flow_key=flow_key, reason=reason)

    # --- what is created by itself -----------------------------------------------------------------------------

    async def schedule(
        self,
        name: str,
        workflow: WorkflowReference | str,
        cron: str,
        *,
        timezone: str = "UTC",
        state: Any = None,
        options: FlowOptions | None = None,
        catch_up: CatchUp = "latest",
    ) -> None:
        """Create a flow at each tick of a cron expression; a schedule of this name is changed to this.

            await flows.schedule("nightly", Reports.nightly, "0 3 * * *", timezone="Europe/Berlin")

        `Schedule` says what the values mean. BadRequest names the one that cannot be.
        """
        schedule = Schedule(
            name=name, workflow=_url_of(workflow), cron=cron, timezone=timezone,
            state=decode_all(initial_state(state)), options=options or FlowOptions(), catch_up=catch_up,
        )  # fmt: skip
        await self._ask(ForemanApi.put_schedule, schedule=schedule)

    async def schedules(self) -> ScheduleList:
        """The schedules by name, with their last and next ticks."""
        return await self._ask(ForemanApi.schedules)

    async def pause_schedule(self, name: str) -> None:
        """Create no more flows by a schedule until `resume_schedule`; what falls in between is not made up for."""
        await self._ask(ForemanApi.pause_schedule, name=name, paused=True)

    async def resume_schedule(self, name: str) -> None:
        """Let a schedule go on, with the next tick from now."""
        await self._ask(ForemanApi.pause_schedule, name=name, paused=False)

    async def unschedule(self, name: str) -> None:
        """Forget a schedule; the flows that it made stay."""
        await self._ask(ForemanApi.drop_schedule, name=name)

    # --- what went wrong, and what goes on -------------------------------------------------------------------

    async def restart(self, flow_key: str, state: Any = None) -> None:
        """Run a flow that has stopped from its first step, under the same key; what it had done is forgotten.

        `state` overrides fields of the step's input here and below; None deletes a field. FlowConflict while it runs.
        """
        await self._ask(ForemanApi.restart, flow_key=flow_key, state=_overrides(state))

    async def restart_from(self, step_key: str, state: Any = None) -> None:
        """Run a step that has ended again, in its flow: all that followed from it is forgotten and done anew.

            failed = next(step for step in await flows.history(flow_key) if step.status == "failed")
            await flows.restart_from(failed.step_key, {"account": "corrected"})

        The flow may run meanwhile. FlowConflict for a step that has not ended, and in a cancelled flow: see `fork`.
        """
        await self._ask(ForemanApi.restart_from, step_key=step_key, state=_overrides(state))

    async def recover(self, flow_key: str, state: Any = None) -> None:
        """Run every step of a failed flow again that failed; the flow goes on from there. FlowConflict otherwise.

            for flow in (await flows.list("failed", workflow=Credit.approval)).flows:
                await flows.recover(flow.flow_key)

        A step that had been answered before it failed asks again.
        """
        await self._ask(ForemanApi.recover, flow_key=flow_key, state=_overrides(state))

    async def retry(self, flow_key: str, state: Any = None) -> None:
        """As `recover`, for the one step that failed last: of several failed branches the others stay failed."""
        await self._ask(ForemanApi.retry, flow_key=flow_key, state=_overrides(state))

    async def fork(self, step_key: str, state: Any = None) -> str:
        """A new flow that goes on from a step of one that has ended; its key. The origin stays as it is.

        What does not follow from the step is taken over, with its results; a step in a called flow takes the calling
        flows along. Branches beside it that were cancelled stay so: a fan-in of `Join.ALL` goes on without them, any
        other fails where it needs them. To have them run too, fork the step that fans out. FlowConflict where the flow
        has not ended.
        """
        return await self._ask(ForemanApi.fork, step_key=step_key, state=_overrides(state))

    async def continue_thread(self, flow_key: str, state: Any = None) -> str:
        """The next flow of a thread, whose state is the final one of the latest with `state` reduced onto it; its key.

        FlowConflict where the latest flow of the thread has not completed, BadRequest where a value does not fit its
        reducer. Of several that continue at once one wins.
        """
        return await self._ask(ForemanApi.continue_thread, flow_key=flow_key, state=_overrides(state))

    async def break_before(self, flow_key: str, task: TaskReference | str, on: bool = True) -> None:
        """Have a flow, and those it calls, pause before each step of a task; `on=False`: no longer.

        It is interrupted then, with the payload `{"breakpoint": node}`, until `resume_break`. What runs is left alone.
        """
        await self._ask(ForemanApi.break_before, flow_key=flow_key, task=_node_of(task), on=on)

    async def resume_break(self, flow_key: str, state: Any = None) -> None:
        """Let a flow go on that waits at a breakpoint, at the one reached first. FlowConflict where there is none."""
        await self._ask(ForemanApi.resume_break, flow_key=flow_key, state=_overrides(state))

    async def list(
        self,
        status: FlowStatus | None = None,
        workflow: WorkflowReference | str | None = None,
        *,
        limit: int = 100,
        cursor: str = "",
        **filters: Unpack[Filters],
    ) -> FlowPage:
        """Flows, newest first, a page at a time: `cursor` is the `next_cursor` of the page before.

            page = await flows.list(status="failed", workflow=Credit.approval, newer_than="1d")

        Everything that is given has to hold: `Filters` says what may be. `notes` of the page says which shards do not
        answer and so are not in it.
        """
        query = _query(status, workflow, filters, limit=limit, cursor=cursor)
        return await self._ask(ForemanApi.list, query=query)

    async def purge(
        self,
        status: FlowStatus | None = None,
        workflow: WorkflowReference | str | None = None,
        *,
        limit: int = MOST_PURGED,
        **filters: Unpack[Filters],
    ) -> int:
        """Remove flows that rest, oldest first, with the filters of `list`; how many, at most 4,096 a call.

            while await flows.purge(status="completed", older_than="30d"):
                pass

        Flows that run are left alone; those that wait for an answer are ended by it. BadRequest without any filter.
        """
        return await self._ask(ForemanApi.purge, query=_query(status, workflow, filters, limit=limit))

    async def fingerprint(self, flow_key: str) -> tuple[str, FlowStatus]:
        """A hash that changes with whatever happens in the flow or those it called, and its status.

        It costs one query, so it is what to ask for again and again before reading a history anew.
        """
        return await self._ask(ForemanApi.fingerprint, flow_key=flow_key)

    async def delete(self, flow_key: str) -> None:
        """Remove a flow that rests, with all its steps; one that waits for an answer is ended by it.

        It is out of lists and histories at once, out of the database soon after. Deleting it again is no error.
        """
        await self._ask(ForemanApi.delete, flow_key=flow_key)

    async def shards(self) -> ShardInfos:
        """How each shard of the Foreman fares. Costs a pass over each one's table of flows."""
        return await self._ask(ForemanApi.shards)

    async def cordon(self, shard: int) -> None:
        """Let no new flows on a shard; those that are there go on, and what follows from them stays there.

        Every Foreman of the same databases keeps to it a moment later. Flows of schedules stay on shard 1: each is made
        in one transaction with its tick.
        """
        await self._ask(ForemanApi.cordon, shard=shard)

    async def uncordon(self, shard: int) -> None:
        """Let new flows on a shard again."""
        await self._ask(ForemanApi.uncordon, shard=shard)

    async def add_shard(self) -> int:
        """Add the shard with the next number, whose database has to be there; its number."""
        return await self._ask(ForemanApi.add_shard)

    async def remove_shard(self, shard: int) -> None:
        """Forget a shard for good. ShardInUse (409) unless it is drained: cordoned, and no flow on it is open."""
        await self._ask(ForemanApi.remove_shard, shard=shard)


def _overrides(state: Any) -> bytes:
    return encode_fields(overrides_of(state))


def _query(
    status: FlowStatus | None,
    workflow: WorkflowReference | str | None,
    filters: Filters,
    *,
    limit: int,
    cursor: str = "",
) -> FlowQuery:
    for name in filters:
        if name not in Filters.__annotations__:
            # A purge by a filter that is not there would remove more than was meant.
            hint = did_you_mean(name, Filters.__annotations__)
            raise BadRequest(
                f"no filter is called {name!r}{hint or '; there are ' + ', '.join(Filters.__annotations__)}"
            )
    task = filters.get("task")
    return FlowQuery(
        status=status,
        workflow=None if workflow is None else _url_of(workflow),
        thread=filters.get("thread"),
        task=None if task is None else _node_of(task),
        fairness_key=filters.get("fairness_key"),
        concurrency_key=filters.get("concurrency_key"),
        priority=filters.get("priority"),
        older_than=_age("older_than", filters),
        newer_than=_age("newer_than", filters),
        search=filters.get("search"),
        include_subflows=filters.get("include_subflows", False),
        shard=filters.get("shard"),
        limit=limit,
        cursor=cursor,
    )


def _age(name: Literal["older_than", "newer_than"], filters: Filters) -> float | None:
    given = filters.get(name)
    return None if given is None else _duration(name, given)


def _goes_on(flow_key: str) -> BudgetSpent:
    return BudgetSpent(
        f"flow {flow_key} had not stopped when the time budget was spent; it goes on, and its history says where it is",
        flow_key=flow_key,
    )


def _duration(name: str, given: Duration) -> float:
    try:
        return seconds(given)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"{name}: {error}") from None


def _node_of(task: TaskReference | str) -> str:
    try:
        return name_of(task)
    except TypeError:
        raise BadRequest(
            f"{task!r} given, a task expected: a method decorated with @task, or its node's name"
        ) from None


def _url_of(workflow: WorkflowReference | str) -> str:
    if isinstance(workflow, str):
        return workflow
    if isinstance(workflow, WorkflowReference):
        return workflow.url
    raise BadRequest(f"{workflow!r} given, a workflow expected: a method decorated with @workflow, or its URL")
