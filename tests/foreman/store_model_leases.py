"""Leases of a store's model: who gets which of the due steps, and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mbactor.foreman.model.losing import OFTEN, pause_after
from mbactor.foreman.model.rate import AHEAD, Rate, closed_up, has_gaps, may_start, reserve
from mbactor.foreman.model.shares import Waiting, shares
from mbactor.foreman.store.operations import Claim, Claimed, Extend, Recover, Release
from tests.foreman.store_model_recovery import Recovery
from tests.foreman.store_model_rows import Step


class Leases(Recovery):
    draw = 0.5
    """What is drawn for what is left of the shares, from 0 to 1."""

    # --- held ----------------------------------------------------------------------------------------------

    def _extend(self, one: Extend) -> frozenset[int]:
        held = set()
        for step_id, lease_number in one.steps:
            step = self.steps.get(step_id)
            if step is None or (step.status, step.lease_number) != ("running", lease_number):
                continue
            if step.worker == one.lease.worker:
                step.lease_expires = self.now + one.lease.seconds
                held.add(step_id)
        return frozenset(held)

    def _release(self, one: Release) -> int:
        mine = [s for s in self._leased() if s.worker == one.worker and (one.steps is None or s.id in one.steps)]
        return self._give_back(mine, lost=one.steps is None)

    def _recover(self, _: Recover) -> int:
        self._keys |= {flow.concurrency_key for flow in self.flows.values() if flow.queued and flow.concurrency_key}
        return self._give_back([s for s in self._leased() if (s.lease_expires or 0.0) <= self.now], lost=True)

    def _leased(self) -> list[Step]:
        return [s for s in self.steps.values() if s.status == "running" and s.lease_expires is not None]

    def _give_back(self, steps: list[Step], *, lost: bool) -> int:
        for step in steps:
            step.lost_leases += lost
            if lost and step.lost_leases >= OFTEN:
                step.not_before = self.now + pause_after(step.lost_leases)
            step.unused_leases += not lost
            step.status, step.lease_expires, step.worker, step.updated_at = "pending", None, None, self.now
        return len(steps)

    # --- claimed -------------------------------------------------------------------------------------------

    def _claim(self, one: Claim) -> Claimed:
        taken = self._chosen(one)
        for step in taken:
            step.status, step.worker, step.updated_at = "running", one.lease.worker, self.now
            step.lease_expires, step.lease_number = self.now + one.lease.seconds, step.lease_number + 1
        paused = [step for step in taken if not step.at_breakpoint and step.node in self._breakpoints(step.flow_id)]
        for step in paused:
            self._pause_before(step)
        for flow_id in sorted({step.flow_id for step in paused}):
            self._interrupt(flow_id)
        early = self._too_soon([step for step in taken if step not in paused])
        waits = [max(0.0, step.not_before - self.now) for step in self._pending()]
        rows: Any = tuple(step for step in taken if step not in paused and step not in early)
        flows: Any = {step.flow_id: self.flows[step.flow_id] for step in taken}
        return Claimed(rows, flows, min(waits, default=None), self.now)

    def _chosen(self, one: Claim) -> list[Step]:
        """The most urgent first; of those that are alike a share for each fairness key."""
        alike: dict[tuple[float, int], list[Step]] = defaultdict(list)
        for step in sorted(self._pending(), key=lambda step: (step.not_before, step.id)):
            if step.not_before <= self.now:
                aged = 0 if one.ageing is None else (self.now - step.not_before) // one.ageing
                alike[step.priority - aged, step.priority].append(step)
        taken: list[Step] = []
        for urgency in sorted(alike):
            chosen = self._shared(alike[urgency], one.limit - len(taken))
            taken += sorted(chosen, key=lambda step: (step.not_before, step.id))
        return taken

    def _shared(self, due: Sequence[Step], places: int) -> list[Step]:
        """So many of them, the oldest of each key; what a key has not is for the oldest of all."""
        if places <= 0:
            return []
        by_key: dict[str, list[Step]] = defaultdict(list)
        for step in due:
            by_key[step.fairness_key].append(step)
        weights = [Waiting(key, self.flows[by_key[key][0].flow_id].fairness_weight) for key in sorted(by_key)]
        parts = shares(weights, places, self.draw) if len(by_key) > 1 else {}
        taken = [step for key, count in parts.items() for step in by_key[key][:count]]
        return taken + [step for step in due if step not in taken][: places - len(taken)]

    def _too_soon(self, taken: Sequence[Step]) -> list[Step]:
        """Those for which their rate has a later time, put back until then."""
        early = []
        for step in taken:
            if not step.rate or may_start(step.slot, self.now):
                continue
            per_second = Rate.parse(step.rate.partition(" ")[0]).per_second
            (time,), free_from = reserve(self.rates.get(step.rate, 0.0), self.now, 1, per_second)
            self.rates[step.rate] = free_from
            if time > self.now + AHEAD:
                early.append(step)
                step.slot = step.not_before = time
                step.unused_leases += 1
                step.status, step.lease_expires, step.worker = "pending", None, None
        return early

    def _close_up(self) -> None:
        """Of the steps that wait for their rate, those behind others which were cancelled come sooner."""
        for name, free_from in self.rates.items():
            per_second = Rate.parse(name.partition(" ")[0]).per_second
            mine = [s for s in self._pending() if s.rate == name and s.slot == s.not_before > self.now + AHEAD]
            mine.sort(key=lambda step: (step.not_before, step.id))
            if free_from > self.now + AHEAD and has_gaps(free_from, self.now, len(mine), per_second):
                slots, self.rates[name] = closed_up([s.not_before for s in mine], free_from, self.now, per_second)
                for step, slot in zip(mine, slots, strict=True):
                    step.slot = step.not_before = slot
