"""Children of one class that cannot run in one system. Pure.

    for clash in clashes(spec, where):
        print("/".join(clash.ids), clash.field, clash.text)

Each class of supervisor says itself what two of it must have in common (`Supervisor.clash`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mbactor.supervisor.partition import PartitionSupervisor
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology.lints import Lint, spec_of

Ids = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A supervisor of a tree; `several` are made of its specification."""

    ids: Ids
    cls: type[Supervisor]
    args: Mapping[str, Any]
    several: bool


def clashes(root: SupervisorSpec, where: Callable[[Ids], str]) -> Iterator[Lint]:
    """What clashes with the first of its class in the tree, or with itself; `where` tells a child by its ids."""
    first: dict[type, _Found] = {}
    for one in _supervisors(root, (), several=False):
        cls = one.cls
        other = first.setdefault(cls, one)
        if other is one and not one.several:
            continue
        place = where(other.ids)
        told = "beside it, made of the same lines," if place == where(one.ids) else f"at {place}"
        clash = cls.clash(one.args, other.args, told)
        if clash is not None:
            yield Lint(one.ids, *clash)


def _supervisors(spec: SupervisorSpec, ids: Ids, *, several: bool) -> Iterator[_Found]:
    for child in spec.children:
        yield from _of_child(child, (*ids, child.id), several=several)


def _of_child(child: ChildSpec, ids: Ids, *, several: bool) -> Iterator[_Found]:
    if child.kind != "supervisor":
        return
    several = several or child.replicas > 1
    inner = spec_of(child)
    alike = child.args.get("child")
    if issubclass(child.target, PartitionSupervisor) and isinstance(alike, ChildSpec):
        yield from _of_child(alike, (*ids, alike.id), several=several or child.args.get("partitions", 1) > 1)
    elif inner is not None:
        yield from _supervisors(inner, ids, several=several)
    elif issubclass(child.target, Supervisor):
        yield _Found(ids, child.target, child.args, several)
