"""All the engine knows of the outside world: where graphs come from, and how a task is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph


class Host(Protocol):
    """What the engine runs over. Both methods are called concurrently."""

    async def load_graph(self, workflow: str, baggage: Mapping[str, Any]) -> Graph:
        """The graph of the workflow at this URL. Its error is the error of whoever creates the flow."""
        ...

    async def execute_task(self, task_url: str, flow: Flow, time_budget: float) -> None:
        """Run the task once: it reads and changes `flow` and sets its signals.

        Raises what the task raised, `Parked` included. `time_budget` is in seconds, and it is the host that keeps
        it, from the moment the task starts: when it is spent the call must end, with `BudgetSpent`. `NoSuchActor`,
        `Unavailable` or `ActorStopped` with `taken == "no"` say that the task was certainly not taken: then the step
        is offered again later. A task that did run must not raise those with "no".
        """
