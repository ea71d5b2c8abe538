"""Durable workflows through the same actors.

`model/` is pure: graphs, state, reducers, the carrier. `plan.py` decides what follows a step, also pure. `store/`
keeps rows with leases; `committer.py` writes many outcomes in one transaction. `engine.py` is every operation on
flows, `dispatcher.py` claims and runs steps, `cohort.py` keeps what the branches of a fan-out wrote while one worker
runs them all, so that the fan-in need not read it, `sweep.py` recovers, `shards.py` finds the engine of a flow,
`roll.py` knows which shards there are. None of these knows of actors: they reach tasks through the two-method `Host`.
`features.py`, `worker.py`, `shard.py`, `api.py` and `foreman.py` put them into the tree.

This door loads what a task author needs, and no database driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbactor.errors import FlowConflict, FlowNotFound, InvalidGraph, InvalidKey, InvalidState
    from mbactor.foreman.client import Filters, Flows
    from mbactor.foreman.features import task, workflow
    from mbactor.foreman.foreman import Foreman
    from mbactor.foreman.model.flow import Flow, Parked
    from mbactor.foreman.model.graph import END, Graph
    from mbactor.foreman.model.join import Join
    from mbactor.foreman.model.outcome import (
        FlowOptions,
        FlowOutcome,
        FlowPage,
        FlowSummary,
        ShardInfo,
        StepRecord,
        Subflow,
    )
    from mbactor.foreman.model.reducers import Reducer, reducer
    from mbactor.foreman.model.schedule import Schedule

__all__ = [
    "END",
    "Filters",
    "Flow",
    "FlowConflict",
    "FlowNotFound",
    "FlowOptions",
    "FlowOutcome",
    "FlowPage",
    "FlowSummary",
    "Flows",
    "Foreman",
    "Graph",
    "InvalidGraph",
    "InvalidKey",
    "InvalidState",
    "Join",
    "Parked",
    "Reducer",
    "Schedule",
    "ShardInfo",
    "StepRecord",
    "Subflow",
    "reducer",
    "task",
    "workflow",
]

_HOME = {
    "END": "mbactor.foreman.model.graph",
    "Filters": "mbactor.foreman.client",
    "Flow": "mbactor.foreman.model.flow",
    "FlowConflict": "mbactor.errors",
    "FlowNotFound": "mbactor.errors",
    "FlowOptions": "mbactor.foreman.model.outcome",
    "FlowOutcome": "mbactor.foreman.model.outcome",
    "FlowPage": "mbactor.foreman.model.outcome",
    "FlowSummary": "mbactor.foreman.model.outcome",
    "Flows": "mbactor.foreman.client",
    "Foreman": "mbactor.foreman.foreman",
    "Graph": "mbactor.foreman.model.graph",
    "InvalidGraph": "mbactor.errors",
    "InvalidKey": "mbactor.errors",
    "InvalidState": "mbactor.errors",
    "Join": "mbactor.foreman.model.join",
    "Parked": "mbactor.foreman.model.flow",
    "Reducer": "mbactor.foreman.model.reducers",
    "Schedule": "mbactor.foreman.model.schedule",
    "ShardInfo": "mbactor.foreman.model.outcome",
    "StepRecord": "mbactor.foreman.model.outcome",
    "Subflow": "mbactor.foreman.model.outcome",
    "reducer": "mbactor.foreman.model.reducers",
    "task": "mbactor.foreman.features",
    "workflow": "mbactor.foreman.features",
}


if not TYPE_CHECKING:  # a checker would take any name to be there

    def __getattr__(name: str) -> Any:
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module 'mbactor.foreman' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(home), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted([*globals(), *_HOME])
