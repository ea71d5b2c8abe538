"""The pure part of workflows: graphs, the carrier, reducers, statuses, outcomes. Nothing here does I/O."""

from __future__ import annotations

from mbactor.foreman.model.flow import Flow, Outcome, finish
from mbactor.foreman.model.graph import Graph, GraphWarning, NodeReference, holds
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
from mbactor.foreman.model.signals import Park, Parked, ParkRecord, Signals
from mbactor.foreman.model.state import Fields
from mbactor.foreman.model.status import FlowStatus, StepStatus
from mbactor.foreman.model.transition import END, Node, Transition

__all__ = [
    "END",
    "Fields",
    "Flow",
    "FlowOptions",
    "FlowOutcome",
    "FlowPage",
    "FlowStatus",
    "FlowSummary",
    "Graph",
    "GraphWarning",
    "Node",
    "NodeReference",
    "Outcome",
    "Park",
    "ParkRecord",
    "Parked",
    "Reducer",
    "ShardInfo",
    "Signals",
    "StepRecord",
    "StepStatus",
    "Subflow",
    "Transition",
    "finish",
    "holds",
    "reducer",
]
