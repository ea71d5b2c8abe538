"""The schedules that a file declares, against the workflows of the classes that it names.

wrong = judge_schedules(topology)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mbactor.cli.file import place_of
from mbactor.errors import BadRequest, did_you_mean
from mbactor.foreman.features import WorkflowReference, workflow_address
from mbactor.foreman.foreman import Foreman
from mbactor.foreman.model.schedule import Schedule
from mbactor.supervisor.topology.lints import spec_of

if TYPE_CHECKING:
    from mbactor.supervisor.spec import SupervisorSpec
    from mbactor.supervisor.topology import Topology


def judge_schedules(topology: Topology) -> list[tuple[str, str]]:
    """What is wrong with the workflows that schedules name, each with its place.

    Only hosts of the file's own classes are judged: any other may be served elsewhere.
    """
    served = _served(topology.classes)
    wrong: list[tuple[str, str]] = []
    for path, schedule in _schedules(topology.supervisor, ""):
        try:
            address = workflow_address(schedule.workflow)
        except BadRequest:
            continue  # told where the Foreman is made
        known = served.get(address.host)
        if known is not None and str(address) not in known:
            hint = did_you_mean(str(address), known) or f"; it has {', '.join(sorted(known)) or 'none'}"
            text = f"schedule {schedule.name!r}: {address.host} has no workflow {schedule.workflow}{hint}"
            wrong.append((place_of(topology.places, path) or str(topology.file), text))
    return wrong


def _served(classes: Mapping[str, type]) -> dict[str, set[str]]:
    """The URLs of the workflows at each host."""
    served: dict[str, set[str]] = {}
    for cls in classes.values():
        host: str | None = getattr(cls, "host", None)
        if host is not None:
            found = (getattr(cls, name, None) for name in dir(cls))
            served.setdefault(host, set()).update(one.url for one in found if isinstance(one, WorkflowReference))
    return served


def _schedules(spec: SupervisorSpec, above: str) -> Iterator[tuple[str, Schedule]]:
    """Each with the path of its Foreman."""
    for child in spec.children:
        path = f"{above}{child.id}"
        if issubclass(child.target, Foreman):
            given = child.args.get("schedules", ())
            yield from ((path, one) for one in given if isinstance(one, Schedule))
        elif (inner := spec_of(child)) is not None:
            yield from _schedules(inner, f"{path}/")
