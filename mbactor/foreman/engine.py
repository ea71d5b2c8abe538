"""`Engine`: durable flows over a store and a host.

    engine = Engine(await open_store("sqlite:///flows.db"), host)
    flow_key = await engine.create("https://credit.example:428/approval", {"credit_score": 700})
    outcome = await engine.wait(flow_key)

Every operation has one shape: check what was given, hand one value to the committer, tell whoever runs or waits. A
flow whose `create` has returned is durable. The engine runs no task itself: a `Dispatcher` does, here or in any
process that shares the database.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import msgspec

from mbactor import observe
from mbactor.errors import BadRequest, FlowConflict, FlowNotFound, Unavailable
from mbactor.foreman.committer import Committer
from mbactor.foreman.graphs import FrozenGraph, Graphs
from mbactor.foreman.host import Host
from mbactor.foreman.keys import Key, new_token, not_found, parse_key
from mbactor.foreman.model.advice import refusal
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.outcome import (
    DEFAULT_TIME_BUDGET,
    FlowOptions,
    FlowOutcome,
    FlowPage,
    FlowSummary,
    StepRecord,
)
from mbactor.foreman.model.paging import Listed, merged
from mbactor.foreman.model.query import FlowQuery, check_purge
from mbactor.foreman.model.state import (
    Fields,
    decode_all,
    decode_fields,
    encode_fields,
    encode_value,
    initial_state,
    storable,
)
from mbactor.foreman.model.status import FlowStatus
from mbactor.foreman.news import Exchange, News
from mbactor.foreman.reader import Reader
from mbactor.foreman.recovery import Recovery
from mbactor.foreman.step import Head, Held, rate_of
from mbactor.foreman.store.operations import (
    Cancel,
    Changed,
    Committed,
    Create,
    Created,
    Delete,
    Lease,
    NewStep,
    Purge,
    Release,
    Resume,
    Start,
    Stopped,
)
from mbactor.foreman.store.rows import FlowRow
from mbactor.foreman.store.store import Store
from mbactor.foreman.waiters import GONE, Waiters
from mbactor.seams import checkpoint

Steps = list[StepRecord]
MOST_FRESH = 65_536
TWO_CONNECTIONS = 1.0
"""Seconds by which times may be told in another order than they were read."""


class Runner(Protocol):
    """What the engine knows of a dispatcher: who may be handed a step at once."""

    @property
    def lease(self) -> Lease: ...
    @property
    def free(self) -> int: ...
    @property
    def active(self) -> bool: ...
    @property
    def running(self) -> int: ...
    def reserve(self, count: int) -> None: ...
    def take(self, held: Held) -> None: ...
    def ring(self) -> None: ...
    def cancel(self, flow_ids: Collection[int]) -> None: ...
    def give_up(self, steps: Mapping[int, int]) -> None: ...
    def doubt(self, flow_ids: Collection[int]) -> None: ...


class Engine:
    """The operations on flows of one shard. Used from one event loop; `close` it before the store.

    `lease` is how many seconds a worker has a step without a sign of life. `commit_each` gives each write a transaction
    of its own, which a debugger wants and which costs most of the speed. `retention` is for how many seconds flows that
    have ended are kept, 0 for ever. `stopped` is called for each flow that comes
    to rest in this process, after its commit.
    """

    def __init__(
        self,
        store: Store,
        host: Host,
        *,
        default_time_budget: float = DEFAULT_TIME_BUDGET,
        lease: float = 10.0,
        poll_interval: float = 0.5,
        commit_each: bool = False,
        retention: float = 0.0,
        ageing: float | None = None,
        stopped: Callable[[Stopped], None] | None = None,
    ) -> None:
        self.store = store
        self.host = host
        self.lease = lease
        self.retention = retention
        self.ageing = ageing
        self.poll_interval = poll_interval
        self.default_time_budget = default_time_budget
        self.name = secrets.token_hex(4)
        """Part of every lease's owner, so that two processes with equal worker names never share one."""
        self.committer = Committer(store, self._landed, commit_each=commit_each, running=self._running)
        self.graphs = Graphs(store, host)
        self._reader = Reader(store, self.graphs)
        self.recovery = Recovery(store, self.committer, self.graphs, self._reader, self._key, self._judge)
        self._waiters = Waiters(store, poll_interval)
        self.news = Exchange(self.name, store.shard)
        self._runners: list[Runner] = []
        self._stopped = stopped
        self._fresh: OrderedDict[int, str] = OrderedDict()
        """Flows created here that have not stopped, as far as this process knows: `wait` need not read those."""
        self._now = self._latest = 0.0
        """The database's time, as it told it last, and the latest that it ever told."""
        self._closed = False

    # --- life of a flow ------------------------------------------------------------------------------------

    async def create(
        self,
        workflow: str,
        state: Any = None,
        options: FlowOptions | None = None,
        *,
        start: bool = True,
        patient: bool = True,
    ) -> str:
        """Create a flow and return its key once it is durable. With `start=False` it waits for `start`.

        InvalidGraph, InvalidState and BadRequest come before anything is written. With an idempotency key, creating
        again returns the first flow's key. While the database takes nothing it waits; where it is not `patient`, it
        fails with `StoreTrouble` and there is no flow.
        """
        options = options or FlowOptions()
        fields, baggage, frozen = await self._looked_at(workflow, state, options)
        thread_id = await self._thread(options.thread_key)
        begins = start and options.start_at is None and options.concurrency_key is None
        limited = bool(rate_of(frozen.graph, frozen.graph.entry_point))
        runner = self._runner_for(options.priority) if begins and not limited else None
        new = self._create(workflow, fields, options, frozen, baggage, thread_id, start, runner)
        await checkpoint("foreman.create.before", workflow=workflow)
        try:
            created = await self.committer.commit(new, patient=patient)
        finally:
            if runner is not None:
                runner.reserve(-1)
        return await self._created(new, created, fields, frozen, runner)

    async def prepared(self, workflow: str, state: Any, options: FlowOptions) -> Create:
        """What `create` would hand in, for whoever writes it together with something else."""
        fields, baggage, frozen = await self._looked_at(workflow, state, options)
        thread_id = await self._thread(options.thread_key)
        return self._create(workflow, fields, options, frozen, baggage, thread_id, True, None)

    async def _looked_at(
        self, workflow: str, state: Any, options: FlowOptions
    ) -> tuple[Fields, bytes | None, FrozenGraph]:
        self._check_open()
        if not workflow:
            raise BadRequest("workflow='': expected the URL of a workflow")
        return initial_state(state), _baggage(options.baggage), await self.graphs.load(workflow, options.baggage)

    async def _created(
        self, new: Create, created: Created, fields: Fields, frozen: FrozenGraph, runner: Runner | None
    ) -> str:
        key = Key(self.store.shard, created.flow_id, created.token)
        if created.existed:
            check_same(new.idempotency_key, created.workflow, new.workflow)
            return str(key)
        self._fresh[key.id] = key.token
        if len(self._fresh) > MOST_FRESH:
            self._fresh.popitem(last=False)
        if runner is not None and not runner.active:
            # It ended meanwhile: somebody else is to have the step at once.
            await self.committer.commit(Release(runner.lease.worker, (created.step_id,)))
        elif runner is not None:
            head = Head(self.store.shard, _row_of(new, created), frozen.graph)
            step_key = str(Key(self.store.shard, created.step_id, new.entry.token))
            runner.take(Held(head, step_key, created.step_id, new.entry, fields, created.now))
        observe.emit("flow.started", flow=key.correlation_id, workflow=new.workflow)
        await checkpoint("foreman.create.after", flow=key.correlation_id)
        return str(key)

    def _create(
        self, workflow: str, fields: Fields, options: FlowOptions, frozen: FrozenGraph, baggage: bytes | None,
        thread_id: int | None, start: bool, runner: Runner | None,
    ) -> Create:  # fmt: skip
        due_at = options.start_at.timestamp() if isinstance(options.start_at, dt.datetime) else None
        delay = options.start_at if isinstance(options.start_at, float) else 0.0
        if runner is not None:
            runner.reserve(1)
        entry = NewStep(
            frozen.graph.entry_point, new_token(), 1, options.priority, state=encode_fields(fields),
            delay=delay, due_at=due_at, lease=runner.lease if runner is not None else None,
            fairness_key=options.fairness_key, rate=rate_of(frozen.graph, frozen.graph.entry_point),
        )  # fmt: skip
        return Create(
            new_token(), workflow, frozen.graph.name, frozen.hash, frozen.json, entry, start, baggage, options.priority,
            options.fairness_key, options.fairness_weight, _seconds(options.time_budget) or self.default_time_budget,
            thread_id, options.idempotency_key, observe.traceparent(), options.delete_on_completion,
            options.notify_on_stop, options.concurrency_key, options.concurrency_limit,
        )  # fmt: skip

    async def start(self, flow_key: str) -> None:
        """Start a flow that was created with `start=False`. FlowConflict where it has been started."""
        key = self._key(flow_key)
        self._judge(key, "start", await self.committer.commit(Start(key.id, key.token)))

    async def resume(self, flow_key: str, data: Any = msgspec.UNSET, step_key: str | None = None) -> None:
        """Answer an interrupt with any JSON value ({} by default): that of `step_key`, else the earliest.

        FlowConflict where nothing waits for an answer.
        """
        key = self._key(flow_key)
        answer = bytes(encode_value({} if data is msgspec.UNSET else data, "the answer"))
        step = parse_key(step_key, "step") if step_key is not None else None
        one = Resume(key.id, key.token, answer, step and step.id, step and step.token)
        self._judge(key, "resume", await self.committer.commit(one))

    async def cancel(self, flow_key: str, reason: str = "") -> None:
        """End a flow that has not ended, with the flows it called. Tasks that run here are cancelled; the result of one
        that runs elsewhere is refused. FlowConflict where the flow has ended.
        """
        key = self._key(flow_key)
        changed = await self.committer.commit(Cancel(key.id, key.token, storable(reason).strip()))
        self._judge(key, "cancel", changed)
        for runner in self._runners:
            runner.cancel(changed.flows)

    async def delete(self, flow_key: str) -> None:
        """Remove a flow that rests, with all its steps; this ends an interrupted one. FlowConflict while it runs.

        It is out of lists and histories at once, and out of the database soon after.
        """
        key = self._key(flow_key)
        self._judge(key, "delete", await self.committer.commit(Delete(key.id, key.token)))

    # --- waiting and reading -------------------------------------------------------------------------------

    async def wait(self, flow_key: str) -> FlowOutcome:
        """The outcome once the flow stops: completed, failed, cancelled, interrupted. FlowNotFound when it is gone."""
        key = self._key(flow_key)
        while True:
            with self._waiters.waiting(key.id) as future:
                await checkpoint("foreman.wait.before", flow=key.correlation_id)
                if self._fresh.get(key.id) != key.token:
                    outcome = await self._reader.snapshot(key)
                    if outcome.stopped:
                        return outcome
                await checkpoint("foreman.wait.after", flow=key.correlation_id)
                stopped = await future
            self._fresh.pop(key.id, None)
            if stopped.status == GONE:
                raise not_found("flow", key)
            if stopped.final_state is not None:
                state = decode_all(decode_fields(stopped.final_state))
                return FlowOutcome(flow_key=flow_key, status="completed", state=state)

    async def poll(self, flow_key: str, within: float) -> FlowOutcome:
        """As `wait`; when the time is over, the outcome so far."""
        try:
            async with asyncio.timeout(within):
                return await self.wait(flow_key)
        except TimeoutError:
            return await self.snapshot(flow_key)

    async def snapshot(self, flow_key: str) -> FlowOutcome:
        """How the flow stands now."""
        return await self._reader.snapshot(self._key(flow_key))

    async def history(self, flow_key: str) -> Steps:
        """Its steps, without payloads, by depth and age."""
        return await self._reader.history(self._key(flow_key))

    async def summary(self, flow_key: str) -> FlowSummary:
        """The flow as a list has it."""
        return await self._reader.summary(self._key(flow_key))

    async def graph_of(self, flow_key: str) -> tuple[str, Graph]:
        """The hash of the graph that the flow keeps, and the graph."""
        row = await self._reader.flow(self._key(flow_key))
        return row.graph, await self.graphs.get(row.graph)

    async def step(self, step_key: str) -> StepRecord:
        """One step, with its payloads."""
        self._check_open()
        return await self._reader.step(parse_key(step_key, "step"))

    async def purge(self, query: FlowQuery) -> int:
        """Remove flows that rest, the oldest of those that the query is about; how many. BadRequest for all of them."""
        self._check_open()
        check_purge(query)
        wanted = await self._reader.filter_of(query)
        return 0 if wanted is None else await self.committer.commit(Purge(wanted))

    async def fingerprint(self, flow_key: str) -> tuple[str, FlowStatus]:
        """A hash that changes with whatever happens in the flow, and its status."""
        return await self._reader.fingerprint(self._key(flow_key))

    async def listed(self, query: FlowQuery) -> list[Listed]:
        """This shard's share of a page: the flows behind the query's cursor, one more than its limit."""
        self._check_open()
        return await self._reader.listed(query)

    async def list(self, query: FlowQuery) -> FlowPage:
        """Flows, newest first; `next_cursor` leads to the next page."""
        return merged({self.store.shard: await self.listed(query)}, {}, query.limit)

    async def close(self) -> None:
        """Write what has been handed in, refuse more, let go of those who wait. Idempotent. The store stays open."""
        self._closed = True
        await self.committer.close()
        await self._waiters.close()

    # --- those who run ---------------------------------------------------------------------------------------

    def register(self, runner: Runner) -> None:
        """From now on the runner may be handed steps and is told of work."""
        self._runners.append(runner)

    def unregister(self, runner: Runner) -> None:
        self._runners = [one for one in self._runners if one is not runner]

    def ring(self) -> None:
        """There is work: wake the runner with the most room."""
        runner = max(self._runners, key=lambda one: one.free, default=None)
        if runner is not None and runner.free > 0:
            runner.ring()

    def _ring_for_others(self) -> None:
        """Another engine has made work due. A runner that just claims has no room, and may have looked before that."""
        for runner in self._runners:
            if runner.free <= 0:
                runner.ring()
        self.ring()

    def told_time(self, now: float) -> None:
        """The database's clock shows `now`."""
        self._now = now
        self._latest = max(self._latest, now)

    @property
    def set_back(self) -> bool:
        """Whether the database's clock shows less than it did, and what was due then may look as if it were not."""
        return self._now < self._latest - TWO_CONNECTIONS

    def ring_after(self, delay: float) -> None:
        """There will be work after a delay. Longer ones are found by the poll, which knows when the next is due."""
        if 0 < delay <= self.poll_interval:
            asyncio.get_running_loop().call_later(delay, self.ring)

    def _running(self) -> int:
        return sum(runner.running for runner in self._runners)

    def _runner_for(self, priority: int) -> Runner | None:
        """Who may be handed a new flow's first step at once: nobody while something that is due comes before it."""
        best = self.committer.best_due
        if best is not None and best <= priority:
            return None
        runner = max(self._runners, key=lambda one: one.free, default=None)
        return runner if runner is not None and runner.free > 0 else None

    def _landed(self, committed: Committed) -> None:
        if self.news.heralds:
            free = committed.best_due is None or any(runner.free > 0 for runner in self._runners)
            self.news.landed(committed, free=free, own=self._fresh, waited=self._waiters.flows)
        if committed.best_due is not None:
            self.ring()
        if committed.given_up:
            for runner in self._runners:
                runner.give_up(committed.given_up)
        if not committed.stopped:
            return
        for one in committed.stopped:
            self._fresh.pop(one.flow_id, None)
            if one.status != GONE:
                if observe.active():
                    observe.emit("flow.stopped", **_rest_told(one, self.store.shard))
                if self._stopped is not None:
                    self._stopped(one)
        self._waiters.release(committed.stopped)

    def heard(self, news: News) -> None:
        """Another engine of the same database told something."""
        if news.engine == self.name or news.shard != self.store.shard:
            return
        if news.due:
            self._ring_for_others()
        if news.cancelled:
            for runner in self._runners:
                runner.doubt(news.cancelled)
        for flow_id in news.stopped:
            self._fresh.pop(flow_id, None)
        if news.many:
            self.missed()
        elif news.stopped:
            self._waiters.look(news.stopped)

    def missed(self) -> None:
        """Another engine may have told something that was not heard."""
        self._fresh.clear()
        self._ring_for_others()
        self._waiters.look()

    # --- checks ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the Foreman has been closed")

    def _key(self, flow_key: str) -> Key:
        self._check_open()
        key = parse_key(flow_key)
        if key.shard != self.store.shard:
            raise not_found("flow", key)
        return key

    def _judge(self, key: Key, verb: str, changed: Changed) -> None:
        if changed.done:
            return
        if changed.status is None:
            raise not_found("flow", key)
        if changed.called:
            raise BadRequest(f"flow {key.correlation_id}: {verb} is refused: {changed.detail}")
        why = changed.detail or refusal(verb, changed.status)
        detail = f": {why}" if why else ""
        raise FlowConflict(
            f"flow {key.correlation_id} is {changed.status}; {verb} is refused{detail}", flow_status=changed.status
        )

    async def _thread(self, thread_key: str | None) -> int | None:
        if thread_key is None:
            return None
        try:
            anchor = await self._reader.flow(self._key(thread_key))
        except FlowNotFound as error:
            raise FlowNotFound(f"thread_key: {error}") from None
        if anchor.caller_id is not None:
            raise BadRequest("thread_key names a flow that another flow called; give that one's")
        return anchor.thread_id or anchor.id


