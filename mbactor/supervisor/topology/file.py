"""What a topology file says, and where it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mbactor.errors import InvalidSpec, MbactorError, did_you_mean
from mbactor.supervisor.spec import SupervisorSpec, has_controls
from mbactor.supervisor.topology.children import Ids, TreeReader, nearest
from mbactor.supervisor.topology.clashes import clashes
from mbactor.supervisor.topology.classes import look_in
from mbactor.supervisor.topology.fields import Section
from mbactor.supervisor.topology.files import Files
from mbactor.supervisor.topology.interpolation import Sources
from mbactor.supervisor.topology.kinds import Kinds
from mbactor.supervisor.topology.lints import lints
from mbactor.supervisor.topology.merge import Overlays, Templates, merged_templates
from mbactor.supervisor.topology.render import resolved
from mbactor.supervisor.topology.yaml_positions import Place, Problems, Table
from mbactor.transport.locality import check_locality
from mbactor.transport.nats_url import broker_of, is_broker
from mbactor.transport.reassembly import MAX_BODY
from mbactor.transport.requester import ACK_WINDOW

_TRANSPORTS = "local, embedded or nats://host:port"


class TopologyError(MbactorError):
    """A topology file is faulty. `problems` lists every fault as `file:line:column: path.of.keys: what is wrong`."""

    def __init__(self, file: str, problems: list[str]) -> None:
        count = "one fault" if len(problems) == 1 else f"{len(problems)} faults"
        listed = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"topology {file}: {count}{listed}", file=file, problems=problems)
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
    warnings: tuple[tuple[str, str], ...] = ()
    """What is allowed and hardly meant: (`file:line:column`, `path.of.keys: what may go wrong`)."""
    classes: Mapping[str, type] = field(kw_only=True, compare=False, repr=False, default_factory=dict)
    """The classes that it names, as it names them: `schema(classes=topology.classes)`."""
    locality: str = ""
    """Where it runs: its actors are reached there, and ask the nearest."""
    ack_window: float = ACK_WINDOW
    """Seconds within which an ask over a broker is answered or acknowledged."""
    max_body: int = MAX_BODY
    """Bytes that arguments and results may have that travel to other systems."""
    coalesce: bool = True
    """Whether messages that leave for one address within one turn of the loop travel together."""
    places: Mapping[Ids, str] = field(kw_only=True, compare=False, repr=False, default_factory=dict)
    """Where each child stands, as `file:line:column`, by the ids from below the root down to its own."""
    document: Table = field(kw_only=True, compare=False, repr=False)
    """The file as it was read, with all that belongs to it worked in: `as_yaml(topology.document)`."""


def load(
    path: str | Path, environ: Mapping[str, str], overlays: Sequence[str | Path] = (), *, content: bytes | None = None
) -> Topology:
    """Read and check a topology file; TopologyError lists every fault at once.

        load("shop.yaml", environ, overlays=["prod.yaml"])

    Each overlay changes what it names: a child by its id, anything else by its key. The classes are imported, with the
    file's folder and the working directory on the import path. Nothing is started and nothing is constructed. `content`
    is what the file has, where it has been read already, as stdin has to be.
    """
    file = Path(path)
    problems = Problems()
    look_in(file.absolute().parent, Path.cwd())
    given = {} if content is None else {file: content}
    try:
        topology = _Reader(problems, environ, given).topology(file, tuple(Path(overlay) for overlay in overlays))
    except RecursionError:
        raise TopologyError(str(file), [f"{file}:1:1: the file is nested too deeply"]) from None
    if topology is None or problems.found:
        raise TopologyError(str(file), problems.texts())
    return topology


class _Reader:
    def __init__(self, problems: Problems, environ: Mapping[str, str], given: Mapping[Path, bytes]) -> None:
        self.given = given
        self.problems = problems
        self.warnings = Problems()
        self.sources = Sources(environ)
        self.kinds = Kinds()

    def topology(self, file: Path, overlays: tuple[Path, ...]) -> Topology | None:
        files = Files(self.problems, self.sources, self.kinds, self.given)
        document, *changes = [files.document(one) for one in (file, *overlays)]
        if document is None:
            return None
        overs = [change for change in changes if change is not None]
        templates = Templates(merged_templates([document, *overs]), self.problems, self.sources)
        table = document.table
        for over in overs:
            table = Overlays(templates, self.kinds).file(table, over.table)
        table = _with_templates(table, templates)
        for unused in templates.unused():
            self.warnings.add(unused.key.place, "no child is made of this template")
        section = Section(table, self.problems, self.sources)
        _version(section)
        name, transport = _name(section), _transport(section)
        locality, ack_window = _locality(section), _ack_window(section)
        max_body, coalesce = section.whole("max_body", least=1), section.boolean("coalesce")
        found = self._supervisor(section)
        section.entry("templates")
        section.refuse_unread()
        if found is None or self.problems.found:
            return None
        supervisor, places = found
        name = name or file.stem.strip("<>")
        return Topology(
            name,
            transport,
            supervisor,
            file,
            tuple(files.included),
            overlays,
            tuple((str(place), text) for place, text in self.warnings.sorted()),
            classes=self.kinds.classes,
            locality=locality,
            ack_window=ack_window,
            max_body=MAX_BODY if max_body is None else max_body,
            coalesce=coalesce is not False,
            places=places,
            document=resolved(table, name, self.kinds, self.sources.environ),
        )

    def _supervisor(self, section: Section) -> tuple[SupervisorSpec, dict[Ids, str]] | None:
        """With the places of its children."""
        inner = section.section("supervisor")
        if inner is None:
            if not section.has("supervisor"):
                section.wrong_at("supervisor", "missing, a mapping with `children` expected")
            return None
        reader = TreeReader(self.problems, self.sources, self.kinds)
        spec = reader.supervisor(inner, ())
        inner.refuse_unread()
        if spec is None or self.problems.found:
            return None
        tables = reader.tables
        for clash in clashes(spec, lambda ids: str(tables[nearest(tables, ids)].place)):
            self.problems.add(_place_of(tables[nearest(tables, clash.ids)], clash.field), clash.text)
        for lint in lints(spec):
            self.warnings.add(_place_of(tables[nearest(tables, lint.ids)], lint.field), lint.text)
        return spec, {ids: str(table.place) for ids, table in tables.items()}


def _place_of(child: Table, field: str) -> Place:
    """Where a field of a child stands, or one of its arguments; else the child."""
    inner = [entry.value for entry in child.entries.values() if isinstance(entry.value, Table)]
    entry = next((table.entries[field] for table in (child, *inner) if field in table.entries), None)
    return child.place if entry is None else entry.value.place


def _with_templates(table: Table, templates: Templates) -> Table:
    entry = table.entries.get("supervisor")
    if entry is None or not isinstance(entry.value, Table):
        return table
    whole = replace(entry, value=templates.in_children(entry.value))
    return Table({**table.entries, "supervisor": whole}, table.place)


def _version(section: Section) -> None:
    given = section.text("version", "1")
    if not section.has("version"):
        section.wrong_at("version", "missing, `version: 1` expected")
    elif given is not None and given != "1":
        section.wrong_at("version", f"{given!r} given, 1 expected (the only version there is)")


def _locality(section: Section) -> str:
    given = section.text("locality", "a place such as eu-west-b-1") or ""
    if given:
        try:
            check_locality(given)
        except InvalidSpec as error:
            section.wrong_at("locality", str(error).removeprefix("locality: "))
    return given


def _ack_window(section: Section) -> float:
    given = section.duration("ack_window")
    if given == 0:
        section.wrong_at("ack_window", "0 given, a duration above 0 expected")
    return ACK_WINDOW if given is None else given


def _name(section: Section) -> str | None:
    name = section.text("name")
    if name is not None and ("/" in name or has_controls(name)):
        section.wrong_at("name", f"{name!r} given, a text without slashes and control characters expected")
    return name


def _transport(section: Section) -> str:
    section.entry("transport")  # looked at where secrets are known, for a URL may hold a password
    scalar = Section(section.table, section.problems, replace(section.sources, secrets=True)).scalar(
        "transport", _TRANSPORTS
    )
    given = "local" if scalar is None or not scalar.text else scalar.text
    if is_broker(given):
        try:
            broker_of(given)
        except InvalidSpec as error:
            section.refused(error)
    elif given not in {"local", "embedded"}:
        meant = did_you_mean(given, ("local", "embedded"))
        section.wrong_at("transport", f"{given!r} given, {_TRANSPORTS} expected{meant}")
    return given
