"""The graphs of workflows that are code at hand: which one a text means, and whether it can run.

graph = await graph_of(reference_of("shop.credit:Credit.approval"))
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbactor.errors import BadRequest, InvalidGraph, MbactorError, error_told
from mbactor.foreman.features import WorkflowReference
from mbactor.foreman.model.graph import Graph, GraphWarning
from mbactor.supervisor.topology.classes import import_class, look_in

_GRAPH = Graph.validate.__code__.co_filename


def reference_of(text: str) -> WorkflowReference:
    """The workflow at `module:Class.workflow`; BadRequest says why there is none."""
    where, dot, name = text.rpartition(".")
    if not dot or ":" not in where:
        raise BadRequest(
            f"{text!r} given, module:Class.workflow or a URL expected, such as shop.credit:Credit.approval"
        )
    look_in(Path.cwd())
    try:
        cls = import_class(where)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    found = getattr(cls, name, None)
    if not isinstance(found, WorkflowReference):
        known = [known for known in dir(cls) if isinstance(getattr(cls, known, None), WorkflowReference)]
        raise BadRequest(f"{where} has no workflow {name!r}; it has {', '.join(known) or 'none'}")
    return found


async def graph_of(reference: WorkflowReference) -> Graph:
    """The graph that the code has now. The method is called on an object whose constructor did not run."""
    try:
        made = reference.feature.function(object.__new__(reference.owner))
        graph: Any = await made if inspect.isawaitable(made) else made
    except Exception as error:
        raise BadRequest(
            f"{reference!r} does not tell its graph without a running actor: {error_told(error)}"
        ) from error
    if not isinstance(graph, Graph):
        raise BadRequest(f"{reference!r} returned {type(graph).__name__}; a workflow returns a Graph")
    graph.validate()
    return graph


async def judge_graphs(classes: Mapping[str, type]) -> tuple[list[str], list[str]]:
    """What is wrong, and what is doubtful, with the workflows of classes that a file names.

    One that needs a running actor to tell its graph is passed over: it is judged when a flow is created. One that calls
    a method of `Graph` with what that refuses is not: an actor that runs would do the same.
    """
    wrong, doubtful = [], []
    for where, cls in classes.items():
        for name in dir(cls):
            found = getattr(cls, name, None)
            if not isinstance(found, WorkflowReference):
                continue
            doubts: list[warnings.WarningMessage] = []
            try:
                with warnings.catch_warnings(record=True) as doubts:
                    warnings.simplefilter("always", GraphWarning)
                    await graph_of(found)
            except BadRequest as error:
                refused = error.__cause__ or error
                if refused is error or _refused_by_graph(refused):
                    wrong.append(f"{where}.{name}: {_told(refused)}")
                continue
            except InvalidGraph as error:
                wrong.append(f"{where}.{name}: {error.message}")
            doubtful += [f"{where}.{name}: {one.message}" for one in doubts if issubclass(one.category, GraphWarning)]
    return wrong, doubtful


def _refused_by_graph(error: BaseException) -> bool:
    return any(frame.f_code.co_filename == _GRAPH for frame, _ in traceback.walk_tb(error.__traceback__))


def _told(error: BaseException) -> str:
    return error.message if isinstance(error, MbactorError) else error_told(error)