def check_same(idempotency_key: str | None, workflow: str, wanted: str) -> None:
    """FlowConflict where the flow of an idempotency key is one of another workflow."""
    if workflow != wanted:
        raise FlowConflict(
            f"idempotency_key={idempotency_key!r} belongs to a flow of {workflow!r}, so {wanted!r} needs another one"
        )


def _baggage(baggage: Mapping[str, Any]) -> bytes | None:
    return bytes(encode_value(baggage, "baggage")) if baggage else None


def _seconds(value: Any) -> float | None:
    # FlowOptions has turned every spelling of a duration into seconds.
    return value if isinstance(value, float) else None


def _rest_told(one: Stopped, shard: int) -> dict[str, Any]:
    """What `flow.stopped` says: of a flow that failed also where and why, which else only its database knows."""
    told: dict[str, Any] = {"flow": f"{shard}-{one.flow_id}", "workflow": one.workflow, "status": one.status}
    if one.error is not None:
        error = msgspec.json.decode(one.error)
        told |= {"node": error.get("at", {}).get("node", ""), "error": error["error"]}
    return told


def _row_of(new: Create, created: Created) -> FlowRow:
    now = created.now
    return FlowRow(
        id=created.flow_id, token=created.token, status="running", workflow=new.workflow, name=new.name,
        graph=new.graph_hash, baggage=new.baggage, priority=new.priority, fairness_key=new.fairness_key,
        fairness_weight=new.fairness_weight, time_budget=new.time_budget, thread_id=new.thread_id, root_id=None,
        caller_id=None, idempotency_key=new.idempotency_key, trace_parent=new.trace_parent,
        delete_on_completion=int(new.delete_on_completion), notify_on_stop=new.notify_on_stop, final_state=None,
        error=None, cancel_reason=None, created_at=now, started_at=now, updated_at=now, delete_at=None,
        forked_from=None, breakpoints=None, concurrency_key=None, concurrency_limit=None, queued=0,
    )  # fmt: skip
