"""The statuses of flows and steps, and which of them are an end.

A flow *stops* when it needs somebody (interrupted) or is over; it is *terminal* when it is over. A
terminal flow changes only through the named recovery operations.
"""

from __future__ import annotations

from typing import Literal, get_args

FlowStatus = Literal["created", "running", "interrupted", "completed", "failed", "cancelled"]
StepStatus = Literal["created", "pending", "running", "interrupted", "completed", "failed", "cancelled"]

FLOW_STATUSES: tuple[FlowStatus, ...] = get_args(FlowStatus)
STEP_STATUSES: tuple[StepStatus, ...] = get_args(StepStatus)

TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""Over, for flows and steps alike."""

STOPPED: frozenset[str] = TERMINAL | {"interrupted"}
"""What `wait` returns on: the flow is over, or waits for an answer."""

IN_FLIGHT: frozenset[str] = frozenset({"pending", "running", "interrupted"})
"""A step that may still run."""


def is_terminal(status: str) -> bool:
    return status in TERMINAL


def is_stopped(status: str) -> bool:
    return status in STOPPED
