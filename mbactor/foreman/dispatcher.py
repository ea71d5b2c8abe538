"""`Dispatcher`: claims due steps in batches, runs them, and extends their leases while they run.

    dispatcher = Dispatcher(engine, "worker-1")
    await dispatcher.run()          # until cancelled; or until `drain` lets it end

Resident coroutines run the steps, made when first needed and at most `slots`. A step that completes hands its worker
the next one of its flow, in the same transaction and from memory, unless something more urgent is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Collection, Mapping

from mbactor import observe
from mbactor.errors import MbactorError, ReducerError
from mbactor.foreman.engine import Engine
from mbactor.foreman.loader import Loader
from mbactor.foreman.model.flow import Flow, finish
from mbactor.foreman.model.losing import OFTEN
from mbactor.foreman.model.reducers import is_known
from mbactor.foreman.plan import Plan, Run, decide, fail
from mbactor.foreman.settlement import HandOff, failed, postponed, settlement, successors, unreadable
from mbactor.foreman.step import UNREADABLE, Head, Held, budget_of, carrier, execute, load, was_refused
from mbactor.foreman.store.operations import Claim, Claimed, Extend, Lease, Release, Settle
from mbactor.foreman.store.store import Unstorable
from mbactor.seams import any_armed, checkpoint

MOST_IN_A_ROW, LONGEST_TURN = 64, 0.1
"""So many steps, and for so many seconds, one flow may be handed on while others of its priority wait."""
LARGEST_CLAIM = 256
CANCEL_GRACE = 1.0


class Dispatcher:
    """A worker: up to `slots` steps running at once, under leases of its own.

    `worker_id` must be unique among the dispatchers of an engine; a new dispatcher with the id of one that crashed
    first gives back what that one held.
    """

    def __init__(self, engine: Engine, worker_id: str, slots: int = 256) -> None:
        self.lease = Lease(f"{worker_id}@{engine.name}", engine.lease)
        self.slots = slots
        self._engine = engine
        self._loader = Loader(engine.store, engine.graphs)
        self._held: dict[int, Held] = {}
        self._promised = 0
        self._ready: deque[Held] = deque()
        self._resting: list[asyncio.Future[Held]] = []
        self._residents: set[asyncio.Task[None]] = set()
        self._bell = asyncio.Event()
        self._doubt = asyncio.Event()
        self._draining = False
        self._claiming = False
        self._after = ""
        """The fairness key behind which the next claim begins to look."""
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._group: asyncio.TaskGroup | None = None
        self._context = contextvars.Context()
        self._began = 0.0

    # --- what the engine asks --------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more steps it takes now."""
        if self._draining or self._group is None:
            return 0
        return self.slots - len(self._held) - self._promised

    @property
    def active(self) -> bool:
        """Whether what it is handed will run."""
        return self._group is not None

    @property
    def running(self) -> int:
        """How many steps it holds."""
        return len(self._held)

    def reserve(self, count: int) -> None:
        """Keep room for steps that are about to be handed over (negative: no longer)."""
        self._promised += count

    def take(self, held: Held) -> None:
        """Run a step that is leased to this worker."""
        earlier = self._held.get(held.step_id)
        if earlier is not None:
            # Its lease was over before it was, and nobody else took the step.
            _cancel(earlier)
        self._held[held.step_id] = held
        self._quiet.clear()
        while self._resting:
            future = self._resting.pop()
            if not future.done():
                future.set_result(held)
                return
        if self._group is None or len(self._residents) >= self.slots:
            self._ready.append(held)
            return
        resident = self._group.create_task(self._reside(held), context=self._context.copy())
        self._residents.add(resident)
        resident.add_done_callback(self._residents.discard)

    def ring(self) -> None:
        """There is work."""
        self._bell.set()

    def cancel(self, flow_ids: Collection[int]) -> None:
        """End the tasks of these flows that run here."""
        for held in list(self._held.values()):
            if held.head.id in flow_ids:
                held.flow_ended = True
                _cancel(held)

    def give_up(self, steps: Mapping[int, int]) -> None:
        """End the tasks of these steps that run here. Each step comes with its flow."""
        flow_ids = set(steps.values())
        for held in list(self._held.values()):
            if held.step_id in steps:
                _cancel(held)
            if held.head.id in flow_ids:
                held.given_up |= frozenset(steps)

    def doubt(self, flow_ids: Collection[int]) -> None:
        """Look at once whether the steps of these flows are still this worker's."""
        if any(held.head.id in flow_ids for held in self._held.values()):
            self._doubt.set()

    # --- its life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled, or until `drain` has ended it. Leases held when it is cancelled stay until `release`,
        or until they are over.
        """
        self._context = contextvars.copy_context()
        self._began = asyncio.get_running_loop().time()
        await self.release()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._engine.register(self)
                beat = group.create_task(self._beat())
                try:
                    await self._claim_all()
                    await self._quiet.wait()
                finally:
                    self._engine.unregister(self)
                    beat.cancel()
                    for resident in self._residents:
                        resident.cancel()
        finally:
            self._group = None
            self._loader.close()
            self._held.clear()
            self._residents.clear()
            self._resting.clear()
            self._quiet.set()

    async def drain(self, within: float = 5.0) -> None:
        """Stop gracefully: claim nothing more, let what runs end within the limit, then cancel it and give it back.

        While the database takes nothing there is nothing to wait for: what runs is left to the end of its lease.
        """
        self._draining = True
        self._bell.set()
        if self._engine.committer.trouble is not None:
            return
        if not await self._quiet_within(within):
            for held in list(self._held.values()):
                _cancel(held)
            await self._quiet_within(CANCEL_GRACE)
        await self.release()

    async def _quiet_within(self, limit: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._quiet.wait()
        return self._quiet.is_set()

    async def release(self) -> int:
        """Give back all that this worker id holds, at once; how many steps. A supervisor calls it after a crash."""
        return await self._engine.committer.commit(Release(self.lease.worker))

    # --- claiming --------------------------------------------------------------------------------------------

    async def _claim_all(self) -> None:
        while not self._draining:
            self._bell.clear()
            pause = self._engine.poll_interval
            room = min(self.free, LARGEST_CLAIM)
            if room > 0:
                pause = await self._claim(room)
            if pause:
                await _until(self._bell, pause)

    async def _claim(self, room: int) -> float:
        """Claim and begin; how long to rest after it."""
        self.reserve(room)
        self._claiming = True
        self._quiet.clear()
        try:
            claimed = await self._engine.committer.commit(Claim(self.lease, room, self._engine.ageing, self._after))
            self._after = claimed.after
            self._engine.told_time(claimed.now)
            if self._draining:
                steps = tuple(step.id for step in claimed.steps)
                await self._engine.committer.commit(Release(self.lease.worker, steps))
                return 0.0
        finally:
            self.reserve(-room)
            self._claiming = False
            self._freed()
        await self._begin(claimed)
        return self._pause(claimed, room)

    def _pause(self, claimed: Claimed, room: int) -> float:
        if len(claimed.steps) == room and self.free > 0:
            return 0.0
        if claimed.next_due is None or self.free <= 0:
            return self._engine.poll_interval
        # A moment more, so that the database's clock has passed the time by then.
        return min(self._engine.poll_interval, claimed.next_due + 0.001)

    async def _begin(self, claimed: Claimed) -> None:
        await checkpoint("foreman.claim.after", worker=self.lease.worker, count=len(claimed.steps))
        heads: dict[int, Head] = {}
        unread = [row.id for row in claimed.steps if row.state is None]
        materials = await self._loader.materials(unread) if unread else {}
        for row in claimed.steps:
            flow = claimed.flows[row.flow_id]
            try:
                if row.flow_id not in heads:
                    heads[row.flow_id] = await self._loader.head(flow)
                held = Held.claimed(heads[row.flow_id], self._engine.store.shard, row, claimed.now)
            except UNREADABLE as error:
                # Nobody else could read it either: its branch or flow fails, and this worker goes on with the others.
                graph = await self._loader.graph_if_readable(flow)
                await self._engine.committer.commit(unreadable(row, self._engine.store.shard, graph, error))
                continue
            held.material = materials.get(row.id)
            if row.lost_leases >= OFTEN:
                observe.emit("step.lost", flow=held.head.correlation_id, node=row.node, lost=row.lost_leases)
            self.take(held)

    # --- leases ----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Extend the leases of all that runs, three times a lease. What is no longer ours is ended."""
        while True:
            await _until(self._doubt, self.lease.seconds / 3)
            self._doubt.clear()
            mine = list(self._held.values())
            if mine:
                pairs = tuple((held.step_id, held.lease_number) for held in mine)
                still = await self._engine.committer.commit(Extend(self.lease, pairs))
                for held in mine:
                    if held.step_id not in still:
                        _cancel(held)

    # --- running ---------------------------------------------------------------------------------------------

    async def _reside(self, first: Held) -> None:
        held: Held | None = first
        while True:
            held = await self._run_one(held) if held is not None else None
            if held is None and self._ready:
                held = self._ready.popleft()
            if held is None:
                future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
                self._resting.append(future)
                held = await future

    async def _run_one(self, held: Held) -> Held | None:
        """Run a step and settle it; the step to go on with, if this worker was handed one."""
        following: list[Held] = []
        try:
            plan = await self._run(held)
            if plan is not None:
                following = await self._carry_out(held, plan)
            if held.flow_ended or held.given_up:
                following = _still_wanted(held, following)
        finally:
            if self._held.get(held.step_id) is held:
                del self._held[held.step_id]
            if not following:
                self._freed()
        for other in following[1:]:
            self.take(other)
        if following:
            self._held[following[0].step_id] = following[0]
            return following[0]
        return None

    def _freed(self) -> None:
        if not self._held and not self._claiming:
            self._quiet.set()
        if self._engine.committer.best_due is not None:
            self._bell.set()

    async def _run(self, held: Held) -> Plan | None:
        """Run the task; what follows from that. None where it does not count, or is settled already."""
        flow = await self._load(held)
        if flow is None:
            return None
        head = held.head
        with observe.span(
            "step", held.node, parent=head.trace_parent, flow=head.correlation_id, workflow=head.workflow,
            attempt=held.attempt,
        ) as seen:  # fmt: skip
            if any_armed():
                await checkpoint(
                    "foreman.execute.before", node=held.node, worker=self.lease.worker, attempt=held.attempt
                )
            if held.cancelled:
                return None
            error = await execute(self._engine.host, held, flow)
            if any_armed():
                await checkpoint(
                    "foreman.execute.after", node=held.node, worker=self.lease.worker, attempt=held.attempt
                )
            if held.cancelled:
                seen["ended"] = "cancelled"
                return None
            if was_refused(error) and (pause := _until_offered_again(held, self._worked_for())):
                seen["ended"] = "refused"
                await self._settle(held, None, postponed(held, pause))
                return None
            plan = self._decide(held, flow, error)
            seen["ended"] = plan.kind
            if plan.error is not None and isinstance(seen, observe.Span):
                seen.error = plan.error
        return plan

    def _worked_for(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def _load(self, held: Held) -> Flow | None:
        """What the task is to see. The input of a step that was not handed over in memory is folded first. None where
        there is nothing left to run.
        """
        try:
            if held.state is None:
                material = held.material or await self._loader.material(held.step_id)
                if material is None:
                    return None
                load(held, material)
                if any_armed():
                    await checkpoint(
                        "foreman.load.after", node=held.node, worker=self.lease.worker, held=held, material=material
                    )
            return carrier(held)
        except UNREADABLE as error:  # a reducer that refuses, or a value that cannot be read
            lacking = isinstance(error, ReducerError) and not all(map(is_known, held.head.graph.reducers.values()))
            if lacking and (pause := _until_offered_again(held, self._worked_for())):
                # Another process has the code of it, where a new version is just being deployed.
                await self._settle(held, None, postponed(held, pause))
            else:
                await self._settle(held, None, failed(held, fail(error, held.before)))
            return None

    def _decide(self, held: Held, flow: Flow, error: BaseException | None) -> Plan:
        trace_id = "" if error is None else _trace_id(held)
        run = Run(finish(flow, error), flow.changes, held.before, flow.signals, trace_id)
        return decide(held.head.graph, held.node, in_cohort=held.spawn_id is not None, state=held.state or {}, run=run)

    async def _carry_out(self, held: Held, plan: Plan) -> list[Held]:
        child = None
        if plan.park is not None and plan.park.kind == "subgraph":
            try:
                child = await self._loader.child(held, plan)
            except MbactorError as error:
                # Nothing is repeated where the graph, which is only read, is asked for again.
                again = was_refused(error) or error.taken == "unknown"
                if again and (pause := _until_offered_again(held, self._worked_for())):
                    return await self._settle(held, None, postponed(held, pause))
                plan = fail(error, held.before)
        kept = self._kept(held, plan)
        more = max(0, kept - 1)
        self.reserve(more)
        try:
            return await self._settle(held, plan, settlement(held, plan, HandOff(self.lease, kept), child))
        except Unstorable as error:
            # Written again without what the run produced: that is what the database refuses.
            return await self._settle(held, None, failed(held, fail(error, held.before)))
        finally:
            self.reserve(-more)

    async def _settle(self, held: Held, plan: Plan | None, one: Settle) -> list[Held]:
        if any_armed():
            await checkpoint("foreman.settle.before", node=held.node, worker=self.lease.worker, status=one.status)
        settled = await self._engine.committer.commit(one)
        if any_armed():
            await checkpoint("foreman.settle.after", node=held.node, worker=self.lease.worker, landed=settled.landed)
        if one.delay:
            self._engine.ring_after(one.delay)
        if one.child is not None and settled.inserted:
            flow = f"{self._engine.store.shard}-{settled.inserted[0].flow_id}"
            observe.emit("flow.started", flow=flow, workflow=one.child.workflow)
        if not settled.landed or plan is None:
            return []
        return successors(held, plan, settled.inserted, self._engine.store.shard, settled.now)

    def _competes(self, best: int, priority: int) -> bool:
        """Whether what waits may come before this, though it is not more urgent."""
        return best == priority or self._engine.ageing is not None

    def _had_its_turn(self, held: Held) -> bool:
        now = asyncio.get_running_loop().time()
        if held.claimed_at is None:
            held.claimed_at = now
        return held.streak >= MOST_IN_A_ROW or now - held.claimed_at >= LONGEST_TURN

    def _kept(self, held: Held, plan: Plan) -> int:
        """How many of the steps that follow this worker keeps. Its own place is one of them."""
        best, priority = self._engine.committer.best_due, held.head.priority
        if self._draining or plan.delay or plan.kind in {"complete", "fail", "retry", "park"}:
            return 0
        if best is not None and (best < priority or (self._competes(best, priority) and self._had_its_turn(held))):
            return 0
        if plan.kind != "fan_out":
            return 1
        return min(len(plan.targets), plan.at_once or len(plan.targets), 1 + max(0, self.free))


def _trace_id(held: Held) -> str:
    """Of the span at hand; where nobody listens, of the flow, whose trace passes through."""
    trace = observe.parse_traceparent(observe.traceparent() or held.head.trace_parent or "")
    return "" if trace is None else trace[0]


async def _until(bell: asyncio.Event, pause: float) -> None:
    """Wait until it rings, at most so long; it has rung then."""
    if not bell.is_set():
        timer = asyncio.get_running_loop().call_later(pause, bell.set)
        try:
            await bell.wait()
        finally:
            timer.cancel()


def _still_wanted(held: Held, following: list[Held]) -> list[Held]:
    """Of what was handed over as a step settled, what has not been cancelled or given up meanwhile."""
    return [] if held.flow_ended else [one for one in following if one.step_id not in held.given_up]


def _until_offered_again(held: Held, worked_for: float) -> float:
    """In how many seconds a step that was not taken is due again; 0 where its time budget has been spent on that.

    Nothing is offered while no worker is up, so a time in which none was does not count: a tree that starts again,
    the Foreman before the actors, would fail what an hour ago was refused once.
    """
    budget = budget_of(held)
    return budget / 8 if min(held.refused_for, worked_for) < budget else 0.0


def _cancel(held: Held) -> None:
    if not held.cancelled:
        held.cancelled = True
        if held.executing is not None:
            held.executing.cancel()
