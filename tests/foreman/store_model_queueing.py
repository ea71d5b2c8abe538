"""Concurrency keys and schedules of a store's model."""

from __future__ import annotations

from mbactor.foreman.store.operations import Changed, Create, Created, DropSchedule, PauseSchedule, PutSchedule, Tick
from tests.foreman.store_model_rows import Flow, Rows, Schedule


class Queueing(Rows):
    # --- concurrency -----------------------------------------------------------------------------------------

    def _begin(self, flow: Flow) -> None:
        """Start a flow, with those that it had called where steps of it run again."""
        for flow_id in self._tree(flow.id):
            one = self.flows[flow_id]
            if one.status == "created":
                self._move(one, "running")
                one.queued = False
        for step in self._steps_of(self._tree(flow.id)):
            if step.status == "created" and step.room is None:
                step.status, step.not_before = "pending", max(step.not_before, self.now)
                step.updated_at = self.now

    def _admit(self) -> None:
        for key in sorted(self._keys):
            mine = [flow for flow in self.flows.values() if flow.concurrency_key == key]
            begun = sum(flow.status in {"running", "interrupted"} for flow in mine)
            for flow in sorted((one for one in mine if one.queued and one.status == "created"), key=lambda one: one.id):
                if begun >= flow.concurrency_limit:
                    break
                self._begin(flow)
                begun += 1

    # --- schedules -------------------------------------------------------------------------------------------

    def _put(self, one: PutSchedule) -> int:
        known = self.schedules.get(one.name)
        if known is None:
            self.schedules[one.name] = Schedule(one.spec, self.now)
            return 1
        changed = known.spec != one.spec
        known.spec = one.spec
        return int(changed)

    def _drop(self, one: DropSchedule) -> int:
        return int(self.schedules.pop(one.name, None) is not None)

    def _pause(self, one: PauseSchedule) -> int:
        known = self.schedules.get(one.name)
        if known is None:
            return 0
        if known.paused and not one.paused:
            known.last_tick = self.now
        known.paused = one.paused
        return 1

    def _tick(self, one: Tick) -> Created | Changed:
        known = self.schedules.get(one.name)
        if known is None or known.paused or (known.spec, known.last_tick) != (one.spec, one.last_tick):
            return Changed(False, "running", (), "the schedule has changed, or another Foreman was quicker")
        known.last_tick = one.tick
        return Changed(True, "running") if one.create is None else self._create(one.create)

    def _create(self, one: Create) -> Created:
        raise NotImplementedError
