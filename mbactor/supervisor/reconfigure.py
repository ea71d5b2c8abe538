"""A running supervisor that is told to supervise otherwise: the part of the restart policy that decides what follows.

Its own fields, the order and the specifications of its children become others while what runs goes on; the restarts
that were charged stay charged. What an operator has for it is `plan`.
"""

from __future__ import annotations

from msgspec.structs import replace

from mbactor.kernel.exit import NORMAL
from mbactor.supervisor.state import Adopt, ChildState, Job, Reconfigure
from mbactor.supervisor.turn import Turn


class Reconfiguring(Turn):
    """What `Reconfigure` means, once its turn has come."""

    def reconfigure(self, event: Reconfigure) -> None:
        child = self.find(event.id)
        if child is None and event.spec is None:  # it was forgotten while the call waited for its turn
            self.no_such_child(event)
            return
        if child is not None and child.held and event.unless_held:
            event = replace(event, stop=False, start=False)
        if child is not None and (event.stop or event.start):
            child = self.call_off(child)
        # One that is to be started may run by now: somebody else has started it.
        stop = child is not None and child.status == "running" and (event.stop or event.start)
        if not stop:
            self.adopt(event)
        jobs = (*((Job("stop", event.id),) if stop else ()), *((Job("start", event.id),) if event.start else ()))
        if jobs:
            self.operate("call", jobs, call=event)
        else:
            self.reply(event)

    def call_off(self, child: ChildState) -> ChildState:
        """Whatever the supervisor was about to do with this child, it is not to do any more."""
        due = child.due
        if due is not None:
            child = self.undelay(child)
        status = "stopped" if child.status == "restarting" else child.status
        child = self.update(child, status=status, awaiting=False, unjudged=None)
        self.go_on_without(due)
        return child

    def adopt(self, event: Reconfigure) -> None:
        if event.stop and not event.start and (gone := self.find(event.id)) is not None:
            self.drop(gone, gone.last_exit or NORMAL)
        if event.spec is None:
            return
        order = [child.id for child in self.children]
        known = {child.id: child for child in self.children}
        named = []
        for spec in event.spec.children:
            child = known.pop(spec.id, None)
            if child is not None:
                named.append(child if child.spec is spec else replace(child, spec=spec))
            elif event.start and spec.id == event.id:
                named.append(ChildState(spec))
        self.children = (*named, *known.values())
        regrouped = event.spec.strategy != self.spec.strategy or order != [child.id for child in self.children]
        self.spec = event.spec
        self.actions.append(Adopt(event.spec))
        if regrouped:
            self.regroup()

    def regroup(self) -> None:
        """Other children are restarted together than before: those that wait for a restart have it all the same."""
        waiting = [child for child in self.children if child.awaiting or child.status == "restarting"]
        due = max((child.due for child in waiting if child.due is not None), default=None)
        if due is None:
            return
        if self.spec.strategy == "one_for_one":
            for child in waiting:
                if child.due is None:
                    self.delay(child, due)
            return
        for child in waiting:
            if child.due is not None:
                self.undelay(child)
        leader = self.find(waiting[0].id)
        assert leader is not None
        self.delay(leader, due)

    def go_on_without(self, due: float | None) -> None:
        """The child that led a delayed restart is out of it."""
        if due is None or self.spec.strategy == "one_for_one":
            return
        # Those that were to be restarted with it still are, by the next of them.
        for other in self.children:
            if other.awaiting or other.status == "restarting":
                self.delay(other, due)
                return
