"""The database that a command works on, and how its errors end the command.

    code = operate(Where(database="sqlite:///flows.db"), lambda shards: show(shards, key))

Exit codes: 1 the database does not answer, 2 what was given cannot be, 4 refused as things stand (no such flow, its
status does not allow it). No message shows a password.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from mbactor import observe
from mbactor.cli.file import load
from mbactor.durations import seconds
from mbactor.errors import InvalidSpec, MbactorError, ReducerError, Unavailable
from mbactor.foreman.committer import Trouble
from mbactor.foreman.engine import Engine
from mbactor.foreman.foreman import Foreman
from mbactor.foreman.host import Host
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.outcome import DEFAULT_TIME_BUDGET
from mbactor.foreman.model.reducers import UNKNOWN
from mbactor.foreman.roll import Roll
from mbactor.foreman.shards import Member, Shards
from mbactor.foreman.store.late import LateStore
from mbactor.foreman.store.open import is_numbered, is_there, shown_database, url_of_shard
from mbactor.foreman.store.store import Store, StoreTrouble
from mbactor.observers import LogObserver
from mbactor.supervisor.spec import ChildSpec
from mbactor.supervisor.topology.lints import spec_of

if TYPE_CHECKING:
    from mbactor.supervisor.topology import Topology

FAILED, WRONG, REFUSED = 1, 2, 4
_NO_ROLL = (
    "shard 1 keeps the roll of the shards; to see those that are up without it: -f FILE, which says how many there are"
)
IMPORTS = "with -f FILE this command imports those of all actors in it"
_EXPECTED = "--database URL (or the variable MBACTOR_DATABASE), or -f FILE, a topology file with a Foreman"


@dataclass(frozen=True, slots=True)
class Database:
    """Where flows are kept, and the time budget of a task where neither its graph nor its flow says one."""

    url: str
    shards: int = 1
    time_budget: float = DEFAULT_TIME_BUDGET


@dataclass(frozen=True, slots=True)
class Where:
    """Which database: its URL, or the topology file whose Foreman says it."""

    database: str | None = None
    file: Path | None = None
    overlays: tuple[Path, ...] = ()

    def topology(self) -> Topology | None:
        """What the file says, where there is one."""
        return None if self.file is None else load(self.file, self.overlays)

    def database_of(self) -> Database:
        """What the command line or the file says of it. InvalidSpec where nothing does, or it is out of reach."""
        topology = self.topology()
        if topology is None:
            if self.database is None:
                raise InvalidSpec(f"which database? Give {_EXPECTED}")
            return Database(self.database)
        found = list(_foremen(topology.supervisor.children))
        if not found:
            raise InvalidSpec(f"{self.file} has no Foreman; give {_EXPECTED}")
        url = str(found[0].get("database", "sqlite://"))
        if url == "sqlite://":
            raise InvalidSpec(f"the Foreman of {self.file} keeps its flows in memory, where only its process sees them")
        budget = seconds(found[0].get("default_time_budget", DEFAULT_TIME_BUDGET))
        return Database(url, int(found[0].get("shards", 1)), budget)


def _foremen(children: Iterable[ChildSpec]) -> Iterator[Mapping[str, Any]]:
    """The arguments of each Foreman, in nested supervisors too; all have the same database."""
    for child in children:
        if issubclass(child.target, Foreman):
            yield child.args
        elif (inner := spec_of(child)) is not None:
            yield from _foremen(inner.children)


def operate(where: Where, work: Callable[[Shards], Awaitable[int]], host: Host | None = None) -> int:
    """Do the work over the database; the exit code, also of what fails, which is told. The `host` has the graphs of
    flows that are created.
    """
    return operate_roll(where, lambda shards, _: work(shards), host)


def operate_roll(where: Where, work: Callable[[Shards, Roll], Awaitable[int]], host: Host | None = None) -> int:
    """The same for what changes which shards there are."""
    try:
        with observe.observing(_Teller()):
            return asyncio.run(_with_shards(where.database_of(), work, host or _NoHost()))
    except KeyboardInterrupt:
        return 130
    except MbactorError as error:
        # The names of reducers stand in graphs and databases; the functions are only where their modules are imported.
        advice = [IMPORTS] if where.file is None and UNKNOWN in error.message else []
        tell_error("; ".join([error.message, *getattr(error, "__notes__", ()), *advice]))
        if isinstance(error, InvalidSpec | ReducerError) or error.status == 400:
            return WRONG
        return REFUSED if error.status in {404, 409} else FAILED


async def _with_shards(database: Database, work: Callable[[Shards, Roll], Awaitable[int]], host: Host) -> int:
    await _check_used(database)
    shards = Shards()
    roll = Roll(shards, database.url, 0.0, _not_begun, _end)
    await roll.open(database.shards)
    try:
        for member in shards.members.values():
            store = cast("Store", member.store)
            member.engine = Engine(store, host, default_time_budget=database.time_budget)
            if isinstance(member.store, LateStore):
                member.engine.committer.trouble = Trouble(str(member.store.why), -math.inf)
        return await work(shards, roll)
    finally:
        for member in list(shards.members.values()):
            await _end(member)


async def _check_used(database: Database) -> None:
    """InvalidSpec where no Foreman has used the database; of several shards the first that answers says so."""
    for number in range(1, database.shards + 1):
        url = url_of_shard(database.url, number)
        try:
            used = await is_there(url)
        except StoreTrouble as error:
            if number < database.shards:
                continue
            if database.shards == 1 and is_numbered(database.url):
                error.add_note(_NO_ROLL)
            raise
        if not used:
            raise InvalidSpec(f"{shown_database(url)} has no flows: no Foreman has used it (working in {Path.cwd()})")
        return


async def _not_begun(_: Member) -> None:
    """No part of a tree is started for a shard."""


async def _end(member: Member) -> None:
    """Close what was opened of a shard."""
    engine, member.engine = member.engine, None
    if engine is not None:
        await engine.close()
    store, member.store = member.store, None
    if store is not None:
        await store.close()


class _NoHost:
    """Here are neither workflows nor tasks."""

    async def load_graph(self, workflow: str, baggage: Mapping[str, Any]) -> Graph:  # noqa: ARG002
        raise Unavailable(f"{workflow} cannot be asked for its graph here: no actor runs in this command")

    async def execute_task(self, task_url: str, flow: Flow, time_budget: float) -> None:  # noqa: ARG002
        raise Unavailable(f"{task_url} cannot be run here: no actor runs in this command")


class _Teller:
    """Tells of what the engine finds as a command does, and of anything else as a log does."""

    wants_spans = False

    def __init__(self) -> None:
        self._log = LogObserver(sys.stderr, level="warning")
        self._trouble = ""

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "foreman.doubtful":
            tell_warning(f"graph {fields['graph']!r}: {fields['text']}")
        elif name != "foreman.trouble":
            self._log.on_event(name, fields)
        elif self._trouble != (error := str(fields["error"])):
            self._trouble = error
            tell_warning(error)

    def on_start(self, span: observe.Span) -> None: ...
    def on_end(self, span: observe.Span) -> None: ...


def tell_error(text: str) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)


def tell_warning(text: str) -> None:
    click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)
