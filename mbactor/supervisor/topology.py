"""The topology file: a tree declared in YAML, read into specifications.

    topology = load("shop.yaml", environ)
    root = Supervisor.from_spec(topology.supervisor)

Reading imports the classes and checks everything that can be known without starting anything. `TopologyError`
lists every fault of the file and of those it includes, each with file, line, column and path of keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbactor.errors import InvalidSpec, MbactorError
from mbactor.supervisor.spec import SupervisorSpec
from mbactor.supervisor.topology_children import ChildrenReader, supervisor_options
from mbactor.supervisor.topology_classes import look_in
from mbactor.supervisor.topology_fields import Section, described
from mbactor.supervisor.topology_schema import schema
from mbactor.supervisor.yaml_positions import Problems, Table, read

__all__ = ["Topology", "TopologyError", "load", "schema"]


class TopologyError(MbactorError):
    """A topology file is faulty. `problems` lists every fault as `file:line:column: path.of.keys: what is wrong`."""

    def __init__(self, file: str, problems: list[str]) -> None:
        count = "one fault" if len(problems) == 1 else f"{len(problems)} faults"
        listed = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"topology {file}: {count}{listed}", file=file, problems=problems)
        self.file = file
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Topology:
    """What a topology file says."""

    name: str
    transport: str
    supervisor: SupervisorSpec
    file: Path
    included: tuple[Path, ...] = ()
    """The other files it was made of."""
    overlays: tuple[Path, ...] = ()
    """The files that change it for one deployment, in the order in which they do so."""


def load(path: str | Path, environ: Mapping[str, str], overlays: Sequence[str | Path] = ()) -> Topology:
    """Read and check a topology file; TopologyError lists every fault at once.

        load("shop.yaml", environ, overlays=["prod.yaml"])

    The classes are imported, with the file's folder and the working directory on the import path. Nothing is
    started and nothing is constructed.
    """
    file = Path(path)
    problems = Problems()
    look_in(file.absolute().parent, Path.cwd())
    topology = _topology(file, environ, problems)
    if topology is None or problems.found:
        raise TopologyError(str(file), problems.texts())
    return replace(topology, overlays=tuple(Path(overlay) for overlay in overlays))


def _topology(file: Path, environ: Mapping[str, str], problems: Problems) -> Topology | None:
    node = read(file, str(file), problems)
    if node is None:
        return None
    if not isinstance(node, Table):
        text = f"{described(node)} given, a mapping with `version` and `supervisor` expected"
        problems.add(node.place, "", text)
        return None
    section = Section(node, "", problems, environ)
    _version(section)
    name = section.text("name")
    transport = _transport(section)
    children = ChildrenReader(problems, environ)
    supervisor = _supervisor(section, file, children)
    section.refuse_unread()
    if supervisor is None:
        return None
    return Topology(name or file.stem, transport, supervisor, file, tuple(children.included))


def _version(section: Section) -> None:
    if not section.has("version"):
        section.entry("version")
        section.wrong(section.table.place, "version", "missing, `version: 1` expected")
        return
    given = section.text("version", "1")
    if given is not None and given != "1":
        entry = section.table.entries["version"]
        section.wrong(entry.value, "version", f"{given!r} given, 1 expected (the only version there is)")


def _transport(section: Section) -> str:
    given = section.text("transport", "local")
    if given is None or given == "local":
        return "local"
    entry = section.table.entries["transport"]
    text = f"{given!r} given, local expected"
    if given == "embedded" or given.startswith("nats://"):
        text += ": this version runs the whole tree in one process, on the local transport"
    section.wrong(entry.value, "transport", text)
    return "local"


def _supervisor(section: Section, file: Path, children: ChildrenReader) -> SupervisorSpec | None:
    inner = section.section("supervisor")
    if inner is None:
        if not section.has("supervisor"):
            section.wrong(section.table.place, "supervisor", "missing, a mapping with `children` expected")
        return None
    options = supervisor_options(inner)
    found = children.read(inner, file)
    inner.refuse_unread()
    try:
        return SupervisorSpec(**options, children=found)
    except InvalidSpec as error:
        # What has a position was reported there already.
        if not section.problems.found:
            inner.wrong(inner.table.place, "", str(error))
        return None
