"""What stands for a node or a workflow where a graph is built: a name, a URL, or a reference to a method.

name_of("decide") == "decide"
name_of(Credit.decide) == "decide"
url_of(Credit.decide) == "https://credit.example:428/decide"
"""

from __future__ import annotations

from typing import Any, Protocol


class NodeReference(Protocol):
    """What stands for a task where a node is named, such as `Credit.verify_credit`.

    A reference may also have `result_fields`, a mapping of the fields its task writes to their annotations;
    `warnings()` reads it, and building does not.
    """

    @property
    def node_name(self) -> str: ...

    @property
    def url(self) -> str: ...


class WorkflowReference(Protocol):
    """What stands for a workflow, such as `Credit.approval`."""

    @property
    def url(self) -> str: ...


AnyNode = str | NodeReference


def stands_for_task(given: object) -> bool:
    """Whether it is a `NodeReference`. A graph is built for each flow, and `isinstance` of a protocol is slow."""
    return hasattr(given, "node_name")


def name_of(node: AnyNode) -> str:
    """The name of the node that is meant; TypeError says what could stand for one."""
    name = node if isinstance(node, str) else getattr(node, "node_name", None)
    if not isinstance(name, str):
        if hasattr(node, "url"):
            raise TypeError(
                f"{node!r} is no task; make a workflow a node with add_subgraph(name, {node!r}) and use that name,"
                " and decorate with @task what is an endpoint"
            )
        raise TypeError(f"a node is named by a string or a task reference such as Credit.verify_credit, got {node!r}")
    return name


def url_of(target: Any) -> str:
    """The URL of the task or workflow that is meant."""
    url = target if isinstance(target, str) else getattr(target, "url", None)
    if not isinstance(url, str):
        raise TypeError(f"expected a URL or a reference to a task or workflow, got {target!r}")
    return url
